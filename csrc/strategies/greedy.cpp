// SPDX-License-Identifier: Apache-2.0
// Longest first; a row is closed at the first segment that does not fit (next-fit decreasing, the
// text of arXiv 2410.08081, section 2.3).
#include <algorithm>
#include <cstddef>
#include <utility>

#include "strategies/strategy.hpp"

namespace packing {

PackedLengths greedy(const LengthHistogram& histogram, const PlanSettings& settings, Monitor&) {
  LengthHistogram left = histogram;
  Geometry geometry;
  while (left.size() > 0) {
    OpenPack pack(left, geometry, settings.max_documents_per_pack);
    while (const std::int64_t length = left.largest_at_most(left.capacity())) {
      const std::int64_t fitting = std::min(pack.room() / length, pack.places());
      if (fitting == 0) break;
      pack.take(length, std::min(fitting, left.count(length)));
    }
    // Equal rows follow a row of one length only, and the last of that length stays open.
    const auto first = static_cast<std::size_t>(geometry.pattern_offsets.back());
    const Run& last = geometry.runs.back();
    const std::int64_t still_left = left.count(last.length);
    const bool one_length = geometry.runs.size() == first + 1;
    pack.close(one_length && still_left > 0 ? 1 + (still_left - 1) / last.count : 1);
  }
  return {std::move(geometry)};
}

}  // namespace packing
