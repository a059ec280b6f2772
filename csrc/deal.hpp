// SPDX-License-Identifier: Apache-2.0
// Deals documents to the places of packed lengths.
#pragma once

#include <cstdint>

#include "base/monitor.hpp"
#include "types/geometry.hpp"
#include "types/items.hpp"
#include "types/plan.hpp"

namespace packing {

// Deals items to the places of a geometry, all at random: the items of one length, the packs, and
// the segments within a pack. found: of the items' lengths. Fills the arrays of `plan`. Memory: 4
// bytes an item beyond them (8 where there are more than 2^31 - 1), and 4 a pack.
void deal(const Items& items, const Survey& found, const LengthHistogram& histogram,
          const Geometry& geometry, std::uint64_t seed, Monitor& monitor, Plan& plan);

}  // namespace packing
