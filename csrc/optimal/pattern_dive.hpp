// SPDX-License-Identifier: Apache-2.0
// Packing by the columns of the cutting-stock program, one row of it for each length.
#pragma once

#include <cstdint>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/prices.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

// What the program says of the segments.
struct PatternPlan {
  std::int64_t lower_bound = 0;
  bool exact = false;  // each length was a class of its own
  Geometry geometry;   // without packs where fewer than `num_packs` were not found
};

// Packs by the fractional plan of a program with a row for each length: whole packs first, then
// what is nearest to one, again for what is left (Vance, Computational Optimization and
// Applications 3, 1994; Wascher and Gau, OR Spektrum 18, 1996). Longest first once `num_packs` are
// needed, or `work` is exhausted.
//
// step: the share of the packs that are left which is rounded up at once, and a pack at least.
// finder: in which each of the lengths is a piece of its own.
// lots: decide between packs that are nearly as near to one, where given.
Geometry dive(LengthHistogram histogram, std::int64_t max_segments, std::int64_t num_packs,
              double step, PriceFinder& finder, Work& work, Random* lots = nullptr);

// Solves the program of Gilmore and Gomory (Operations Research 9, 1961; 11, 1963) and packs by its
// fractional plan, as dive() does.
//
// Where there are more lengths than classes, packs are those of lengths rounded up to the longest
// of their class, and the bound is that of lengths rounded down to the shortest.
// Nothing is tried that rounding would make vain.
//
// num_packs: of the best plan so far. lower_bound: that is known.
PatternPlan pack_by_patterns(LengthHistogram histogram, std::int64_t max_segments,
                             std::int64_t num_packs, std::int64_t lower_bound,
                             std::int64_t max_classes, int dives, Work& work,
                             Random* lots = nullptr);

}  // namespace packing
