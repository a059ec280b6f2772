// SPDX-License-Identifier: Apache-2.0
// Never more packs than a decreasing strategy. Closes rows exactly, packs rows with gaps again, and
// where the lower bound is still not met finds prices (optimal/prices.hpp), which may prove that it
// cannot be met, and packs by them; then by the patterns of the program that the prices belong to
// (optimal/pattern_dive.hpp), in the end by lots where there are few lengths. The limits on work
// are fixed numbers of steps, so that the result is the same everywhere: about 2 seconds with the
// default effort, 20 with effort high.

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/exact_fit.hpp"
#include "optimal/lower_bound.hpp"
#include "optimal/near_patterns.hpp"
#include "optimal/pattern_dive.hpp"
#include "optimal/price_guided.hpp"
#include "optimal/prices.hpp"
#include "optimal/repack.hpp"
#include "optimal/rounded_lengths.hpp"
#include "strategies/strategy.hpp"

namespace packing {
namespace {

// Long rows are measured in so many units at most where programs of few pieces plan them.
constexpr std::int64_t kMostUnits = 8192;
constexpr std::int64_t kMostUnitsWhereLimited = 4096;

// Of pack_near_patterns: steps of all attempts together, the pieces of each, and their share.
struct NearAttempts {
  std::int64_t steps;
  std::vector<PriceFinder::Pieces> pieces;
  double share;
};

// Up to so many lengths are few enough for careful attempts.
constexpr std::int64_t kFewForCare = 1200;

// Of pack_by_patterns.
struct PatternStage {
  std::int64_t classes;
  std::int64_t steps;
  int dives;
};

struct Limits {
  std::int64_t gaps;    // steps of close_gaps
  std::int64_t bound;   // steps towards a better lower bound
  std::int64_t guided;  // steps of price_guided, all dives together
  // Of the prices that give the bound: the first before the dives, the others after them.
  std::vector<PriceFinder::Pieces> pieces;
  std::vector<Dive> dives;
  NearAttempts near;
  NearAttempts careful;     // where there are few lengths
  std::int64_t near_units;  // of the row, at most
  // Where all lengths are classes of their own, a first one goes before pack_near_patterns.
  PatternStage few_lengths;
  std::vector<PatternStage> patterns;
  PatternStage by_lots;  // the last, where all lengths are classes of their own
  // Where segments are limited: steps of the first prices, and of repacking after the dives.
  std::int64_t first_prices = 0;
  std::int64_t repacked = 0;
};

Limits default_limits() {
  return {20'000'000,
          500'000'000,
          400'000'000,
          {{256}},
          {{{64}, 1, 0}},
          {4'000'000'000, {{64}, {64}, {128}, {64}, {64}, {128}, {256}, {128}}, 0.75},
          {2'500'000'000, {{64}, {64}, {64}, {64}, {64}, {64}}, 0.3},
          kMostUnits,
          {300, 1'000'000'000, 12},
          {{300, 3'000'000'000, 12}, {600, 3'000'000'000, 12}},
          {300, 400'000'000, 1000}};
}

// Dives go from careless to careful: a careful one may still end worse.
Limits high_limits() {
  return {400'000'000,
          40'000'000'000,
          60'000'000'000,
          {{512}},
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
          {300, 4'000'000'000, 10'000}};
}

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
  // Effort high ends in 20 seconds.
  limits.bound = std::min(limits.bound, std::int64_t{10'000'000'000});
  limits.guided = std::min(limits.guided, std::int64_t{12'000'000'000});
  return limits;
}

// The geometry must not depend on the seed of a plan, which deals documents to places only.
constexpr std::uint64_t kSeed = 0;
enum Stream : std::uint64_t {
  kGaps,
  kCheapRows,
  kFirstDive,
  kLastGaps = 1000,
  kNearPatterns,
  kLots
};

// Whether a row could hold more segments than it may.
bool is_limited(const LengthHistogram& histogram, std::int64_t max_segments) {
  std::int64_t shortest = 1;
  while (histogram.count(shortest) == 0) ++shortest;
  return max_segments < std::min(histogram.capacity() / shortest, histogram.size());
}

// A limit on segments makes the quick bounds weak, and prices jump where one segment fewer fits.
Limits limits_where_limited(Effort effort) {
  const bool high = effort == Effort::kHigh;
  Limits limits = high ? high_limits() : default_limits();
  limits.bound = high ? 20'000'000'000 : 8'000'000'000;
  limits.first_prices = high ? limits.bound : 2'000'000'000;
  limits.guided = high ? 12'000'000'000 : 6'000'000'000;
  limits.repacked = high ? 12'000'000'000 : 1'000'000'000;
  limits.pieces = {{32, 32}, {32, 96}, {32, 192}};
  limits.near_units = kMostUnitsWhereLimited;
  limits.near.pieces = {{64}, {32, 32}, {64}, {32, 32}, {64}, {32, 32}, {64}, {32, 32}};
  limits.dives.insert(limits.dives.begin() + 1, {{32, 16}, 1, 0});
  if (!high) {
    limits.near.steps = 2'500'000'000;
    limits.patterns = {{300, 1'500'000'000, 4}};
  }
  return limits;
}

// Prices take time in proportion to the square of the row.
bool worth_prices(const LengthHistogram& histogram, std::int64_t max_segments, bool limited,
                  std::int64_t steps) {
  const std::int64_t least_fills = limited ? 1 : 10;
  return histogram.capacity() < (std::int64_t{1} << 26) &&
         DearestFill::steps(histogram, max_segments) < steps / least_fills;
}

std::int64_t unit_of(const LengthHistogram& histogram, std::int64_t most_units) {
  std::int64_t unit = 1;
  while (histogram.capacity() / unit > most_units) unit *= 2;
  return unit;
}

// The bound that prices of so many pieces prove, of rows in units.
std::int64_t price_bound(const LengthHistogram& histogram, std::int64_t max_segments,
                         std::int64_t num_packs, const PriceFinder::Pieces& pieces,
                         std::int64_t steps, Monitor& monitor) {
  Work work(steps, monitor);
  const LengthHistogram shorter = in_units(histogram, unit_of(histogram, kMostUnits), Round::kDown);
  PriceFinder finder(shorter, max_segments, pieces);
  return finder.find(shorter, num_packs, work);
}

// Of price_bound.
constexpr std::int64_t kQuickSteps = 300'000'000;
constexpr std::int64_t kFineSteps = 2'000'000'000;

// Packs near the packs of programs, until the bound is met or nothing is left to try.
void pack_near(const LengthHistogram& histogram, std::int64_t max_segments, const Limits& limits,
               const NearAttempts& attempts, Monitor& monitor, PackedLengths& best) {
  const std::int64_t unit = unit_of(histogram, limits.near_units);
  const LengthHistogram longer = in_units(histogram, unit, Round::kUp);
  std::int64_t num_packs = best.geometry.num_packs();
  const std::int64_t rounded = longer.positions() * unit - histogram.positions();
  if (rounded / histogram.capacity() >= num_packs - best.lower_bound) return;
  Work work(attempts.steps, monitor);
  Random random(kSeed, kNearPatterns);
  for (const PriceFinder::Pieces& pieces : attempts.pieces) {
    if (num_packs <= best.lower_bound || work.exhausted()) return;
    const Geometry geometry =
        pack_near_patterns(longer, max_segments, num_packs, pieces, attempts.share, random, work);
    if (geometry.num_patterns() == 0) continue;
    best.geometry = restore(geometry, unit, histogram);
    num_packs = best.geometry.num_packs();
  }
}

// Improves a plan, or proves that it cannot be, by prices.
void pack_by_prices(const LengthHistogram& histogram, std::int64_t max_segments, bool limited,
                    const Limits& limits, Monitor& monitor, PackedLengths& best) {
  std::int64_t num_packs = best.geometry.num_packs();
  auto is_optimal = [&] { return num_packs <= best.lower_bound; };
  Work prices(limited ? limits.first_prices : limits.bound, monitor);
  PriceFinder finder(histogram, max_segments, limits.pieces.front());
  best.lower_bound = std::max(best.lower_bound, finder.find(histogram, num_packs, prices));
  Work guided(limits.guided, monitor);
  std::uint64_t stream = kFirstDive;
  for (const Dive& dive : limits.dives) {
    if (is_optimal() || guided.exhausted()) break;
    Random dive_random(kSeed, stream++);
    Geometry geometry = price_guided(histogram, max_segments, dive, dive_random, guided);
    if (geometry.num_packs() >= num_packs) continue;
    best.geometry = std::move(geometry);
    num_packs = best.geometry.num_packs();
  }
  if (limited) {
    pack_near(histogram, max_segments, limits, limits.near, monitor, best);
    num_packs = best.geometry.num_packs();
  }
  Work finer_prices(limits.bound / 4, monitor);
  for (std::size_t stage = 1; stage < limits.pieces.size() && !is_optimal(); ++stage) {
    if (prices.exhausted() || finer_prices.exhausted()) break;
    PriceFinder finer(histogram, max_segments, limits.pieces[stage]);
    const std::int64_t bound = finer.find(histogram, num_packs, finer_prices);
    if (bound < best.lower_bound) break;
    best.lower_bound = bound;
    finder = std::move(finer);
  }
  Random repack_random(kSeed, kCheapRows);
  Work repacking(limits.repacked, monitor);
  repack_cheap_rows(best.geometry, histogram.capacity(), max_segments, finder.prices(),
                    best.lower_bound, repack_random, limited ? repacking : guided);
}

}  // namespace

LengthStrategy greedy, first_fit_decreasing, best_fit_decreasing;

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
  const bool limited = is_limited(histogram, max_segments);
  if (limited) {
    monitor.report(0);
    keep_better(full_count_fit(histogram, max_segments, exact));
  }
  monitor.report(0);
  Work dual_feasible(kDualFeasibleSteps, monitor);
  best.lower_bound = std::max(best.lower_bound, dual_feasible_bound(histogram, dual_feasible));
  if (is_optimal()) return best;

  const bool high = settings.effort == Effort::kHigh;
  const Limits limits = limited ? limits_where_limited(settings.effort)
                                : scaled(high ? high_limits() : default_limits(), histogram.size());
  Random random(kSeed, kGaps);
  Work gaps(limits.gaps, monitor);
  close_gaps(best.geometry, histogram.capacity(), max_segments, best.lower_bound, random, gaps);
  num_packs = best.geometry.num_packs();
  for (LengthStrategy* other : {best_fit_decreasing, greedy}) {
    if (is_optimal()) return best;
    monitor.report(0);
    keep_better(other(histogram, settings, monitor).geometry);
  }
  if (is_optimal()) return best;
  // Few pieces prove a bound soon that is nearly as good as that of more.
  best.lower_bound = std::max(best.lower_bound, price_bound(histogram, max_segments, num_packs,
                                                            {64}, kQuickSteps, monitor));
  if (is_optimal()) return best;
  const bool by_prices = worth_prices(histogram, max_segments, limited, limits.bound);
  if (by_prices) {
    pack_by_prices(histogram, max_segments, limited, limits, monitor, best);
    num_packs = best.geometry.num_packs();
  }
  if (is_optimal()) return best;
  // True where nothing remains to be done.
  auto by_patterns = [&](const PatternStage& stage) {
    Work work(stage.steps, monitor);
    PatternPlan plan = pack_by_patterns(histogram, max_segments, num_packs, best.lower_bound,
                                        stage.classes, stage.dives, work);
    best.lower_bound = plan.lower_bound;
    if (plan.geometry.num_patterns() > 0) keep_better(std::move(plan.geometry));
    return is_optimal() || (plan.exact && !work.exhausted());
  };
  if (histogram.num_lengths() <= limits.few_lengths.classes) by_patterns(limits.few_lengths);
  if (!limited || !by_prices) {
    pack_near(histogram, max_segments, limits, limits.near, monitor, best);
    num_packs = best.geometry.num_packs();
  }
  const bool has_many = histogram.num_lengths() > limits.few_lengths.classes;
  if (!limited && has_many && histogram.num_lengths() <= kFewForCare) {
    pack_near(histogram, max_segments, limits, limits.careful, monitor, best);
    num_packs = best.geometry.num_packs();
  }
  if (is_optimal()) return best;
  if (!limited && histogram.num_lengths() > limits.patterns.back().classes) {
    best.lower_bound = std::max(best.lower_bound, price_bound(histogram, max_segments, num_packs,
                                                              {256}, kFineSteps, monitor));
    if (is_optimal()) return best;
  }
  for (const PatternStage& stage : limits.patterns) {
    if (by_patterns(stage)) break;
  }
  if (is_optimal()) return best;
  Random last_random(kSeed, kLastGaps);
  Work last_gaps(limits.gaps, monitor);
  close_gaps(best.geometry, histogram.capacity(), max_segments, best.lower_bound, last_random,
             last_gaps);
  num_packs = best.geometry.num_packs();
  if (is_optimal() || histogram.num_lengths() > limits.few_lengths.classes) return best;
  Random lots(kSeed, kLots);
  Work drawn(limits.by_lots.steps, monitor);
  PatternPlan plan = pack_by_patterns(histogram, max_segments, num_packs, best.lower_bound,
                                      limits.by_lots.classes, limits.by_lots.dives, drawn, &lots);
  if (plan.geometry.num_patterns() > 0) keep_better(std::move(plan.geometry));
  return best;
}

}  // namespace packing
