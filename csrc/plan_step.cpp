// SPDX-License-Identifier: Apache-2.0
// Groups become items, items micro-batches, micro-batches turns of all ranks.
#include "plan_step.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>

#include "base/divide_up.hpp"
#include "step/deal_batches.hpp"
#include "step/fill.hpp"
#include "step/micro_batches.hpp"

namespace packing {
namespace {

void refuse(const std::string& sentence) { throw std::invalid_argument(sentence); }

void check(const std::int64_t* units, const double* work, std::int64_t size,
           const StepSettings& settings) {
  for (const auto& [name, value] : {std::pair{"budget", settings.budget},
                                    {"num_ranks", settings.num_ranks},
                                    {"num_micro_batches_multiple_of", settings.multiple_of},
                                    {"max_documents", settings.max_documents}}) {
    if (value < 1) {
      refuse(std::string(name) + " is " + std::to_string(value) + "; it must be at least 1");
    }
  }
  std::int64_t total = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    if (units[i] < 1) {
      refuse("lengths[" + std::to_string(i) + "] is " + std::to_string(units[i]) +
             "; it must be at least 1");
    }
    if (units[i] > settings.budget) {
      refuse("lengths[" + std::to_string(i) + "] takes " + std::to_string(units[i]) +
             " positions, which is more than the budget of " + std::to_string(settings.budget) +
             "; cut it, leave it out, or raise the budget");
    }
    if (units[i] > std::numeric_limits<std::int64_t>::max() - total) {
      refuse("the lengths add up to more than 2^63 - 1");
    }
    total += units[i];
    if (!(work[i] >= 0) || !std::isfinite(work[i])) {
      refuse("work[" + std::to_string(i) + "] is " + std::to_string(work[i]) +
             "; it must be a number that is not below 0");
    }
  }
}

// Which item each document belongs to: items are numbered by their first document.
std::vector<std::size_t> items_of(const std::int64_t* groups, std::int64_t size) {
  std::vector<std::size_t> item_of(static_cast<std::size_t>(size));
  std::iota(item_of.begin(), item_of.end(), std::size_t{0});
  if (groups == nullptr) return item_of;
  std::vector<std::size_t> by_group = item_of;
  std::stable_sort(by_group.begin(), by_group.end(),
                   [&](std::size_t a, std::size_t b) { return groups[a] < groups[b]; });
  for (std::size_t i = 1; i < by_group.size(); ++i) {
    if (groups[by_group[i]] == groups[by_group[i - 1]]) {
      item_of[by_group[i]] = item_of[by_group[i - 1]];
    }
  }
  std::size_t items = 0;  // so far `item_of` names the first document of the group
  for (std::size_t document = 0; document < item_of.size(); ++document) {
    const std::size_t first = item_of[document];
    item_of[document] = first == document ? items++ : item_of[first];
  }
  return item_of;
}

void check_groups(const std::vector<StepItem>& items, const std::vector<std::size_t>& item_of,
                  const std::int64_t* groups, const StepLimits& limits) {
  for (std::size_t document = 0; document < item_of.size(); ++document) {
    const StepItem& item = items[item_of[document]];
    const bool is_long = item.units > limits.budget;
    if (!is_long && item.documents <= limits.documents) continue;
    refuse("group " + std::to_string(groups[document]) + " has " +
           std::to_string(is_long ? item.units : item.documents) +
           (is_long ? " positions, which is more than the budget of "
                    : " documents, which is more than max_documents, ") +
           std::to_string(is_long ? limits.budget : limits.documents) +
           "; a group must fit into one micro-batch");
  }
}

// Micro-batches that are needed, at least: for all positions, for items of more than half a budget,
// and for all documents.
std::int64_t lower_bound(const std::vector<StepItem>& items, const StepLimits& limits) {
  std::int64_t units = 0;
  std::int64_t documents = 0;
  std::int64_t large = 0;
  for (const StepItem& item : items) {
    units += item.units;
    documents += item.documents;
    if (item.units > limits.budget - item.units) ++large;
  }
  return std::max({divide_up(units, limits.budget), divide_up(documents, limits.documents), large});
}

StepPlan in_order(const MicroBatches& batches, const Dealt& dealt, std::size_t num_ranks,
                  const std::vector<std::size_t>& item_of) {
  StepPlan plan;
  plan.rank = dealt.rank;
  plan.sync = dealt.sync;
  const std::size_t per_rank = dealt.batches.size() / num_ranks;
  std::vector<std::size_t> place_of(dealt.batches.size());
  for (std::size_t place = 0; place < dealt.batches.size(); ++place) {
    place_of[dealt.batches[place]] = place % num_ranks * per_rank + place / num_ranks;
  }
  plan.offsets.assign(dealt.batches.size() + 1, 0);
  for (const std::size_t item : item_of) ++plan.offsets[place_of[batches.batch_of(item)] + 1];
  std::partial_sum(plan.offsets.begin(), plan.offsets.end(), plan.offsets.begin());
  std::vector<std::int64_t> next(plan.offsets.begin(), plan.offsets.end() - 1);
  plan.documents.resize(item_of.size());
  for (std::size_t document = 0; document < item_of.size(); ++document) {
    std::int64_t& at = next[place_of[batches.batch_of(item_of[document])]];
    plan.documents[static_cast<std::size_t>(at++)] = static_cast<std::int64_t>(document);
  }
  return plan;
}

}  // namespace

StepPlan plan_step(const std::int64_t* units, const double* work, const std::int64_t* groups,
                   std::int64_t size, const StepSettings& settings) {
  check(units, work, size, settings);
  const StepLimits limits{settings.budget, settings.max_documents};
  const std::vector<std::size_t> item_of = items_of(groups, size);
  std::vector<StepItem> items(size == 0 ? 0
                                        : *std::max_element(item_of.begin(), item_of.end()) + 1);
  for (std::size_t document = 0; document < item_of.size(); ++document) {
    StepItem& item = items[item_of[document]];
    item.units += units[document];
    item.documents += 1;
    item.work += work[document];
  }
  if (groups != nullptr) check_groups(items, item_of, groups, limits);

  const auto num_items = static_cast<std::int64_t>(items.size());
  const std::string some_items = std::to_string(num_items) +
                                 (groups == nullptr ? " document" : " group") +
                                 (num_items == 1 ? "" : "s");
  if (settings.multiple_of > num_items / settings.num_ranks) {
    refuse(some_items + (num_items == 1 ? " is" : " are") + " fewer than " +
           std::to_string(settings.num_ranks) + " ranks times " +
           std::to_string(settings.multiple_of) +
           (settings.multiple_of == 1 ? " micro-batch" : " micro-batches") +
           ", and none may be empty; give more, or fewer ranks");
  }
  const std::int64_t at_once = settings.num_ranks * settings.multiple_of;
  const std::int64_t least = divide_up(lower_bound(items, limits), at_once);
  for (std::int64_t rounds = least; rounds * at_once <= num_items; ++rounds) {
    const auto num_batches = static_cast<std::size_t>(rounds * at_once);
    const std::vector<std::size_t> order = largest_first(items, limits.budget, num_batches);
    std::optional<MicroBatches> batches = fill(items, order, num_batches, limits);
    if (!batches) continue;
    const auto num_ranks = static_cast<std::size_t>(settings.num_ranks);
    const Dealt dealt = deal_batches(items, *batches, num_ranks);
    StepPlan plan = in_order(*batches, dealt, num_ranks, item_of);
    plan.lower_bound = least * settings.multiple_of;
    return plan;
  }
  refuse(some_items + " do not fit into micro-batches of " + std::to_string(limits.budget) +
         " positions of which " + std::to_string(settings.num_ranks) +
         " ranks have a multiple of " + std::to_string(settings.multiple_of) +
         " each without an empty one; give more documents, fewer ranks, or a larger budget");
  return {};
}

}  // namespace packing
