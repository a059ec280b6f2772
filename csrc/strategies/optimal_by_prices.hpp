// SPDX-License-Identifier: Apache-2.0
// The steps of strategy optimal that rest on prices (optimal/prices.hpp). Each leaves a plan that
// is as good or better, with a lower bound that is as high or higher.
#pragma once

#include <cstdint>

#include "base/monitor.hpp"
#include "strategies/optimal_limits.hpp"
#include "strategies/strategy.hpp"
#include "types/histogram.hpp"

namespace packing {

// The geometry must not depend on the seed of a plan, which deals documents to places only. Each
// kind of step draws from a stream of its own.
constexpr std::uint64_t kGeometrySeed = 0;
enum GeometryStream : std::uint64_t {
  kGaps,
  kCheapRows,
  kFirstDive,
  kLastGaps = 1000,
  kNearPatterns,
  kLots
};

// Whether prices can be found within the limits: they take time in proportion to the row's square.
bool worth_prices(const LengthHistogram& histogram, std::int64_t max_segments,
                  const OptimalLimits& limits);

// Raises the bound by prices of rows in units, stage by stage.
void raise_bound(const LengthHistogram& histogram, std::int64_t max_segments,
                 const PriceStages& stages, Monitor& monitor, PackedLengths& best);

// Packs near the packs of programs, until the bound is met or nothing is left to try.
void pack_near(const LengthHistogram& histogram, std::int64_t max_segments,
               const OptimalLimits& limits, const NearAttempts& attempts, Monitor& monitor,
               PackedLengths& best);

// Finds prices, which may prove that a plan cannot be improved, and packs by them.
void pack_by_prices(const LengthHistogram& histogram, std::int64_t max_segments,
                    const OptimalLimits& limits, Monitor& monitor, PackedLengths& best);

// The same where a row could hold more segments than it may.
void pack_by_prices_where_limited(const LengthHistogram& histogram, std::int64_t max_segments,
                                  const OptimalLimits& limits, Monitor& monitor,
                                  PackedLengths& best);

}  // namespace packing
