// SPDX-License-Identifier: Apache-2.0
// Longest first, each into the first row that it fits (Johnson 1973). Filling one row at a time
// with the longest segment that still fits gives the same rows.
#include <utility>

#include "strategies/strategy.hpp"

namespace packing {

PackedLengths first_fit_decreasing(const LengthHistogram& histogram, const PlanSettings& settings,
                                   Monitor&) {
  LengthHistogram left = histogram;
  Geometry geometry;
  while (left.size() > 0) {
    OpenPack pack(left, geometry, settings.max_documents_per_pack);
    pack.fill_longest_first();
    pack.close();
  }
  return {std::move(geometry)};
}

}  // namespace packing
