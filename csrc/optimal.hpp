// SPDX-License-Identifier: Apache-2.0
// The strategy `optimal`.
#pragma once

#include <cstdint>

#include "geometry.hpp"
#include "histogram.hpp"
#include "monitor.hpp"

namespace packing {

enum class Effort { kDefault, kHigh };

// Packs, and how many packs every plan for the same segments needs at least.
struct BoundedGeometry {
  Geometry geometry;
  std::int64_t lower_bound = 0;
};

// Never more packs than first_fit_decreasing. Closes rows exactly, packs rows with gaps again, and
// where the lower bound is still not met finds prices (prices.hpp), which may prove that it cannot
// be met, and packs by them. The limits on work are fixed numbers of steps, so that the result is
// the same everywhere: tenths of a second under kDefault, up to a minute under kHigh.
BoundedGeometry optimal(const LengthHistogram& histogram, std::int64_t max_segments, Effort effort,
                        Monitor& monitor);

}  // namespace packing
