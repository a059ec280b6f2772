// SPDX-License-Identifier: Apache-2.0
// A counting sort by length, a shuffle within each length, then the packs in a seeded order.
#include "deal.hpp"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <limits>
#include <utility>
#include <vector>

#include "base/crew.hpp"
#include "base/divide_up.hpp"
#include "base/shuffle.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // items between two reports
constexpr std::int64_t kBlock = 64;                     // packs whose items are fetched at once
constexpr std::int64_t kAhead = 16;  // packs after which a pack is written that is fetched now
constexpr std::int64_t kFewItems = std::int64_t{1} << 16;

// The items sorted by their units, in a seeded order within each: begin[u] .. begin[u + 1].
template <class Id>
struct Sorted {
  Buffer<Id> items;
  std::vector<Id> begin;
};

template <class Id>
class Dealer {
 public:
  Dealer(const Items& items, const Survey& found, const LengthHistogram& histogram,
         std::uint64_t seed, Monitor& monitor)
      : items_(items), seed_(seed), monitor_(monitor), capacity_(histogram.capacity()) {
    sorted_.items = Buffer<Id>(histogram.size());
    sorted_.begin.assign(index(capacity_ + 2), 0);
    for (std::int64_t units = 1; units <= capacity_; ++units) {
      sorted_.begin[index(units + 1)] =
          static_cast<Id>(sorted_.begin[index(units)] + histogram.count(units));
    }
    monitor.report(0);
    sort(found);
    mix();
  }

  // Writes the packs of a geometry in a seeded order.
  void write(const Geometry& geometry, Buffer<std::int64_t>& offsets, Buffer<Id>& ids) {
    // The first half of the packs takes items from the front of each length, the second half from
    // the back, last pack first; so the two can be written at once.
    const std::vector<std::uint32_t> order = pack_order(geometry);
    const auto num_packs = static_cast<std::int64_t>(order.size());
    offsets = Buffer<std::int64_t>(num_packs + 1);
    ids = Buffer<Id>(sorted_.items.size());
    offsets[num_packs] = ids.size();
    const std::int64_t half = num_packs / 2;
    Crew crew(ids.size() < kFewItems ? 1 : 2);
    crew.run(monitor_, 0.75, [&](std::int64_t worker) {
      if (worker == 0) {
        write_half<true>(geometry, order, 0, half, offsets, ids, [&](std::int64_t at) {
          monitor_.report(0.5 + 0.5 * static_cast<double>(at) / static_cast<double>(ids.size()));
          return true;
        });
      }
      if (worker == crew.size() - 1) {
        write_half<false>(geometry, order, half, num_packs, offsets, ids, [&](std::int64_t) {
          if (crew.size() == 1) monitor_.report(1);
          return !crew.stopped();
        });
      }
    });
  }

 private:
  static std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

  // Writes the packs first .. last - 1 of an order: from the first on with items from the front of
  // each length, or from the last down with items from the back. goes_on(place) is asked now and
  // then; the packs are unfinished where it says no.
  //
  // Items lie all over the memory. So a block of packs gets the places of its items first, of which
  // the memory is told, and then the items.
  template <bool kFromFront, class GoesOn>
  void write_half(const Geometry& geometry, const std::vector<std::uint32_t>& order,
                  std::int64_t first, std::int64_t last, Buffer<std::int64_t>& offsets,
                  Buffer<Id>& ids, const GoesOn& goes_on) const {
    const auto pattern = [&](std::int64_t turn) {
      return order[index(kFromFront ? first + turn : last - 1 - turn)];
    };
    const std::int64_t* begins = geometry.pattern_offsets.data();
    const Run* runs = geometry.runs.data();
    const Id* items = sorted_.items.data();
    Id* to = ids.data();
    // The first item of each length that is left, or one past the last.
    std::vector<Id> next(sorted_.begin.begin() + (kFromFront ? 0 : 1), sorted_.begin.end());
    Random random(seed_, kFromFront ? kFrontPacks : kBackPacks);
    std::int64_t at = kFromFront ? 0 : ids.size();
    std::int64_t unasked = kChunk;  // what is written until goes_on is asked
    for (std::int64_t turn = 0; turn < last - first;) {
      const std::int64_t block = at;
      for (const std::int64_t stop = std::min(last - first, turn + kBlock); turn < stop; ++turn) {
        if (turn + 2 * kAhead < last - first) {
          __builtin_prefetch(begins + pattern(turn + 2 * kAhead));
          __builtin_prefetch(runs + begins[pattern(turn + kAhead)]);
        }
        const std::int64_t pack = at;
        const Run* const end = runs + begins[pattern(turn) + 1];
        for (const Run* run = runs + begins[pattern(turn)]; run < end; ++run) {
          Id& left = next[run->length];
          const auto count = static_cast<Id>(run->count);
          if (!kFromFront) {
            left = static_cast<Id>(left - count);
            at -= count;
          }
          __builtin_prefetch(items + left);
          for (Id i = 0; i < count; ++i) to[at + i] = static_cast<Id>(left + i);
          if (kFromFront) {
            left = static_cast<Id>(left + count);
            at += count;
          }
        }
        offsets[kFromFront ? first + turn : last - 1 - turn] = std::min(pack, at);
        shuffle(to + std::min(pack, at), to + std::max(pack, at), random,
                [&] { return goes_on(at); });
      }
      for (std::int64_t place = std::min(block, at); place < std::max(block, at); ++place) {
        to[place] = items[to[place]];
      }
      unasked -= kBlock + std::abs(at - block);
      if (unasked > 0) continue;
      if (!goes_on(at)) return;
      unasked = kChunk;
    }
  }

  // Counting sort. Each part of the documents is sorted into places of its own. The lengths are
  // read anew, so they may not be those that were counted: nothing is written beyond a part's own
  // places of a length, and in the end each part must have filled them.
  void sort(const Survey& found) {
    const Lengths& lengths = items_.lengths();
    // Full rows of split documents are the last of the longest.
    const std::int64_t num_rows = items_.size() - lengths.size();
    std::vector<Id> end(sorted_.begin.begin() + 1, sorted_.begin.end());
    end.back() = static_cast<Id>(end.back() - num_rows);
    const std::vector<std::vector<Id>> first = parts_begin(found, end);
    const auto num_parts = static_cast<std::int64_t>(first.size());
    Crew crew(num_parts);
    crew.run(monitor_, 0.4, [&](std::int64_t worker) {
      for (std::int64_t part = worker; part < num_parts; part += crew.size()) {
        struct Places {
          Id next, stop;
        };
        std::vector<Places> of_units(end.size());
        const std::vector<Id>& stop = part + 1 < num_parts ? first[index(part + 1)] : end;
        for (std::size_t units = 0; units < end.size(); ++units) {
          of_units[units] = {first[index(part)][units], stop[units]};
        }
        Id* const sorted = sorted_.items.data();
        Places* const places = of_units.data();
        each_document(part, num_parts, crew, [&](std::int64_t document, std::int64_t units) {
          Places& left = places[units];
          if (__builtin_expect(left.next >= left.stop, 0)) refuse_changed_lengths();
          sorted[left.next++] = static_cast<Id>(document);
        });
        if (crew.stopped()) return;
        for (const Places& left : of_units) {
          if (left.next != left.stop) refuse_changed_lengths();
        }
      }
    });
    for (std::int64_t row = 0; row < num_rows; ++row) {
      sorted_.items[sorted_.items.size() - num_rows + row] = static_cast<Id>(lengths.size() + row);
    }
  }

  // Where each part's places of each number of units begin. end: where the last part's must end.
  std::vector<std::vector<Id>> parts_begin(const Survey& found, const std::vector<Id>& end) const {
    std::vector<std::vector<Id>> first;
    if (found.parts.empty()) {
      first.emplace_back(sorted_.begin.begin(), sorted_.begin.end() - 1);
      return first;
    }
    std::vector<Id> at(sorted_.begin.begin(), sorted_.begin.end() - 1);
    std::size_t overlong = 0;
    for (const Survey::Part& part : found.parts) {
      first.push_back(at);
      for (std::int64_t length = 1; length <= items_.row(); ++length) {
        at[index(items_.units(length))] += static_cast<Id>(part.counts[index(length)]);
      }
      for (; overlong < part.overlong_end; ++overlong) {
        const std::int64_t length = packed_length(items_.lengths()[found.overlong[overlong]]);
        if (length > 0) ++at[index(items_.units(length))];
      }
    }
    if (at != end) refuse_changed_lengths();
    return first;
  }

  std::int64_t packed_length(std::int64_t length) const {
    return __builtin_expect(length > items_.row(), 0) ? items_.packed_length(length) : length;
  }

  // Calls function(document, units) for each document of a part that is packed.
  template <class Function>
  void each_document(std::int64_t part, std::int64_t num_parts, const Crew& crew,
                     const Function& function) {
    const Lengths& lengths = items_.lengths();
    const std::int64_t stop = begin_of_part(part + 1, num_parts, lengths.size());
    for (std::int64_t begin = begin_of_part(part, num_parts, lengths.size()); begin < stop;) {
      const std::int64_t end = std::min(stop, begin + kChunk);
      lengths.visit([&](const auto* data) {
        for (std::int64_t document = begin; document < end; ++document) {
          const std::int64_t length = packed_length(static_cast<std::int64_t>(data[document]));
          if (length > 0) function(document, items_.units(length));
        }
      });
      begin = end;
      if (part == 0) {
        monitor_.report(0.4 * static_cast<double>(end) / static_cast<double>(stop));
      } else if (crew.stopped()) {
        return;
      }
    }
  }

  // Puts the items of each length in a seeded order. Every length has random numbers of its own, so
  // the threads may share them out as they like.
  void mix() {
    Crew crew(sorted_.items.size() < kFewItems ? 1 : 8);
    std::atomic<std::int64_t> taken{1};
    crew.run(monitor_, 0.5, [&](std::int64_t worker) {
      constexpr std::int64_t kUnitsAtOnce = 16;
      auto goes_on = [&] {
        if (worker == 0) monitor_.report(0.5);
        return !crew.stopped();
      };
      for (std::int64_t turn = 0;; ++turn) {
        const std::int64_t first = taken.fetch_add(kUnitsAtOnce);
        if (first > capacity_ || (turn % 256 == 0 && !goes_on())) return;
        for (std::int64_t units = first; units < std::min(first + kUnitsAtOnce, capacity_ + 1);
             ++units) {
          Id* begin = sorted_.items.data() + sorted_.begin[index(units)];
          Id* end = sorted_.items.data() + sorted_.begin[index(units + 1)];
          if (end - begin < 2) continue;
          Random random(seed_, kDocumentOrder + (static_cast<std::uint64_t>(units) << 8));
          shuffle(begin, end, random, goes_on);
        }
      }
    });
  }

  // The patterns of a geometry, each as often as it repeats, in a seeded order.
  std::vector<std::uint32_t> pack_order(const Geometry& geometry) const {
    std::vector<std::uint32_t> order;
    order.reserve(index(geometry.num_packs()));
    for (std::size_t pattern = 0; pattern < geometry.repeats.size(); ++pattern) {
      order.insert(order.end(), index(geometry.repeats[pattern]),
                   static_cast<std::uint32_t>(pattern));
    }
    Random random(seed_, kPackOrder);
    shuffle(order, random, monitor_, 0.5);
    return order;
  }

  const Items& items_;
  std::uint64_t seed_;
  Monitor& monitor_;
  std::int64_t capacity_;
  Sorted<Id> sorted_;
};

template <class Id>
void deal_ids(const Items& items, const Survey& found, const LengthHistogram& histogram,
              const Geometry& geometry, std::uint64_t seed, Monitor& monitor, Plan& plan,
              Buffer<Id>& ids) {
  Dealer<Id>(items, found, histogram, seed, monitor).write(geometry, plan.pack_offsets, ids);
  if (!items.whole_documents()) write_segments(items, ids, monitor, plan);
}

}  // namespace

void deal(const Items& items, const Survey& found, const LengthHistogram& histogram,
          const Geometry& geometry, std::uint64_t seed, Monitor& monitor, Plan& plan) {
  if (items.size() <= std::numeric_limits<std::int32_t>::max()) {
    deal_ids(items, found, histogram, geometry, seed, monitor, plan, plan.narrow_ids);
  } else {
    deal_ids(items, found, histogram, geometry, seed, monitor, plan, plan.wide_ids);
  }
}

}  // namespace packing
