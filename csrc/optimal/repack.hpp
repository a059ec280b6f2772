// SPDX-License-Identifier: Apache-2.0
// Local search that packs some rows of a plan again, to save rows.
#pragma once

#include <cstdint>
#include <vector>

#include "base/random.hpp"
#include "base/work.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

// Packs the longest first, then segments at random until the last ones can be chosen so that
// nothing is left of the row. Random choices keep lengths of every kind for the last rows, where
// exact_fit_decreasing is left with nearly equal ones. The histogram is empty afterwards: large
// ones take longer to make than to fill.
Geometry mixed_fit(LengthHistogram& histogram, std::int64_t max_segments, Random& random,
                   Work& work);

// Packs the rows with gaps, and full ones beside them, again and again by mixed_fit, until there
// are no more than `bound` packs, the gaps together are less than a row, or `work` is exhausted.
void close_gaps(Geometry& geometry, std::int64_t capacity, std::int64_t max_segments,
                std::int64_t bound, Random& random, Work& work);

// Packs the rows that cost least under `prices` (prices.hpp), and random ones beside them, again
// and again by price_guided, until there are no more than `bound` packs or `work` is exhausted.
void repack_cheap_rows(Geometry& geometry, std::int64_t capacity, std::int64_t max_segments,
                       const std::vector<std::int32_t>& prices, std::int64_t bound, Random& random,
                       Work& work);

}  // namespace packing
