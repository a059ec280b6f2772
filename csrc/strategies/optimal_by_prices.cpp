// SPDX-License-Identifier: Apache-2.0
// Finer prices begin with the packs of coarser ones.
#include "strategies/optimal_by_prices.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/divide_up.hpp"
#include "base/random.hpp"
#include "base/work.hpp"
#include "optimal/dearest_fill.hpp"
#include "optimal/near_patterns.hpp"
#include "optimal/price_guided.hpp"
#include "optimal/repack.hpp"
#include "optimal/rounded_lengths.hpp"

namespace packing {
namespace {

bool is_optimal(const PackedLengths& best) { return best.geometry.num_packs() <= best.lower_bound; }

std::int64_t unit_of(const LengthHistogram& histogram, std::int64_t most_units) {
  std::int64_t unit = 1;
  while (histogram.capacity() / unit > most_units) unit *= 2;
  return unit;
}

// Dives, one after another, while the plan has more packs than `enough`.
void dive_by_prices(const LengthHistogram& histogram, std::int64_t max_segments,
                    const std::vector<Dive>& dives, std::int64_t enough, Work& work,
                    PackedLengths& best) {
  std::uint64_t stream = kFirstDive;
  for (const Dive& dive : dives) {
    if (best.geometry.num_packs() <= enough || work.exhausted()) return;
    Random random(kGeometrySeed, stream++);
    Geometry geometry = price_guided(histogram, max_segments, dive, random, work);
    if (geometry.num_packs() < best.geometry.num_packs()) best.geometry = std::move(geometry);
  }
}

// Prices of ever more pieces. Those that prove the best bound are kept.
class RefinedPrices {
 public:
  RefinedPrices(const LengthHistogram& histogram, std::int64_t max_segments,
                const PriceFinder::Pieces& pieces, std::int64_t steps, Monitor& monitor,
                PackedLengths& best)
      : histogram_(histogram),
        max_segments_(max_segments),
        monitor_(monitor),
        best_(best),
        finder_(histogram, max_segments, pieces) {
    Work work(steps, monitor);
    const std::int64_t bound = finder_.find(histogram, best.geometry.num_packs(), work);
    best.lower_bound = std::max(best.lower_bound, bound);
    found_ = !work.exhausted();
  }

  // True where the bound is higher than before. Each stage has its own steps: pieces of one kind
  // may be found where those of another are not.
  bool refine(const PriceStages& stages) {
    const std::int64_t before = best_.lower_bound;
    for (const PriceFinder::Pieces& pieces : stages.pieces) {
      if (!found_ || is_optimal(best_)) break;
      Work work(stages.steps, monitor_);
      PriceFinder finder(histogram_, max_segments_, pieces);
      finder.begin_with(finder_);
      const std::int64_t bound = finder.find(histogram_, best_.geometry.num_packs(), work);
      if (bound < best_.lower_bound) continue;
      best_.lower_bound = bound;
      finder_ = std::move(finder);
    }
    return best_.lower_bound > before;
  }

  const std::vector<std::int32_t>& prices() const { return finder_.prices(); }

 private:
  const LengthHistogram& histogram_;
  std::int64_t max_segments_;
  Monitor& monitor_;
  PackedLengths& best_;
  PriceFinder finder_;
  bool found_ = false;  // whether the first prices were found within their steps
};

}  // namespace

bool worth_prices(const LengthHistogram& histogram, std::int64_t max_segments,
                  const OptimalLimits& limits) {
  return histogram.capacity() < (std::int64_t{1} << 26) &&
         DearestFill::steps(histogram, max_segments) < limits.one_fill;
}

void raise_bound(const LengthHistogram& histogram, std::int64_t max_segments,
                 const PriceStages& stages, Monitor& monitor, PackedLengths& best) {
  const LengthHistogram shorter = in_units(histogram, unit_of(histogram, kMostUnits), Round::kDown);
  std::optional<PriceFinder> coarser;
  for (const PriceFinder::Pieces& pieces : stages.pieces) {
    Work work(stages.steps, monitor);
    PriceFinder finder(shorter, max_segments, pieces);
    if (coarser) finder.begin_with(*coarser);
    best.lower_bound =
        std::max(best.lower_bound, finder.find(shorter, best.geometry.num_packs(), work));
    if (is_optimal(best) || work.exhausted()) return;
    coarser = std::move(finder);
  }
}

void pack_near(const LengthHistogram& histogram, std::int64_t max_segments,
               const OptimalLimits& limits, const NearAttempts& attempts, Monitor& monitor,
               PackedLengths& best) {
  const std::int64_t unit = unit_of(histogram, limits.near_units);
  const LengthHistogram longer = in_units(histogram, unit, Round::kUp);
  std::int64_t num_packs = best.geometry.num_packs();
  const std::int64_t rounded = longer.positions() * unit - histogram.positions();
  if (rounded / histogram.capacity() >= num_packs - best.lower_bound) return;
  Work work(attempts.steps, monitor);
  Random random(kGeometrySeed, kNearPatterns);
  for (const PriceFinder::Pieces& pieces : attempts.pieces) {
    if (num_packs <= best.lower_bound || work.exhausted()) return;
    const Geometry geometry =
        pack_near_patterns(longer, max_segments, num_packs, pieces, attempts.share, random, work);
    if (geometry.num_patterns() == 0) continue;
    best.geometry = restore(geometry, unit, histogram);
    num_packs = best.geometry.num_packs();
  }
}

void pack_by_prices(const LengthHistogram& histogram, std::int64_t max_segments,
                    const OptimalLimits& limits, Monitor& monitor, PackedLengths& best) {
  Work work(limits.bound, monitor);
  PriceFinder finder(histogram, max_segments, limits.pieces);
  best.lower_bound =
      std::max(best.lower_bound, finder.find(histogram, best.geometry.num_packs(), work));
  Work guided(limits.guided, monitor);
  dive_by_prices(histogram, max_segments, limits.dives, best.lower_bound, guided, best);
  Random random(kGeometrySeed, kCheapRows);
  repack_cheap_rows(best.geometry, histogram.capacity(), max_segments, finder.prices(),
                    best.lower_bound, random, guided);
}

void pack_by_prices_where_limited(const LengthHistogram& histogram, std::int64_t max_segments,
                                  const OptimalLimits& limits, Monitor& monitor,
                                  PackedLengths& best) {
  RefinedPrices refined(histogram, max_segments, limits.pieces, limits.bound, monitor, best);
  refined.refine(limits.soon);
  // Repacking is cheap and often enough; it is tried again where the plan or the prices are new.
  Random random(kGeometrySeed, kCheapRows);
  std::int64_t left = limits.repacked;
  const auto repack = [&](std::int64_t parts) {
    const std::int64_t steps = std::min(left, limits.repacked / parts);
    Work work(steps, monitor);
    repack_cheap_rows(best.geometry, histogram.capacity(), max_segments, refined.prices(),
                      best.lower_bound, random, work);
    left -= steps - work.left();
  };
  repack(8);
  const std::int64_t before = best.geometry.num_packs();
  if (!is_optimal(best)) pack_near(histogram, max_segments, limits, limits.near, monitor, best);
  if (best.geometry.num_packs() < before) repack(4);
  // Finer prices seldom prove more than that all positions fill so many rows, if coarse ones do
  // not.
  const std::int64_t full_rows = divide_up(histogram.positions(), histogram.capacity());
  if (best.lower_bound > full_rows && refined.refine(limits.late)) repack(4);
  // A dive reaches a plan near the optimum from far away. It is seldom better than a near one.
  const std::int64_t near =
      best.lower_bound + best.geometry.num_packs() * limits.dive_above / 10'000;
  Work guided(limits.guided, monitor);
  dive_by_prices(histogram, max_segments, limits.dives, near, guided, best);
  repack(1);
}

}  // namespace packing
