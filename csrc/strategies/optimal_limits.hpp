// SPDX-License-Identifier: Apache-2.0
// How much work strategy optimal does, in steps, so that its result is the same everywhere: about 2
// seconds with the default effort, 20 with effort high.
#pragma once

#include <cstdint>
#include <vector>

#include "optimal/price_guided.hpp"
#include "optimal/prices.hpp"
#include "types/settings.hpp"

namespace packing {

// Long rows are measured in so many units at most where programs of few pieces plan them.
constexpr std::int64_t kMostUnits = 8192;

// Of pack_near_patterns: steps of all attempts together, the pieces of each, and their share.
struct NearAttempts {
  std::int64_t steps;
  std::vector<PriceFinder::Pieces> pieces;
  double share;
};

// Of pack_by_patterns.
struct PatternStage {
  std::int64_t classes;
  std::int64_t steps;
  int dives;
};

// Of prices with ever more pieces: steps of each, and its pieces.
struct PriceStages {
  std::int64_t steps;
  std::vector<PriceFinder::Pieces> pieces;
};

struct OptimalLimits {
  std::int64_t gaps;           // steps of close_gaps
  std::int64_t bound;          // steps of the prices that give the bound
  PriceFinder::Pieces pieces;  // of these prices
  std::int64_t guided;         // steps of price_guided, all dives together
  std::vector<Dive> dives;
  NearAttempts near;
  NearAttempts careful;     // where there are few lengths
  std::int64_t near_units;  // of the row, at most
  // Where all lengths are classes of their own, a first one goes before pack_near_patterns.
  PatternStage few_lengths;
  std::vector<PatternStage> patterns;
  PatternStage by_lots;  // the last, where all lengths are classes of their own
  PriceStages last;      // where there are more lengths than classes
  // Prices are found where a DearestFill takes fewer steps. Set by optimal_limits.
  std::int64_t one_fill = 0;
  // The rest serves only where segments are limited; then careful and last do not.
  PriceStages soon = {};        // prices that take little time
  PriceStages late = {};        // prices that take much
  std::int64_t dive_above = 0;  // dives begin so many packs above the bound, of 10,000
  std::int64_t repacked = 0;    // steps of repack_cheap_rows, all calls together
};

// limited: whether a row could hold more segments than it may.
OptimalLimits optimal_limits(Effort effort, bool limited, std::int64_t num_segments);

}  // namespace packing
