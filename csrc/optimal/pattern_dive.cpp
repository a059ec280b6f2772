// SPDX-License-Identifier: Apache-2.0
// Column generation, and a dive that rounds its solution.
#include "optimal/pattern_dive.hpp"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "optimal/exact_fit.hpp"
#include "optimal/rounded_lengths.hpp"

namespace packing {
namespace {

// A pack that is in the fractional plan by less than this beyond a whole number is not rounded up
// beside others in one step.
constexpr double kNearlyWhole = 0.6;
// The shares of the packs that are left which one step rounds up, and a pack at least: one share
// for each dive, again from the first where there are more dives.
constexpr double kSteps[] = {0.1, 0.03, 0.25, 0.06, 0.15, 0.02, 0.4, 0.08, 0.045, 0.2, 0.01, 0.12};
// What lots add to how often a pack is in the fractional plan, at most.
constexpr double kLots = 0.5;
// Fractional plans come with rounding.
constexpr double kTolerance = 1e-6;

// Lengths that are treated as one, as places among all that there are.
struct Classes {
  std::vector<std::int64_t> lengths;  // ascending
  std::vector<std::size_t> ends;      // one past the last length of each class

  Classes(const LengthHistogram& histogram, std::size_t most) {
    for (std::int64_t length = histogram.largest_at_most(histogram.capacity()); length > 0;
         length = histogram.largest_at_most(length - 1)) {
      lengths.push_back(length);
    }
    std::reverse(lengths.begin(), lengths.end());
    const std::size_t count = std::min(most, lengths.size());
    for (std::size_t i = 1; i <= count; ++i) ends.push_back(lengths.size() * i / count);
  }

  bool exact() const { return ends.size() == lengths.size(); }

  // Every segment as long as the longest, or the shortest, of its class.
  LengthHistogram round(const LengthHistogram& histogram, bool up) const {
    LengthHistogram rounded(histogram.capacity());
    std::size_t first = 0;
    for (const std::size_t end : ends) {
      const std::int64_t length = up ? lengths[end - 1] : lengths[first];
      for (; first < end; ++first) rounded.add(length, histogram.count(lengths[first]));
    }
    return rounded;
  }
};

// Takes the shortest segments out of a histogram, where the gaps that a plan leaves hold them all
// with ease: they would make the program large and change nothing.
LengthHistogram take_crumbs(LengthHistogram& histogram, std::int64_t gaps) {
  constexpr std::int64_t kCrumbsARow = 100;
  LengthHistogram crumbs(histogram.capacity());
  for (std::int64_t length = 1; length <= histogram.capacity() / kCrumbsARow; ++length) {
    const std::int64_t count = histogram.count(length);
    if (crumbs.positions() + length * count > gaps / 2) break;
    histogram.remove(length, count);
    crumbs.add(length, count);
  }
  return crumbs;
}

// Puts crumbs into the gaps, and what is left of them into rows of their own.
Geometry fill_gaps(const Geometry& geometry, LengthHistogram crumbs, Work& work) {
  Geometry filled;
  for (std::int64_t pattern = 0; pattern < geometry.num_patterns(); ++pattern) {
    const auto p = static_cast<std::size_t>(pattern);
    const auto begin = geometry.runs.begin() + geometry.pattern_offsets[p];
    const auto end = geometry.runs.begin() + geometry.pattern_offsets[p + 1];
    const std::int64_t gap = crumbs.capacity() - geometry.pattern_positions(pattern);
    std::int64_t left = geometry.repeats[p];
    for (; left > 0 && crumbs.largest_at_most(gap) > 0; --left) {
      filled.runs.insert(filled.runs.end(), begin, end);
      std::int64_t room = gap;
      while (const std::int64_t length = crumbs.largest_at_most(room)) {
        const std::int64_t count = std::min(crumbs.count(length), room / length);
        crumbs.remove(length, count);
        filled.runs.push_back(
            {static_cast<std::uint32_t>(length), static_cast<std::uint32_t>(count)});
        room -= length * count;
      }
      filled.close_pattern(1);
    }
    if (left == 0) continue;
    filled.runs.insert(filled.runs.end(), begin, end);
    filled.close_pattern(left);
  }
  const std::int64_t any_number = std::numeric_limits<std::int64_t>::max();
  filled.append(exact_fit_decreasing(std::move(crumbs), any_number, work));
  return filled;
}

// Takes a pattern as often as is asked for and as its segments are left; returns how often.
std::int64_t take_whole(const std::vector<Run>& runs, std::int64_t packs,
                        LengthHistogram& histogram, Geometry& geometry) {
  for (const Run& run : runs) packs = std::min(packs, histogram.count(run.length) / run.count);
  if (packs <= 0) return 0;
  for (const Run& run : runs) {
    histogram.remove(run.length, run.count * packs);
    geometry.runs.push_back(run);
  }
  geometry.close_pattern(packs);
  return packs;
}

// Takes what is left of a pattern, and the longest that fit beside it.
void take_part(const std::vector<Run>& runs, std::int64_t max_segments, LengthHistogram& histogram,
               Geometry& geometry) {
  OpenPack pack(histogram, geometry, max_segments);
  for (const Run& run : runs) {
    const std::int64_t count = std::min<std::int64_t>(run.count, histogram.count(run.length));
    if (count > 0) pack.take(run.length, count);
  }
  pack.fill_longest_first();
  pack.close(1);
}

// A uniform number in [0, 1).
double share_of_one(Random& random) {
  constexpr std::uint64_t kParts = std::uint64_t{1} << 30;
  return static_cast<double>(random.below(kParts)) / static_cast<double>(kParts);
}

// What one look for the dearest packs takes, at most: fewer than usual where no length is short.
std::int64_t steps_of_prices(const LengthHistogram& histogram, std::int64_t max_segments) {
  const std::int64_t capacity = histogram.capacity();
  const std::int64_t shortest = histogram.smallest_at_least(1);
  const std::int64_t longest = histogram.largest_at_most(capacity);
  const std::int64_t steps = DearestFill::steps(histogram, max_segments);
  if (max_segments < capacity / shortest) return steps;
  return std::min(steps, (longest - shortest + 1) * (capacity - shortest + 1));
}

}  // namespace

Geometry dive(LengthHistogram histogram, std::int64_t max_segments, std::int64_t num_packs,
              double step, PriceFinder& finder, Work& work, Random* lots) {
  Geometry geometry;
  std::int64_t packs = 0;
  while (histogram.size() > 0 && !work.exhausted()) {
    const std::int64_t needed =
        finder.find(histogram, std::numeric_limits<std::int64_t>::max(), work);
    if (packs + needed >= num_packs) break;
    std::vector<PriceFinder::Pattern> patterns = finder.patterns();
    double left = 0;
    std::int64_t taken = 0;
    for (PriceFinder::Pattern& pattern : patterns) {
      const double whole = std::floor(pattern.packs + kTolerance);
      taken += take_whole(pattern.runs, static_cast<std::int64_t>(whole), histogram, geometry);
      pattern.packs -= whole;
      left += pattern.packs;
    }
    if (lots != nullptr) {
      for (PriceFinder::Pattern& pattern : patterns) {
        if (pattern.packs > kTolerance) pattern.packs += kLots * share_of_one(*lots);
      }
    }
    std::stable_sort(patterns.begin(), patterns.end(),
                     [](const auto& a, const auto& b) { return a.packs > b.packs; });
    const double most = std::max(1.0, left * step);
    std::int64_t rounded = 0;
    for (const PriceFinder::Pattern& pattern : patterns) {
      if (static_cast<double>(rounded) >= most) break;
      if (rounded > 0 && pattern.packs < kNearlyWhole) break;
      rounded += take_whole(pattern.runs, 1, histogram, geometry);
    }
    if (taken + rounded == 0 && histogram.size() > 0) {
      take_part(patterns.empty() ? std::vector<Run>() : patterns.front().runs, max_segments,
                histogram, geometry);
      rounded = 1;
    }
    packs += taken + rounded;
  }
  geometry.append(exact_fit_decreasing(std::move(histogram), max_segments, work));
  return geometry;
}

PatternPlan pack_by_patterns(LengthHistogram histogram, std::int64_t max_segments,
                             std::int64_t num_packs, std::int64_t lower_bound,
                             std::int64_t max_classes, int dives, Work& work, Random* lots) {
  PatternPlan plan;
  plan.lower_bound = lower_bound;
  const std::int64_t gaps = num_packs * histogram.capacity() - histogram.positions();
  const bool limited = max_segments < histogram.capacity();
  LengthHistogram crumbs = take_crumbs(histogram, limited ? 0 : gaps);
  const Classes classes(histogram, static_cast<std::size_t>(max_classes));
  plan.exact = classes.exact();
  const PriceFinder::Pieces each{histogram.capacity()};
  // Whether rounding moves less than the rows in question.
  auto worth = [&](const LengthHistogram& rounded) {
    const std::int64_t moved = std::abs(rounded.positions() - histogram.positions());
    return moved / histogram.capacity() < num_packs - plan.lower_bound && !work.exhausted() &&
           steps_of_prices(rounded, max_segments) < work.left();
  };
  if (!classes.exact()) {
    const LengthHistogram shorter = classes.round(histogram, false);
    if (worth(shorter)) {
      PriceFinder finder(shorter, max_segments, each);
      plan.lower_bound = std::max(lower_bound, finder.find(shorter, num_packs, work));
    }
  }
  const LengthHistogram longer = classes.round(histogram, true);
  if (num_packs <= plan.lower_bound || !worth(longer)) return plan;
  PriceFinder finder(longer, max_segments, each);
  const std::int64_t bound = finder.find(longer, num_packs, work);
  if (classes.exact()) plan.lower_bound = std::max(plan.lower_bound, bound);
  const std::int64_t enough = std::max(plan.lower_bound, bound);
  Geometry best;
  for (int number = 0; number < dives && enough < num_packs && !work.exhausted(); ++number) {
    const double step = kSteps[static_cast<std::size_t>(number) % std::size(kSteps)];
    Geometry geometry = dive(longer, max_segments, num_packs, step, finder, work, lots);
    if (geometry.num_packs() >= num_packs) continue;
    num_packs = geometry.num_packs();
    best = std::move(geometry);
  }
  if (best.num_patterns() > 0) {
    plan.geometry = fill_gaps(restore(best, 1, std::move(histogram)), std::move(crumbs), work);
  }
  return plan;
}

}  // namespace packing
