// SPDX-License-Identifier: Apache-2.0
// Documents take their places.
#pragma once

#include <cstdint>

#include "geometry.hpp"
#include "items.hpp"
#include "monitor.hpp"
#include "plan.hpp"

namespace packing {

// The uses of a plan's seed: a new use takes a new number, so that no other use changes.
enum SeedStream : std::uint64_t { kDocumentOrder, kPackOrder, kFrontPacks, kBackPacks };

// Deals items to the places of a geometry, all at random: the items of one length, the packs, and
// the segments within a pack. Fills the arrays of `plan`. Memory: 4 bytes an item beyond them (8
// where there are more than 2^31 - 1), and 4 a pack.
void deal(const Items& items, const LengthHistogram& histogram, const Geometry& geometry,
          std::uint64_t seed, Monitor& monitor, Plan& plan);

// Puts documents in the place of items, and fills the segment arrays.
template <class Id>
void write_segments(const Items& items, Buffer<Id>& ids, Monitor& monitor, Plan& plan);

}  // namespace packing
