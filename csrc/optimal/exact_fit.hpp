// SPDX-License-Identifier: Apache-2.0
// Packing that closes rows exactly: the first steps of the strategy `optimal`.
#pragma once

#include <cstdint>

#include "base/work.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

// The longest first, each row closed exactly where its last one to three segments can be chosen so
// that nothing is left of it. Where `work` is exhausted the rest is packed longest first.
Geometry exact_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments, Work& work);

// For rows whose number of segments is what limits them: beside the longest as many of the shortest
// as leave every row its share of the segments, closed exactly as above.
Geometry even_count_fit(LengthHistogram histogram, std::int64_t max_segments, Work& work);

// For the same rows: beside the longest always the longest segment that leaves room for as many of
// the shortest as there are places left, so that every row takes as many segments as it can.
Geometry full_count_fit(LengthHistogram histogram, std::int64_t max_segments, Work& work);

// Takes the last two or three segments of a row where they fill it exactly; false where it finds
// none that do, or `work` is exhausted. longest: the longest segment left that fits. Only searches
// in rows of more than kSmallRow count as work: in smaller ones they are short.
bool close_exactly(OpenPack& pack, LengthHistogram& histogram, std::int64_t longest, Work& work);
constexpr std::int64_t kSmallRow = std::int64_t{1} << 17;

}  // namespace packing
