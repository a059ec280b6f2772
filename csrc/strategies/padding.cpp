// SPDX-License-Identifier: Apache-2.0
// One segment a row: the baseline that packing is measured against.
#include <utility>

#include "strategies/strategy.hpp"

namespace packing {

PackedLengths padding(const LengthHistogram& histogram, const PlanSettings&, Monitor&) {
  LengthHistogram left = histogram;
  Geometry geometry;
  while (const std::int64_t length = left.largest_at_most(left.capacity())) {
    OpenPack pack(left, geometry, 1);
    pack.take(length);
    pack.close();
  }
  return {std::move(geometry)};
}

}  // namespace packing
