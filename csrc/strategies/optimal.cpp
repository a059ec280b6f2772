// SPDX-License-Identifier: Apache-2.0
// Never more packs than first_fit_decreasing. Closes rows exactly, packs rows with gaps again, and
// where the lower bound is still not met finds prices (optimal/prices.hpp), which may prove that it
// cannot be met, and packs by them. The limits on work are fixed numbers of steps, so that the
// result is the same everywhere: tenths of a second with the default effort, up to a minute with
// effort high.

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/exact_fit.hpp"
#include "optimal/lower_bound.hpp"
#include "optimal/price_guided.hpp"
#include "optimal/prices.hpp"
#include "optimal/repack.hpp"
#include "strategies/strategy.hpp"

namespace packing {
namespace {

struct Limits {
  std::int64_t gaps;    // steps of close_gaps
  std::int64_t bound;   // steps towards a better lower bound
  std::int64_t guided;  // steps of price_guided, all dives together
  std::int64_t pieces;  // of the prices that give the bound
  std::size_t dives;    // how many of kDives are tried
};
constexpr Limits kDefaultLimits{20'000'000, 500'000'000, 400'000'000, 256, 1};
constexpr Limits kHighLimits{400'000'000, 40'000'000'000, 60'000'000'000, 512, 6};

// Steps of the searches that close rows exactly, where they count (kSmallRow).
constexpr std::int64_t kExactSteps = 200'000'000;

// Few segments deserve less work.
Limits scaled(Limits limits, std::int64_t num_segments) {
  constexpr std::int64_t kMany = 20'000;
  constexpr std::int64_t kAtLeast = 200;
  const std::int64_t share = std::min(kMany, num_segments + kAtLeast);
  for (std::int64_t* limit : {&limits.gaps, &limits.bound, &limits.guided}) {
    *limit = *limit / kMany * share;
  }
  return limits;
}

// From careless to careful: a careful dive may still end worse.
const std::vector<Dive> kDives{{64, 1, 0},       {64, 0.02, 0},    {64, 0.02, 0.5},
                               {64, 0.005, 0.5}, {128, 0.02, 0.5}, {128, 0.005, 0.5}};

// The geometry must not depend on the seed of a plan, which deals documents to places only.
constexpr std::uint64_t kSeed = 0;
enum Stream : std::uint64_t { kGaps, kCheapRows, kFirstDive };

// Prices take time in proportion to the square of the row.
bool worth_prices(std::int64_t capacity, std::int64_t steps) {
  constexpr std::int64_t kLeastFills = 10;
  return capacity < (std::int64_t{1} << 26) && capacity * capacity / 2 * kLeastFills < steps;
}

}  // namespace

LengthStrategy first_fit_decreasing;

PackedLengths optimal(const LengthHistogram& histogram, const PlanSettings& settings,
                      Monitor& monitor) {
  const std::int64_t max_segments = settings.max_documents_per_pack;
  PackedLengths best;
  monitor.report(0);
  best.lower_bound = lower_bound(histogram, max_segments);
  monitor.report(0);
  Work exact(kExactSteps, monitor);
  best.geometry = exact_fit_decreasing(histogram, max_segments, exact);
  std::int64_t num_packs = best.geometry.num_packs();
  auto is_optimal = [&] { return num_packs <= best.lower_bound; };
  auto keep_better = [&](Geometry geometry) {
    const std::int64_t packs = geometry.num_packs();
    if (packs >= num_packs) return;
    num_packs = packs;
    best.geometry = std::move(geometry);
  };
  if (is_optimal()) return best;
  monitor.report(0);
  keep_better(first_fit_decreasing(histogram, settings, monitor).geometry);
  monitor.report(0);
  keep_better(even_count_fit(histogram, max_segments, exact));
  monitor.report(0);
  Work dual_feasible(kDualFeasibleSteps, monitor);
  best.lower_bound = std::max(best.lower_bound, dual_feasible_bound(histogram, dual_feasible));
  if (is_optimal()) return best;

  const Limits limits =
      scaled(settings.effort == Effort::kHigh ? kHighLimits : kDefaultLimits, histogram.size());
  Random random(kSeed, kGaps);
  Work gaps(limits.gaps, monitor);
  close_gaps(best.geometry, histogram.capacity(), max_segments, best.lower_bound, random, gaps);
  num_packs = best.geometry.num_packs();
  if (is_optimal() || !worth_prices(histogram.capacity(), limits.bound)) return best;

  Work prices(limits.bound, monitor);
  PriceFinder finder(histogram, limits.pieces);
  best.lower_bound = std::max(best.lower_bound, finder.find(histogram, num_packs, prices));
  Work guided(limits.guided, monitor);
  std::uint64_t stream = kFirstDive;
  for (std::size_t dive = 0; dive < limits.dives; ++dive) {
    if (is_optimal() || guided.exhausted()) break;
    Random dive_random(kSeed, stream++);
    keep_better(price_guided(histogram, max_segments, kDives[dive], dive_random, guided));
  }
  Random repack_random(kSeed, kCheapRows);
  repack_cheap_rows(best.geometry, histogram.capacity(), max_segments, finder.prices(),
                    best.lower_bound, repack_random, guided);
  return best;
}

}  // namespace packing
