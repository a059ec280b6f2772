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

LengthStrategy greedy, first_fit_decreasing, best_fit_decreasing;

namespace {

// Up to so many lengths are few enough for careful attempts.
constexpr std::int64_t kFewForCare = 1200;

// Steps of the searches that close rows exactly, where they count (kSmallRow).
constexpr std::int64_t kExactSteps = 200'000'000;

// Steps of a first bound by prices. Few pieces prove soon nearly as much as many do.
constexpr std::int64_t kQuickSteps = 300'000'000;

// Whether a row could hold more segments than it may.
bool is_limited(const LengthHistogram& histogram, std::int64_t max_segments) {
  const std::int64_t shortest = histogram.smallest_at_least(1);
  if (shortest == 0) return false;
  return max_segments < std::min(histogram.capacity() / shortest, histogram.size());
}

// The best plan so far with its bound, and what may improve either.
class OptimalPlan {
 public:
  OptimalPlan(const LengthHistogram& histogram, const PlanSettings& settings, Monitor& monitor)
      : histogram_(histogram),
        settings_(settings),
        monitor_(monitor),
        max_segments_(settings.max_documents_per_pack),
        limited_(is_limited(histogram, max_segments_)),
        limits_(optimal_limits(settings.effort, limited_, histogram.size())) {}

  PackedLengths take() { return std::move(best_); }

  // Each stage is true where the plan meets its bound. The first one makes a plan.

  bool fit_decreasing() {
    monitor_.report(0);
    best_.lower_bound = lower_bound(histogram_, max_segments_);
    monitor_.report(0);
    Work exact(kExactSteps, monitor_);
    best_.geometry = exact_fit_decreasing(histogram_, max_segments_, exact);
    if (is_optimal()) return true;
    try_strategy(first_fit_decreasing);
    monitor_.report(0);
    keep_better(even_count_fit(histogram_, max_segments_, exact));
    if (limited_) {
      monitor_.report(0);
      keep_better(full_count_fit(histogram_, max_segments_, exact));
    }
    monitor_.report(0);
    Work dual_feasible(kDualFeasibleSteps, monitor_);
    best_.lower_bound = std::max(best_.lower_bound, dual_feasible_bound(histogram_, dual_feasible));
    return is_optimal();
  }

  bool fill_gaps() {
    close_gaps_of_plan(kGaps);
    for (LengthStrategy* other : {best_fit_decreasing, greedy}) {
      if (is_optimal()) return true;
      try_strategy(*other);
    }
    return is_optimal();
  }

  bool pack_with_prices() {
    raise_bound(histogram_, max_segments_, {kQuickSteps, {{64}}}, monitor_, best_);
    if (is_optimal()) return true;
    has_prices_ = worth_prices(histogram_, max_segments_, limits_);
    if (has_prices_) {
      const auto pack = limited_ ? pack_by_prices_where_limited : pack_by_prices;
      pack(histogram_, max_segments_, limits_, monitor_, best_);
    }
    return is_optimal();
  }

  bool pack_with_patterns() {
    if (has_few_lengths()) pack_by(limits_.few_lengths);
    if (!limited_ || !has_prices_) pack_near_plan(limits_.near);
    if (!limited_ && !has_few_lengths() && histogram_.num_lengths() <= kFewForCare) {
      pack_near_plan(limits_.careful);
    }
    if (is_optimal()) return true;
    if (!limited_ && histogram_.num_lengths() > limits_.patterns.back().classes) {
      raise_bound(histogram_, max_segments_, limits_.last, monitor_, best_);
      if (is_optimal()) return true;
    }
    for (const PatternStage& stage : limits_.patterns) {
      if (pack_by(stage)) break;
    }
    return is_optimal();
  }

  bool fill_last_gaps() {
    close_gaps_of_plan(kLastGaps);
    return is_optimal();
  }

  bool draw_lots() {
    Random lots(kGeometrySeed, kLots);
    if (has_few_lengths()) pack_by(limits_.by_lots, &lots);
    return is_optimal();
  }

 private:
  bool is_optimal() const { return best_.geometry.num_packs() <= best_.lower_bound; }

  bool has_few_lengths() const { return histogram_.num_lengths() <= limits_.few_lengths.classes; }

  void keep_better(Geometry geometry) {
    if (geometry.num_packs() < best_.geometry.num_packs()) best_.geometry = std::move(geometry);
  }

  void try_strategy(LengthStrategy& other) {
    monitor_.report(0);
    keep_better(other(histogram_, settings_, monitor_).geometry);
  }

  void close_gaps_of_plan(GeometryStream stream) {
    Random random(kGeometrySeed, stream);
    Work work(limits_.gaps, monitor_);
    close_gaps(best_.geometry, histogram_.capacity(), max_segments_, best_.lower_bound, random,
               work);
  }

  void pack_near_plan(const NearAttempts& attempts) {
    pack_near(histogram_, max_segments_, limits_, attempts, monitor_, best_);
  }

  // True where nothing remains to be done. Dives take patterns by `lots` where it is given.
  bool pack_by(const PatternStage& stage, Random* lots = nullptr) {
    Work work(stage.steps, monitor_);
    PatternPlan plan = pack_by_patterns(histogram_, max_segments_, best_.geometry.num_packs(),
                                        best_.lower_bound, stage.classes, stage.dives, work, lots);
    best_.lower_bound = plan.lower_bound;
    if (plan.geometry.num_patterns() > 0) keep_better(std::move(plan.geometry));
    return is_optimal() || (plan.exact && !work.exhausted());
  }

  const LengthHistogram& histogram_;
  const PlanSettings& settings_;
  Monitor& monitor_;
  std::int64_t max_segments_;
  bool limited_;
  OptimalLimits limits_;
  bool has_prices_ = false;  // known once they were tried
  PackedLengths best_;
};

}  // namespace

PackedLengths optimal(const LengthHistogram& histogram, const PlanSettings& settings,
                      Monitor& monitor) {
  OptimalPlan plan(histogram, settings, monitor);
  plan.fit_decreasing() || plan.fill_gaps() || plan.pack_with_prices() ||
      plan.pack_with_patterns() || plan.fill_last_gaps() || plan.draw_lots();
  return plan.take();
}

}  // namespace packing
