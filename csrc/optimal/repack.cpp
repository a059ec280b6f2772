// SPDX-License-Identifier: Apache-2.0
// Local search: takes some rows apart, packs their segments again, keeps what is better.
#include "optimal/repack.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/shuffle.hpp"
#include "optimal/exact_fit.hpp"
#include "optimal/price_guided.hpp"
#include "optimal/prices.hpp"

namespace packing {
namespace {

// Full rows that are packed again beside those with gaps: this many for each, and at least ...
constexpr std::int64_t kFullRowsBesideEach = 2;
constexpr std::int64_t kLeastRows = 8;
// What packing a segment again costs, about.
constexpr std::int64_t kStepsASegment = 40;
// After so many vain attempts more full rows join in.
constexpr int kAttempts = 4;
// Attempts without a row less before it is given up.
constexpr int kVainGapAttempts = 1000;
constexpr int kVainPriceAttempts = 100;

// Takes `count` packs of a pattern out of a geometry into a histogram.
void take_out(Geometry& geometry, std::int64_t pattern, std::int64_t count,
              LengthHistogram& histogram) {
  const auto p = static_cast<std::size_t>(pattern);
  geometry.repeats[p] -= count;
  for (auto run = geometry.pattern_offsets[p]; run < geometry.pattern_offsets[p + 1]; ++run) {
    const Run& places = geometry.runs[static_cast<std::size_t>(run)];
    histogram.add(places.length, places.count * count);
  }
}

}  // namespace

Geometry mixed_fit(LengthHistogram& histogram, std::int64_t max_segments, Random& random,
                   Work& work) {
  std::vector<std::int64_t> lots;  // every segment's length, in a random order
  lots.reserve(static_cast<std::size_t>(histogram.size()));
  for (std::int64_t length = histogram.largest_at_most(histogram.capacity()); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    lots.insert(lots.end(), static_cast<std::size_t>(histogram.count(length)), length);
  }
  shuffle(lots, random);
  work.spend(8 * static_cast<std::int64_t>(lots.size()));
  Geometry geometry;
  while (histogram.size() > 0) {
    OpenPack pack(histogram, geometry, max_segments);
    pack.take(histogram.largest_at_most(histogram.capacity()));
    while (pack.places() > 0 && pack.room() > 0) {
      const std::int64_t longest = histogram.largest_at_most(pack.room());
      if (longest == 0) break;
      if (longest < pack.room() && close_exactly(pack, histogram, longest, work)) break;
      std::int64_t length = longest;
      if (longest < pack.room()) {
        // A lot whose length has run out, or does not fit, is void.
        while (!lots.empty()) {
          const std::int64_t lot = lots.back();
          lots.pop_back();
          if (lot <= pack.room() && histogram.count(lot) > 0) {
            length = lot;
            break;
          }
        }
      }
      pack.take(length);
      work.spend(32);
    }
    pack.close(1);
  }
  return geometry;
}

void close_gaps(Geometry& geometry, std::int64_t capacity, std::int64_t max_segments,
                std::int64_t bound, Random& random, Work& work) {
  std::int64_t num_packs = geometry.num_packs();
  std::uint64_t beside_each = kFullRowsBesideEach;
  LengthHistogram loose(capacity);
  for (int attempt = 1; num_packs > bound && attempt <= kVainGapAttempts && !work.exhausted();
       ++attempt) {
    Geometry kept = geometry;
    std::int64_t rows = 0;
    std::int64_t gaps = 0;
    for (std::int64_t pattern = 0; pattern < kept.num_patterns(); ++pattern) {
      const std::int64_t gap = capacity - kept.pattern_positions(pattern);
      const std::int64_t repeat = kept.repeats[static_cast<std::size_t>(pattern)];
      if (gap == 0 || repeat == 0) continue;
      gaps += gap * repeat;
      rows += repeat;
      take_out(kept, pattern, repeat, loose);
    }
    if (gaps < capacity || loose.size() * kStepsASegment > work.left()) return;
    // Unsigned, so that it wraps the same everywhere: after 62 doublings the search begins anew
    // with few rows.
    const auto joined =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(rows) * (1 + beside_each));
    const std::int64_t wanted = std::min(num_packs, std::max(kLeastRows, joined));
    // The last patterns have the shortest segments; full rows among them and at random join in.
    for (std::int64_t tries = 0; rows < wanted && tries < 4 * wanted; ++tries) {
      const auto patterns = static_cast<std::uint64_t>(kept.num_patterns());
      const auto span = tries % 2 == 0 ? std::max<std::uint64_t>(1, patterns / 8) : patterns;
      const auto pattern = static_cast<std::int64_t>(patterns - 1 - random.below(span));
      if (kept.repeats[static_cast<std::size_t>(pattern)] == 0) continue;
      take_out(kept, pattern, 1, loose);
      ++rows;
    }
    work.spend(16 * kept.num_patterns());
    const Geometry again = mixed_fit(loose, max_segments, random, work);
    if (again.num_packs() < rows) {
      num_packs -= rows - again.num_packs();
      kept.append(again);
      kept.drop_unused();
      geometry = std::move(kept);
      attempt = 0;
    } else if (attempt % kAttempts == 0) {
      beside_each *= 2;
    }
  }
}

void repack_cheap_rows(Geometry& geometry, std::int64_t capacity, std::int64_t max_segments,
                       const std::vector<std::int32_t>& prices, std::int64_t bound, Random& random,
                       Work& work) {
  constexpr std::int32_t kCheap = kPriceUnit / 200;  // so much less than a pack
  constexpr std::int64_t kRowsBesideEach[] = {1, 2, 4, 8};
  const Dive dives[] = {{{64}, 1, 0}, {{64}, 0.02, 0.5}};
  std::int64_t num_packs = geometry.num_packs();
  int vain = 0;
  for (std::uint64_t attempt = 0;
       num_packs > bound && vain < kVainPriceAttempts && !work.exhausted(); ++attempt) {
    Geometry kept = geometry;
    LengthHistogram loose(capacity);
    std::int64_t rows = 0;
    for (std::int64_t pattern = 0; pattern < kept.num_patterns(); ++pattern) {
      const auto p = static_cast<std::size_t>(pattern);
      std::int64_t cost = 0;
      for (auto run = kept.pattern_offsets[p]; run < kept.pattern_offsets[p + 1]; ++run) {
        const Run& places = kept.runs[static_cast<std::size_t>(run)];
        cost += std::int64_t{prices[places.length]} * places.count;
      }
      if (cost > kPriceUnit - kCheap || kept.repeats[p] == 0) continue;
      rows += kept.repeats[p];
      take_out(kept, pattern, kept.repeats[p], loose);
    }
    work.spend(4 * static_cast<std::int64_t>(kept.runs.size()));
    if (rows == 0) return;
    const std::int64_t wanted = rows * (1 + kRowsBesideEach[attempt % 4]);
    for (std::int64_t tries = 0; rows < wanted && tries < 4 * wanted; ++tries) {
      const auto pattern =
          static_cast<std::int64_t>(random.below(static_cast<std::uint64_t>(kept.num_patterns())));
      const std::int64_t repeat = kept.repeats[static_cast<std::size_t>(pattern)];
      if (repeat == 0) continue;
      take_out(kept, pattern, 1, loose);
      ++rows;
    }
    Geometry again =
        price_guided(std::move(loose), max_segments, dives[attempt / 4 % 2], random, work);
    vain = again.num_packs() < rows ? 0 : vain + 1;
    if (again.num_packs() > rows) continue;  // as many is welcome: other rows are the cheap ones
    num_packs -= rows - again.num_packs();
    kept.append(again);
    kept.drop_unused();
    geometry = std::move(kept);
  }
}

}  // namespace packing
