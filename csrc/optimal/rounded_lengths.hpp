// SPDX-License-Identifier: Apache-2.0
// Fewer lengths than there are, and the way back.
#pragma once

#include <cstdint>

#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

enum class Round { kUp, kDown };

// The same segments in a row that is measured in units of `unit` positions. Packs of lengths that
// were rounded up are packs; lengths that were rounded down need no more packs than before, and
// those of less than a unit are left out.
LengthHistogram in_units(const LengthHistogram& histogram, std::int64_t unit, Round round);

// Puts segments of their own lengths where others stand that were rounded up: the longest into the
// longest place.
Geometry restore(const Geometry& rounded, std::int64_t unit, LengthHistogram histogram);

}  // namespace packing
