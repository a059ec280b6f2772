// SPDX-License-Identifier: Apache-2.0
// Packing near the packs of a small program.
#pragma once

#include <cstdint>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/prices.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

// Packs every segment by the fractional plan of a program over pieces of the lengths (prices.hpp).
//
// The plan holds as many segments of each piece as there are and as many positions, but of few
// lengths. So each of its packs stands for packs of lengths near its own that cost as much: a pack
// under the same prices. Most of what the plan holds is taken like that, without a loss; a new
// program plans what is left, and so on. What such packs cost less than one grows only when too few
// are found. A dive ends it, once so few lengths are left that each is a piece of its own.
//
// `share` of a level's fractional plan is taken; the rest keeps its proportions for the next level.
// A small share loses less where there are few segments, and takes longer.
//
// Geometry without packs where fewer than `num_packs` were not found.
Geometry pack_near_patterns(LengthHistogram histogram, std::int64_t max_segments,
                            std::int64_t num_packs, const PriceFinder::Pieces& pieces, double share,
                            Random& random, Work& work);

}  // namespace packing
