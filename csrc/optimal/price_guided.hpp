// SPDX-License-Identifier: Apache-2.0
// Packing that prefers segments of high price.
#pragma once

#include <cstdint>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/prices.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

// How carefully price_guided goes about it.
struct Dive {
  PriceFinder::Pieces pieces{64};
  double least_step = 1;  // a bad step is taken again in parts no smaller than this share
  double refine_at = 0;   // pieces are fitted to what is left when this share of it is left
};

// Packs every segment: the longest first, beside it the segments that make the pack cost most under
// prices that are found anew as the segments become fewer (a dive into the cutting-stock program).
// Equal choices are made at random, so that what is left keeps its proportions.
// Where `work` is exhausted the rest is packed by exact_fit_decreasing.
Geometry price_guided(LengthHistogram histogram, std::int64_t max_segments, const Dive& dive,
                      Random& random, Work& work);

}  // namespace packing
