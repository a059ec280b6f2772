// SPDX-License-Identifier: Apache-2.0
// Rounding lengths, and putting them back into packs of rounded ones.
#include "optimal/rounded_lengths.hpp"

#include <algorithm>
#include <limits>

#include "base/divide_up.hpp"

namespace packing {

LengthHistogram in_units(const LengthHistogram& histogram, std::int64_t unit, Round round) {
  LengthHistogram rounded(histogram.capacity() / unit);
  for (std::int64_t length = histogram.largest_at_most(histogram.capacity()); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    const std::int64_t units = round == Round::kUp ? divide_up(length, unit) : length / unit;
    // What a row has beyond whole units is of use to a segment that has the row to itself.
    if (units > 0) rounded.add(std::min(units, rounded.capacity()), histogram.count(length));
  }
  return rounded;
}

Geometry restore(const Geometry& rounded, std::int64_t unit, LengthHistogram histogram) {
  const std::int64_t most_units = histogram.capacity() / unit;
  Geometry geometry;
  for (std::int64_t pattern = 0; pattern < rounded.num_patterns(); ++pattern) {
    const auto p = static_cast<std::size_t>(pattern);
    for (std::int64_t left = rounded.repeats[p]; left > 0;) {
      OpenPack pack(histogram, geometry, std::numeric_limits<std::int64_t>::max());
      for (auto run = rounded.pattern_offsets[p]; run < rounded.pattern_offsets[p + 1]; ++run) {
        const Run& places = rounded.runs[static_cast<std::size_t>(run)];
        const std::int64_t longest =
            places.length == most_units ? histogram.capacity() : places.length * unit;
        for (std::int64_t count = places.count; count > 0;) {
          const std::int64_t length = histogram.largest_at_most(longest);
          const std::int64_t taken = std::min(count, histogram.count(length));
          pack.take(length, taken);
          count -= taken;
        }
      }
      pack.close(left);
      left -= geometry.repeats.back();
    }
  }
  return geometry;
}

}  // namespace packing
