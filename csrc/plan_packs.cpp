// SPDX-License-Identifier: Apache-2.0
// The driver: checks settings, runs the strategy, divides packs, deals documents, counts.
#include "plan_packs.hpp"

#include <algorithm>
#include <queue>
#include <utility>
#include <variant>
#include <vector>

#include "base/memory.hpp"
#include "deal.hpp"
#include "optimal/lower_bound.hpp"
#include "strategies/strategy.hpp"
#include "types/geometry.hpp"
#include "types/items.hpp"

namespace packing {
namespace {

// Up to how many packs there must be.
std::int64_t wanted_packs(std::int64_t num_packs, const PlanSettings& settings) {
  num_packs = std::max(num_packs, settings.min_packs);
  const std::int64_t over = num_packs % settings.packs_multiple_of;
  return over == 0 ? num_packs : num_packs + settings.packs_multiple_of - over;
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

void add_empty_packs(Plan& plan, const PlanSettings& settings) {
  const std::int64_t num_packs = plan.pack_offsets.size() - 1;
  const std::int64_t wanted = wanted_packs(num_packs, settings);
  if (wanted == num_packs) return;
  Buffer<std::int64_t> offsets(wanted + 1);
  std::copy(plan.pack_offsets.data(), plan.pack_offsets.data() + num_packs + 1, offsets.data());
  std::fill(offsets.data() + num_packs + 1, offsets.data() + wanted + 1,
            plan.pack_offsets[num_packs]);
  plan.pack_offsets = std::move(offsets);
}

// Reports a stage's progress as the part of the whole that the stage is.
class Stage : public Monitor {
 public:
  Stage(Monitor& monitor, double begin, double end) : monitor_(monitor), begin_(begin), end_(end) {}
  void report(double share) override { monitor_.report(begin_ + (end_ - begin_) * share); }

 private:
  Monitor& monitor_;
  double begin_, end_;
};

// Packs lengths, then deals documents to their places.
void plan_by_length(LengthStrategy* pack, const Items& items, const Survey& found,
                    const PlanSettings& settings, Monitor& monitor, Plan& plan) {
  const LengthHistogram histogram = items.histogram(found, monitor);
  Stage packing(monitor, 0.1, 0.45);
  PackedLengths packed = pack(histogram, settings, packing);
  if (packed.lower_bound == 0) {
    Stage bounding(monitor, 0.45, 0.5);
    packed.lower_bound = quick_lower_bound(histogram, settings.max_documents_per_pack, bounding);
  }
  plan.lower_bound = packed.lower_bound;
  spread(packed.geometry, wanted_packs(packed.geometry.num_packs(), settings));
  Stage dealing(monitor, 0.5, 1);
  deal(items, found, histogram, packed.geometry, settings.seed, dealing, plan);
}

void plan_by_document(DocumentStrategy* pack, const Items& items, const Survey& found,
                      const PlanSettings& settings, Monitor& monitor, Plan& plan) {
  Stage packing(monitor, 0.1, 0.95);
  pack(items, settings, packing, plan);
  add_empty_packs(plan, settings);
  if (plan.lower_bound > 0) return;
  Stage bounding(monitor, 0.95, 1);
  plan.lower_bound = quick_lower_bound(items.histogram(found, bounding),
                                       settings.max_documents_per_pack, bounding);
}

// How many documents have a segment that does not begin with them.
std::int64_t count_cut_documents(const Plan& plan, std::int64_t num_documents, Monitor& monitor) {
  constexpr std::int64_t kReportEvery = std::int64_t{1} << 20;
  std::vector<bool> cut(static_cast<std::size_t>(num_documents));
  std::int64_t count = 0;
  for (std::int64_t place = 0; place < plan.segment_starts.size(); ++place) {
    if (place % kReportEvery == 0) monitor.report(1);
    if (plan.segment_starts[place] == 0) continue;
    const auto document = static_cast<std::size_t>(
        plan.wide_ids.size() > 0 ? plan.wide_ids[place] : plan.narrow_ids[place]);
    if (!cut[document]) ++count;
    cut[document] = true;
  }
  return count;
}

}  // namespace

Plan plan_packs(const Lengths& lengths, const PlanSettings& settings, Monitor& monitor) {
  check_ranges(settings);
  const Strategy& strategy = find_strategy(settings);
  const std::int64_t row = settings.sequence_length;
  const Survey found = survey(lengths, row, monitor);
  const Overlong overlong = strategy.cuts_documents ? Overlong::kSplit : settings.overlong;
  const Items items(lengths, found, row, settings.alignment, overlong);
  const std::int64_t least_packs =
      wanted_packs(std::max<std::int64_t>(1, items.positions() / row), settings);
  constexpr std::int64_t kBytesAPack = 12;
  require_memory(least_packs, kBytesAPack, "packs",
                 "ask for fewer with {min_packs} and {packs_multiple_of}");
  Plan plan;
  if (const auto* pack = std::get_if<LengthStrategy*>(&strategy.pack)) {
    plan_by_length(*pack, items, found, settings, monitor, plan);
  } else {
    plan_by_document(std::get<DocumentStrategy*>(strategy.pack), items, found, settings, monitor,
                     plan);
  }
  plan.num_documents_overlong = static_cast<std::int64_t>(found.overlong.size());
  plan.num_positions = items.positions();
  plan.num_positions_lost = found.positions - plan.num_positions;
  if (strategy.cuts_documents) {
    plan.num_documents_split = count_cut_documents(plan, lengths.size(), monitor);
  } else if (overlong == Overlong::kSplit) {
    plan.num_documents_split = plan.num_documents_overlong;
  }
  return plan;
}

}  // namespace packing
