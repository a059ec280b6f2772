// SPDX-License-Identifier: Apache-2.0
// Never more packs than a decreasing strategy. Closes rows exactly, packs rows with gaps again, and
// where the lower bound is still not met finds prices (optimal/prices.hpp), which may prove that it
// cannot be met, and packs by them; then by the patterns of the program that the prices belong to
// (optimal/pattern_dive.hpp), in the end by lots where there are few lengths.

#include <algorithm>
#include <utility>

#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/exact_fit.hpp"
#include "optimal/lower_bound.hpp"
#include "optimal/pattern_dive.hpp"
#include "optimal/repack.hpp"
#include "strategies/optimal_by_prices.hpp"
#include "strategies/optimal_limits.hpp"
#include "strategies/strategy.hpp"

namespace packing {
namespace {

// Up to so many lengths are few enough for careful attempts.
constexpr std::int64_t kFewForCare = 1200;

// Steps of the searches that close rows exactly, where they count (kSmallRow).
constexpr std::int64_t kExactSteps = 200'000'000;

// Steps of a first bound by prices. Few pieces prove soon nearly as much as many do.
constexpr std::int64_t kQuickSteps = 300'000'000;

// Whether a row could hold more segments than it may.
bool is_limited(const LengthHistogram& histogram, std::int64_t max_segments) {
  std::int64_t shortest = 1;
  while (histogram.count(shortest) == 0) ++shortest;
  return max_segments < std::min(histogram.capacity() / shortest, histogram.size());
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

  const OptimalLimits limits = optimal_limits(settings.effort, limited, histogram.size());
  Random random(kGeometrySeed, kGaps);
  Work gaps(limits.gaps, monitor);
  close_gaps(best.geometry, histogram.capacity(), max_segments, best.lower_bound, random, gaps);
  num_packs = best.geometry.num_packs();
  for (LengthStrategy* other : {best_fit_decreasing, greedy}) {
    if (is_optimal()) return best;
    monitor.report(0);
    keep_better(other(histogram, settings, monitor).geometry);
  }
  if (is_optimal()) return best;
  raise_bound(histogram, max_segments, {kQuickSteps, {{64}}}, monitor, best);
  if (is_optimal()) return best;
  const bool by_prices = worth_prices(histogram, max_segments, limits);
  if (by_prices) {
    const auto pack = limited ? pack_by_prices_where_limited : pack_by_prices;
    pack(histogram, max_segments, limits, monitor, best);
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
    raise_bound(histogram, max_segments, limits.last, monitor, best);
    if (is_optimal()) return best;
  }
  for (const PatternStage& stage : limits.patterns) {
    if (by_patterns(stage)) break;
  }
  if (is_optimal()) return best;
  Random last_random(kGeometrySeed, kLastGaps);
  Work last_gaps(limits.gaps, monitor);
  close_gaps(best.geometry, histogram.capacity(), max_segments, best.lower_bound, last_random,
             last_gaps);
  num_packs = best.geometry.num_packs();
  if (is_optimal() || histogram.num_lengths() > limits.few_lengths.classes) return best;
  Random lots(kGeometrySeed, kLots);
  Work drawn(limits.by_lots.steps, monitor);
  PatternPlan plan = pack_by_patterns(histogram, max_segments, num_packs, best.lower_bound,
                                      limits.by_lots.classes, limits.by_lots.dives, drawn, &lots);
  if (plan.geometry.num_patterns() > 0) keep_better(std::move(plan.geometry));
  return best;
}

}  // namespace packing
