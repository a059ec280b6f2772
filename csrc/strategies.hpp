// SPDX-License-Identifier: Apache-2.0
// Packing strategies that need nothing but how many segments there are of each length.
#pragma once

#include <cstdint>
#include <string>

#include "geometry.hpp"
#include "histogram.hpp"
#include "work.hpp"

namespace packing {

// Packs every segment of the histogram into rows of histogram.capacity() positions and at most
// max_segments segments.
using Strategy = Geometry (*)(LengthHistogram histogram, std::int64_t max_segments);

// One segment a row: the baseline that packing is measured against.
Geometry padding(LengthHistogram histogram, std::int64_t max_segments);

// Longest first; a row is closed at the first segment that does not fit (next-fit decreasing, the
// text of arXiv 2410.08081, section 2.3).
Geometry greedy(LengthHistogram histogram, std::int64_t max_segments);

// Longest first, each into the first row that it fits (Johnson 1973). Filling one row at a time
// with the longest segment that still fits gives the same rows.
Geometry first_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments);

// Longest first, each into the row that it leaves the least room in (Johnson et al. 1974).
Geometry best_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments);

// The longest first, each row closed exactly where its last one to three segments can be chosen so
// that nothing is left of it: the first step of the strategy `optimal`. Where `work` is exhausted
// the rest is packed longest first.
Geometry exact_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments, Work& work);

// For rows whose number of segments is what limits them: beside the longest as many of the shortest
// as leave every row its share of the segments, closed exactly as above.
Geometry even_count_fit(LengthHistogram histogram, std::int64_t max_segments, Work& work);

// Takes the longest segment that fits until none does.
void fill_longest_first(OpenPack& pack, LengthHistogram& histogram);

// Takes the last two or three segments of a row where they fill it exactly; false where it finds
// none that do, or `work` is exhausted. longest: the longest segment left that fits. Only searches
// in rows of more than kSmallRow count as work: in smaller ones they are short.
bool close_exactly(OpenPack& pack, LengthHistogram& histogram, std::int64_t longest, Work& work);
constexpr std::int64_t kSmallRow = std::int64_t{1} << 17;

// The strategy of that name, or nullptr.
Strategy find_strategy(const std::string& name);

}  // namespace packing
