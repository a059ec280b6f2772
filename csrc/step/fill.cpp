// SPDX-License-Identifier: Apache-2.0
// A heap and a set by room, and the exact fits of the strategy `optimal`.
#include "step/fill.hpp"

#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <utility>

#include "base/monitor.hpp"
#include "base/work.hpp"
#include "optimal/exact_fit.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {
namespace {

// Plans of a step take milliseconds at most: nobody waits for news of them.
class Silent : public Monitor {
 public:
  void report(double) override {}
};

// The micro-batches as a heap, the one with the most room on top; the first of equal ones.
class EmptiestFirst {
 public:
  explicit EmptiestFirst(const MicroBatches& batches) : batches_(batches) {
    heap_.reserve(batches.size());
    for (std::size_t batch = 0; batch < batches.size(); ++batch) {
      heap_.push_back({batches[batch].room, batch});
    }
    for (std::size_t place = heap_.size() / 2; place-- > 0;) sink(place, heap_[place]);
  }

  // The place in the heap of an empty micro-batch with room for an item, or the heap's size.
  std::size_t find(const StepItem& item) const {
    std::size_t place = 0;
    while (place < heap_.size() && !batches_.fits(item, heap_[place].batch)) ++place;
    return place;
  }
  std::size_t batch(std::size_t place) const { return heap_[place].batch; }

  // Puts the micro-batch at a place, which has less room now, where it belongs.
  void lower(std::size_t place) {
    sink(place, {batches_[heap_[place].batch].room, heap_[place].batch});
  }

 private:
  struct Entry {
    std::int64_t room;
    std::size_t batch;
  };

  static bool is_emptier(const Entry& a, const Entry& b) {
    return a.room != b.room ? a.room > b.room : a.batch < b.batch;
  }

  // An entry that got smaller mostly goes far down: its way is found first, then its place on it.
  void sink(std::size_t place, Entry entry) {
    const std::size_t top = place;
    const std::size_t size = heap_.size();
    std::size_t child = 2 * place + 1;
    for (; child + 1 < size; child = 2 * place + 1) {
      child += static_cast<std::size_t>(is_emptier(heap_[child + 1], heap_[child]));
      heap_[place] = heap_[child];
      place = child;
    }
    if (child < size) {
      heap_[place] = heap_[child];
      place = child;
    }
    for (; place > top && is_emptier(entry, heap_[(place - 1) / 2]); place = (place - 1) / 2) {
      heap_[place] = heap_[(place - 1) / 2];
    }
    heap_[place] = entry;
  }

  const MicroBatches& batches_;
  std::vector<Entry> heap_;
};

bool fill_emptiest(const std::vector<StepItem>& items, const std::vector<std::size_t>& order,
                   MicroBatches& batches) {
  for (std::size_t batch = 0; batch < batches.size(); ++batch) {
    batches.add(items[order[batch]], order[batch], batch);
  }
  EmptiestFirst heap(batches);
  for (std::size_t next = batches.size(); next < order.size(); ++next) {
    const StepItem& item = items[order[next]];
    const std::size_t place = heap.find(item);
    if (place == batches.size()) return false;
    batches.add(item, order[next], heap.batch(place));
    heap.lower(place);
  }
  return true;
}

bool fill_fullest(const std::vector<StepItem>& items, const std::vector<std::size_t>& order,
                  MicroBatches& batches) {
  std::set<std::pair<std::int64_t, std::size_t>> by_room;
  std::size_t used = 0;
  for (const std::size_t number : order) {
    const StepItem& item = items[number];
    auto found = by_room.lower_bound({item.units, 0});
    while (found != by_room.end() && !batches.fits(item, found->second)) ++found;
    std::size_t batch = used;
    if (found != by_room.end()) {
      batch = found->second;
      by_room.erase(found);
    } else if (used++ == batches.size()) {
      return false;
    }
    batches.add(item, number, batch);
    if (batches[batch].places > 0) by_room.emplace(batches[batch].room, batch);
  }
  return true;
}

bool fill_exactly(const std::vector<StepItem>& items, const std::vector<std::size_t>& order,
                  const StepLimits& limits, MicroBatches& batches) {
  constexpr std::int64_t kLargestTable = std::int64_t{1} << 20;
  constexpr std::int64_t kSteps = 2'000'000;
  const bool single = std::all_of(items.begin(), items.end(),
                                  [](const StepItem& item) { return item.documents == 1; });
  if (limits.budget > kLargestTable || !(single || limits.documents >= limits.budget)) return false;
  LengthHistogram histogram(limits.budget);
  for (const StepItem& item : items) histogram.add(item.units, 1);
  Silent monitor;
  Work work(kSteps, monitor);
  const Geometry geometry = exact_fit_decreasing(histogram, limits.documents, work);
  if (geometry.num_packs() > static_cast<std::int64_t>(batches.size())) return false;
  std::vector<std::vector<std::size_t>> by_units(static_cast<std::size_t>(limits.budget) + 1);
  for (auto number = order.rbegin(); number != order.rend(); ++number) {
    by_units[static_cast<std::size_t>(items[*number].units)].push_back(*number);
  }
  std::size_t batch = 0;
  for (std::int64_t pattern = 0; pattern < geometry.num_patterns(); ++pattern) {
    const auto p = static_cast<std::size_t>(pattern);
    for (std::int64_t repeat = 0; repeat < geometry.repeats[p]; ++repeat, ++batch) {
      for (auto run = geometry.pattern_offsets[p]; run < geometry.pattern_offsets[p + 1]; ++run) {
        const Run& places = geometry.runs[static_cast<std::size_t>(run)];
        for (std::uint32_t i = 0; i < places.count; ++i) {
          const std::size_t number = by_units[places.length].back();
          by_units[places.length].pop_back();
          batches.add(items[number], number, batch);
        }
      }
    }
  }
  return true;
}

// Gives every empty micro-batch the lighter half of the heaviest one that has several items.
void split_heaviest(const std::vector<StepItem>& items, MicroBatches& batches) {
  for (std::size_t empty = 0; empty < batches.size(); ++empty) {
    if (batches[empty].items > 0) continue;
    std::size_t heaviest = empty;
    for (std::size_t batch = 0; batch < batches.size(); ++batch) {
      if (batches[batch].items < 2) continue;
      if (batches[heaviest].items < 2 || batches[batch].work > batches[heaviest].work) {
        heaviest = batch;
      }
    }
    std::vector<std::size_t> numbers;
    batches.each_item(heaviest, [&](std::size_t number) { numbers.push_back(number); });
    std::stable_sort(numbers.begin(), numbers.end(),
                     [&](std::size_t a, std::size_t b) { return items[a].work > items[b].work; });
    for (auto number = numbers.begin() + 1; number != numbers.end(); ++number) {
      const StepItem& item = items[*number];
      const bool is_last = number + 1 == numbers.end();
      if (batches[empty].work + item.work <= batches[heaviest].work - item.work ||
          (is_last && batches[empty].items == 0)) {
        batches.move(item, *number, empty);
      }
    }
  }
}

}  // namespace

std::vector<std::size_t> largest_first(const std::vector<StepItem>& items, std::int64_t budget,
                                       std::size_t num_batches) {
  double total = 0;
  for (const StepItem& item : items) total += item.work;
  const double mean = total > 0 ? total / static_cast<double>(num_batches) : 1;
  // A radix sort: keys of 22 bits, the largest item first, the first of equal ones first.
  constexpr std::size_t kDigits = std::size_t{1} << 11;
  constexpr double kLargestKey = static_cast<double>(kDigits * kDigits - 1);
  std::vector<double> sizes;
  sizes.reserve(items.size());
  double largest = 0;
  for (const StepItem& item : items) {
    const double share = static_cast<double>(item.units) / static_cast<double>(budget);
    sizes.push_back(share + item.work / mean);
    largest = std::max(largest, sizes.back());
  }
  std::vector<std::uint32_t> keys;
  keys.reserve(items.size());
  for (const double size : sizes) {
    keys.push_back(static_cast<std::uint32_t>((1 - size / largest) * kLargestKey));
  }
  std::vector<std::size_t> order(items.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::vector<std::size_t> sorted(items.size());
  for (const int shift : {0, 11}) {
    std::array<std::size_t, kDigits + 1> begin{};
    auto digit = [&](std::size_t number) { return keys[number] >> shift & (kDigits - 1); };
    for (const std::size_t number : order) ++begin[digit(number) + 1];
    std::partial_sum(begin.begin(), begin.end(), begin.begin());
    for (const std::size_t number : order) sorted[begin[digit(number)]++] = number;
    order.swap(sorted);
  }
  return order;
}

std::optional<MicroBatches> fill(const std::vector<StepItem>& items,
                                 const std::vector<std::size_t>& order, std::size_t num_batches,
                                 const StepLimits& limits) {
  const MicroBatches empty(num_batches, items.size(), limits);
  MicroBatches batches = empty;
  if (fill_emptiest(items, order, batches)) return batches;
  std::vector<std::size_t> longest_first = order;
  std::stable_sort(longest_first.begin(), longest_first.end(),
                   [&](std::size_t a, std::size_t b) { return items[a].units > items[b].units; });
  batches = empty;
  if (!fill_fullest(items, longest_first, batches)) {
    batches = empty;
    if (!fill_exactly(items, longest_first, limits, batches)) return std::nullopt;
  }
  split_heaviest(items, batches);
  return batches;
}

}  // namespace packing
