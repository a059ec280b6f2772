// SPDX-License-Identifier: Apache-2.0
#include "plan.hpp"

#include <algorithm>
#include <queue>
#include <stdexcept>
#include <utility>
#include <vector>

#include "deal.hpp"
#include "document_strategies.hpp"
#include "lower_bound.hpp"
#include "memory.hpp"
#include "strategies.hpp"

namespace packing {
namespace {

void require(bool holds, const char* name, std::int64_t value, const std::string& expected) {
  if (holds) return;
  throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) + "; it must be " +
                              expected);
}

void check(const PlanOptions& options) {
  const std::int64_t row = options.sequence_length;
  require(row >= 1 && row <= kMaxSequenceLength, "sequence_length", row,
          "between 1 and " + std::to_string(kMaxSequenceLength));
  require(options.alignment >= 1 && options.alignment <= row && row % options.alignment == 0,
          "alignment", options.alignment,
          "a divisor of the sequence length " + std::to_string(row));
  require(options.max_documents_per_pack >= 1, "max_documents_per_pack",
          options.max_documents_per_pack, "at least 1");
  constexpr std::int64_t kMostPacks = std::int64_t{1} << 36;  // what can be asked for
  require(options.min_packs >= 0 && options.min_packs <= kMostPacks, "min_packs", options.min_packs,
          "between 0 and 2^36");
  require(options.packs_multiple_of >= 1 && options.packs_multiple_of <= kMostPacks,
          "packs_multiple_of", options.packs_multiple_of, "between 1 and 2^36");
  const bool is_random = options.strategy == "random";
  if (!is_random && options.strategy != "first_fit_shuffle" && options.strategy != "optimal" &&
      find_strategy(options.strategy) == nullptr) {
    throw std::invalid_argument("strategy is '" + options.strategy +
                                "'; use padding, random, greedy, first_fit_shuffle, "
                                "first_fit_decreasing, best_fit_decreasing or optimal");
  }
  if (is_random &&
      (options.overlong == Overlong::kDrop || options.overlong == Overlong::kTruncate)) {
    throw std::invalid_argument(
        "strategy random cuts documents at the ends of rows; use overlong = split or error");
  }
}

// Up to how many packs there must be.
std::int64_t wanted_packs(std::int64_t num_packs, const PlanOptions& options) {
  num_packs = std::max(num_packs, options.min_packs);
  const std::int64_t over = num_packs % options.packs_multiple_of;
  return over == 0 ? num_packs : num_packs + options.packs_multiple_of - over;
}

// Divides packs of the most segments in two until there are `wanted` packs, so that what is asked
// for beyond the fewest has work to do; empty packs are added only where segments have run out.
void spread(Geometry& geometry, std::int64_t wanted) {
  std::int64_t num_packs = geometry.num_packs();
  if (num_packs >= wanted) return;
  std::priority_queue<std::pair<std::int64_t, std::int64_t>> by_size;  // and pattern
  for (std::int64_t pattern = 0; pattern < geometry.num_patterns(); ++pattern) {
    by_size.emplace(geometry.pattern_size(pattern), pattern);
  }
  for (; num_packs < wanted && !by_size.empty() && by_size.top().first > 1; ++num_packs) {
    const std::int64_t pattern = by_size.top().second;
    const auto p = static_cast<std::size_t>(pattern);
    if (--geometry.repeats[p] == 0) by_size.pop();
    const std::vector<Run> runs(geometry.runs.begin() + geometry.pattern_offsets[p],
                                geometry.runs.begin() + geometry.pattern_offsets[p + 1]);
    for (std::uint32_t half = 0; half < 2; ++half) {
      std::uint32_t turn = half;  // odd ones out go to the halves in turn
      for (const Run& run : runs) {
        const std::uint32_t count = run.count / 2 + (run.count % 2 != 0 && turn % 2 == 0 ? 1 : 0);
        turn += run.count % 2;
        if (count > 0) geometry.runs.push_back({run.length, count});
      }
      geometry.close_pattern(1);
      by_size.emplace(geometry.pattern_size(geometry.num_patterns() - 1),
                      geometry.num_patterns() - 1);
    }
  }
  if (num_packs < wanted) geometry.close_pattern(wanted - num_packs);
}

void add_empty_packs(Plan& plan, const PlanOptions& options) {
  const std::int64_t num_packs = plan.pack_offsets.size() - 1;
  const std::int64_t wanted = wanted_packs(num_packs, options);
  if (wanted == num_packs) return;
  Buffer<std::int64_t> offsets(wanted + 1);
  std::copy(plan.pack_offsets.data(), plan.pack_offsets.data() + num_packs + 1, offsets.data());
  std::fill(offsets.data() + num_packs + 1, offsets.data() + wanted + 1,
            plan.pack_offsets[num_packs]);
  plan.pack_offsets = std::move(offsets);
}

// The part of a report that one of three stages is.
class Stage : public Monitor {
 public:
  Stage(Monitor& monitor, double begin, double end) : monitor_(monitor), begin_(begin), end_(end) {}
  void report(double share) override { monitor_.report(begin_ + (end_ - begin_) * share); }

 private:
  Monitor& monitor_;
  double begin_, end_;
};

void plan_by_length(const Items& items, const Survey& found, const PlanOptions& options,
                    Monitor& monitor, Plan& plan) {
  const LengthHistogram histogram = items.histogram(found, monitor);
  Geometry geometry;
  if (options.strategy == "optimal") {
    Stage stage(monitor, 0.1, 0.5);
    BoundedGeometry best =
        optimal(histogram, options.max_documents_per_pack, options.effort, stage);
    geometry = std::move(best.geometry);
    plan.lower_bound = best.lower_bound;
  } else {
    monitor.report(0.1);
    geometry = find_strategy(options.strategy)(histogram, options.max_documents_per_pack);
  }
  spread(geometry, wanted_packs(geometry.num_packs(), options));
  Stage stage(monitor, 0.5, 1);
  deal(items, histogram, geometry, options.seed, stage, plan);
}

// What is lost and cut, by the lengths alone.
void count_overlong(const Items& items, const Survey& found, const PlanOptions& options,
                    Monitor& monitor, Plan& plan) {
  plan.num_documents_overlong = static_cast<std::int64_t>(found.overlong.size());
  plan.num_positions = items.positions();
  plan.num_positions_lost = found.positions - plan.num_positions;
  if (options.strategy != "random") {
    if (options.overlong == Overlong::kSplit) {
      plan.num_documents_split = plan.num_documents_overlong;
    }
    return;
  }
  std::vector<bool> cut(static_cast<std::size_t>(items.lengths().size()));
  constexpr std::int64_t kReportEvery = std::int64_t{1} << 20;
  for (std::int64_t place = 0; place < plan.segment_starts.size(); ++place) {
    if (place % kReportEvery == 0) monitor.report(1);
    if (plan.segment_starts[place] == 0) continue;
    const std::int64_t document =
        plan.wide_ids.size() > 0 ? plan.wide_ids[place] : plan.narrow_ids[place];
    if (!cut[static_cast<std::size_t>(document)]) ++plan.num_documents_split;
    cut[static_cast<std::size_t>(document)] = true;
  }
}

}  // namespace

Plan plan_packs(const Lengths& lengths, const PlanOptions& options, Monitor& monitor) {
  check(options);
  const std::int64_t row = options.sequence_length;
  const Survey found = survey(lengths, row, monitor);
  const bool is_random = options.strategy == "random";
  const Items items(lengths, found, row, options.alignment,
                    is_random ? Overlong::kSplit : options.overlong);
  const std::int64_t least_packs =
      wanted_packs(std::max<std::int64_t>(1, items.positions() / row), options);
  constexpr std::int64_t kBytesAPack = 12;
  require_memory(least_packs, kBytesAPack, "packs",
                 "ask for fewer packs (min_packs, packs_multiple_of)");
  Plan plan;
  if (is_random || options.strategy == "first_fit_shuffle") {
    Stage stage(monitor, 0.1, 1);
    (is_random ? random_packs : first_fit_shuffle)(items, options, stage, plan);
    add_empty_packs(plan, options);
  } else {
    plan_by_length(items, found, options, monitor, plan);
  }
  if (is_random) {  // cut documents fill every row
    plan.lower_bound = std::max(found.positions / row + (found.positions % row > 0 ? 1 : 0),
                                (lengths.size() - 1) / options.max_documents_per_pack + 1);
  } else if (options.strategy != "optimal") {
    const LengthHistogram histogram = items.histogram(found, monitor);
    Work work(kDualFeasibleSteps, monitor);
    plan.lower_bound = std::max(lower_bound(histogram, options.max_documents_per_pack),
                                dual_feasible_bound(histogram, work));
  }
  count_overlong(items, found, options, monitor, plan);
  return plan;
}

}  // namespace packing
