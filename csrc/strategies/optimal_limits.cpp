// SPDX-License-Identifier: Apache-2.0
// Figures found by measuring: benchmarks/quality.py shows what they give.
#include "strategies/optimal_limits.hpp"

#include <algorithm>

namespace packing {
namespace {

constexpr std::int64_t kMostUnitsWhereLimited = 4096;

OptimalLimits default_limits() {
  return {20'000'000,
          500'000'000,
          {256},
          400'000'000,
          {{{64}, 1, 0}},
          {4'000'000'000, {{64}, {64}, {128}, {64}, {64}, {128}, {256}, {128}}, 0.75},
          {2'500'000'000, {{64}, {64}, {64}, {64}, {64}, {64}}, 0.3},
          kMostUnits,
          {300, 1'000'000'000, 12},
          {{300, 3'000'000'000, 12}, {600, 3'000'000'000, 12}},
          {300, 400'000'000, 1000},
          {2'000'000'000, {{64}, {128}, {256}}}};
}

// Dives go from careless to careful: a careful one may still end worse.
OptimalLimits high_limits() {
  return {400'000'000,
          40'000'000'000,
          {512},
          60'000'000'000,
          {{{64}, 1, 0},
           {{64}, 0.02, 0},
           {{64}, 0.02, 0.5},
           {{64}, 0.005, 0.5},
           {{128}, 0.02, 0.5},
           {{128}, 0.005, 0.5}},
          {10'000'000'000,
           {{64}, {64}, {128}, {128}, {256}, {256}, {64}, {64}, {128}, {128}, {256}, {256}},
           0.75},
          {3'000'000'000, {{64}, {64}, {64}, {64}, {128}, {128}, {128}, {128}}, 0.3},
          kMostUnits,
          {300, 1'000'000'000, 12},
          {{300, 8'000'000'000, 10}, {600, 10'000'000'000, 10}, {1200, 16'000'000'000, 10}},
          {300, 4'000'000'000, 10'000},
          {4'000'000'000, {{64}, {128}, {256}, {512}}}};
}

// A limit on segments makes the quick bounds weak, and prices jump where one segment fewer fits.
OptimalLimits limits_where_limited(bool high) {
  OptimalLimits limits = high ? high_limits() : default_limits();
  limits.bound = high ? 20'000'000'000 : 2'000'000'000;
  limits.pieces = {32, 32};
  limits.one_fill = high ? 20'000'000'000 : 8'000'000'000;
  limits.guided = high ? 12'000'000'000 : 6'000'000'000;
  limits.dives.insert(limits.dives.begin() + 1, {{32, 16}, 1, 0});
  limits.near_units = kMostUnitsWhereLimited;
  limits.near.pieces = {{64}, {32, 32}};
  limits.soon = {600'000'000, {{128}}};
  limits.late = {high ? 10'000'000'000 : 2'500'000'000, {{256}, {64, 128}}};
  limits.dive_above = high ? 0 : 5;
  limits.repacked = high ? 12'000'000'000 : 3'000'000'000;
  if (high) {
    limits.near.pieces = {{64}, {32, 32}, {64}, {32, 32}, {64}, {32, 32}, {64}, {32, 32}};
  } else {
    limits.near.steps = 2'500'000'000;
    limits.patterns = {{300, 1'500'000'000, 4}};
  }
  return limits;
}

// Few segments deserve less work.
OptimalLimits scaled(OptimalLimits limits, std::int64_t num_segments) {
  constexpr std::int64_t kMany = 20'000;
  constexpr std::int64_t kAtLeast = 200;
  const std::int64_t share = std::min(kMany, num_segments + kAtLeast);
  for (std::int64_t* limit : {&limits.gaps, &limits.bound, &limits.guided}) {
    *limit = *limit / kMany * share;
  }
  // Effort high ends in 20 seconds.
  limits.bound = std::min(limits.bound, std::int64_t{10'000'000'000});
  limits.guided = std::min(limits.guided, std::int64_t{12'000'000'000});
  limits.one_fill = limits.bound / 10;
  // Smaller shares lose fewer packs. With more segments they leave no time for other attempts.
  constexpr std::int64_t kForSmallShares = 200'000;
  constexpr double kSmallShare = 0.5;
  if (num_segments < kForSmallShares) limits.near.share = kSmallShare;
  return limits;
}

}  // namespace

OptimalLimits optimal_limits(Effort effort, bool limited, std::int64_t num_segments) {
  const bool high = effort == Effort::kHigh;
  if (limited) return limits_where_limited(high);
  return scaled(high ? high_limits() : default_limits(), num_segments);
}

}  // namespace packing
