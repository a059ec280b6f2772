// SPDX-License-Identifier: Apache-2.0
// A counting sort by length, a shuffle within each length, then the packs in a seeded order.
#include "deal.hpp"

#include <algorithm>
#include <atomic>
#include <limits>
#include <utility>
#include <vector>

#include "base/crew.hpp"
#include "base/random.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // items between two reports
constexpr std::int64_t kBlock = 64;                     // packs whose items are fetched at once
constexpr std::int64_t kFewItems = std::int64_t{1} << 16;
constexpr std::int64_t kManyUnits = std::int64_t{1} << 18;  // a table a thread would be large

// The items sorted by their units, in a seeded order within each: begin[u] .. begin[u + 1].
template <class Id>
struct Sorted {
  Buffer<Id> items;
  std::vector<Id> begin;
};

template <class Id>
class Dealer {
 public:
  Dealer(const Items& items, const LengthHistogram& histogram, std::uint64_t seed, Monitor& monitor)
      : items_(items), seed_(seed), monitor_(monitor), capacity_(histogram.capacity()) {
    sorted_.items = Buffer<Id>(histogram.size());
    sorted_.begin.assign(index(capacity_ + 2), 0);
    for (std::int64_t units = 1; units <= capacity_; ++units) {
      sorted_.begin[index(units + 1)] =
          static_cast<Id>(sorted_.begin[index(units)] + histogram.count(units));
    }
    monitor.report(0);
    sort();
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
    auto front = [&] {
      Side side(sorted_, geometry, order, true);
      Random random(seed_, kFrontPacks);
      std::int64_t at = 0;
      std::int64_t report_at = 0;
      auto report = [&] {
        monitor_.report(0.5 + 0.5 * static_cast<double>(at) / static_cast<double>(ids.size()));
        return true;
      };
      for (std::int64_t first = 0; first < half; first += kBlock) {
        if (at + first >= report_at) {
          report();
          report_at = at + first + kChunk;
        }
        const std::int64_t stop = std::min(half, first + kBlock);
        for (std::int64_t pack = first; pack < stop; ++pack) side.take(pack);
        for (std::int64_t pack = first; pack < stop; ++pack) {
          offsets[pack] = at;
          Id* begin = ids.data() + at;
          Id* end = begin;
          side.each_piece([&](const Id* items, std::int64_t count) {
            copy(items, count, end);
            end += count;
          });
          at = end - ids.data();
          shuffle(begin, end, random, report);
        }
      }
    };
    auto back = [&](const Crew& crew) {
      Side side(sorted_, geometry, order, false);
      Random random(seed_, kBackPacks);
      std::int64_t at = ids.size();
      auto goes_on = [&] {
        if (crew.size() == 1) monitor_.report(1);
        return !crew.stopped();
      };
      std::int64_t ask_at = at + num_packs;
      for (std::int64_t last = num_packs; last > half; last -= kBlock) {
        if (at + last <= ask_at) {
          if (!goes_on()) return;
          ask_at = at + last - kChunk;
        }
        const std::int64_t stop = std::max(half, last - kBlock);
        for (std::int64_t pack = last; pack-- > stop;) side.take(pack);
        for (std::int64_t pack = last; pack-- > stop;) {
          Id* end = ids.data() + at;
          Id* begin = end;
          side.each_piece([&](const Id* items, std::int64_t count) {
            begin -= count;
            copy(items, count, begin);
          });
          at = begin - ids.data();
          offsets[pack] = at;
          shuffle(begin, end, random, goes_on);
        }
      }
    };
    Crew crew(ids.size() < kFewItems ? 1 : 2);
    crew.run(monitor_, 0.75, [&](std::int64_t worker) {
      if (worker == 0) front();
      if (worker == crew.size() - 1) back(crew);
    });
  }

 private:
  static std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

  // Most runs are one item: a call for each would cost more than the copy.
  static void copy(const Id* items, std::int64_t count, Id* to) {
    if (count == 1) {
      *to = *items;
    } else {
      std::copy(items, items + count, to);
    }
  }

  // Takes the items of packs from one end of each length. The items lie all over the memory, so it
  // is told of those of some packs before they are read.
  class Side {
   public:
    Side(const Sorted<Id>& sorted, const Geometry& geometry,
         const std::vector<std::uint32_t>& order, bool from_front)
        : items_(sorted.items.data()),
          geometry_(geometry),
          order_(order),
          from_front_(from_front),
          next_(sorted.begin.begin() + (from_front ? 0 : 1), sorted.begin.end()) {}

    void take(std::int64_t pack) {
      if (read_ == ends_.size()) {
        pieces_.clear();
        ends_.clear();
        read_ = 0;
      }
      const std::uint32_t pattern = order_[index(pack)];
      const auto stop = index(geometry_.pattern_offsets[pattern + 1]);
      for (auto run = index(geometry_.pattern_offsets[pattern]); run < stop; ++run) {
        const Run& places = geometry_.runs[run];
        Id& next = next_[places.length];
        if (!from_front_) next = static_cast<Id>(next - static_cast<Id>(places.count));
        const Id* items = items_ + next;
        if (from_front_) next = static_cast<Id>(next + static_cast<Id>(places.count));
        __builtin_prefetch(items);
        pieces_.push_back({items, places.count});
      }
      ends_.push_back(pieces_.size());
    }

    // Calls function(items, count) for each piece of the first pack that was taken and not read.
    template <class Function>
    void each_piece(const Function& function) {
      for (std::size_t piece = read_ == 0 ? 0 : ends_[read_ - 1]; piece < ends_[read_]; ++piece) {
        function(pieces_[piece].items, std::int64_t{pieces_[piece].count});
      }
      ++read_;
    }

   private:
    struct Piece {
      const Id* items;
      std::uint32_t count;
    };

    const Id* items_;
    const Geometry& geometry_;
    const std::vector<std::uint32_t>& order_;
    bool from_front_;
    std::vector<Id> next_;
    std::vector<Piece> pieces_;
    std::vector<std::size_t> ends_;
    std::size_t read_ = 0;
  };

  // Counting sort. Each thread sorts a part of the documents into places of its own. The lengths
  // are read anew, so they may not be those that were counted: no thread writes beyond its own
  // places of a length, and in the end each must have filled them.
  void sort() {
    const Lengths& lengths = items_.lengths();
    Crew crew(lengths.size() < kFewItems || capacity_ > kManyUnits ? 1 : 8);
    // Full rows of split documents are the last of the longest.
    const std::int64_t num_rows = items_.size() - lengths.size();
    std::vector<Id> end(sorted_.begin.begin() + 1, sorted_.begin.end());
    end.back() = static_cast<Id>(end.back() - num_rows);
    std::vector<std::vector<Id>> first(index(crew.size()));  // each thread's places of a length
    if (crew.size() == 1) {
      first[0] = sorted_.begin;
    } else {
      crew.run(monitor_, 0.1, [&](std::int64_t worker) {
        std::vector<Id> counts(index(capacity_ + 2), 0);
        each_document(crew, worker, 0,
                      [&](std::int64_t, std::int64_t units) { ++counts[index(units)]; });
        first[index(worker)] = std::move(counts);
      });
      std::vector<Id> at = sorted_.begin;
      for (auto& counts : first) {
        for (std::size_t units = 0; units < counts.size(); ++units) {
          const Id count = counts[units];
          counts[units] = at[units];
          at[units] += count;
        }
      }
      for (std::int64_t units = 1; units <= capacity_; ++units) {
        if (at[index(units)] != end[index(units)]) refuse_changed_lengths();
      }
    }
    crew.run(monitor_, 0.4, [&](std::int64_t worker) {
      std::vector<Id> mine = first[index(worker)];
      const std::vector<Id>& stop = worker + 1 < crew.size() ? first[index(worker + 1)] : end;
      Id* sorted = sorted_.items.data();
      each_document(crew, worker, 0.1, [&](std::int64_t document, std::int64_t units) {
        Id& place = mine[index(units)];
        if (__builtin_expect(place >= stop[index(units)], 0)) refuse_changed_lengths();
        sorted[place++] = static_cast<Id>(document);
      });
      if (crew.stopped()) return;
      for (std::int64_t units = 1; units <= capacity_; ++units) {
        if (mine[index(units)] != stop[index(units)]) refuse_changed_lengths();
      }
    });
    for (std::int64_t row = 0; row < num_rows; ++row) {
      sorted_.items[sorted_.items.size() - num_rows + row] = static_cast<Id>(lengths.size() + row);
    }
  }

  // Calls function(document, units) for each of a worker's documents that is packed.
  template <class Function>
  void each_document(const Crew& crew, std::int64_t worker, double done, const Function& function) {
    const Lengths& lengths = items_.lengths();
    const std::int64_t stop = crew.begin_of(worker + 1, lengths.size());
    for (std::int64_t begin = crew.begin_of(worker, lengths.size()); begin < stop;) {
      const std::int64_t end = std::min(stop, begin + kChunk);
      lengths.visit([&](const auto* data) {
        for (std::int64_t document = begin; document < end; ++document) {
          auto length = static_cast<std::int64_t>(data[document]);
          if (__builtin_expect(length > items_.row(), 0)) length = items_.packed_length(length);
          if (length > 0) function(document, items_.units(length));
        }
      });
      begin = end;
      if (worker == 0) {
        monitor_.report(done + 0.3 * static_cast<double>(end) / static_cast<double>(stop));
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
void deal_ids(const Items& items, const LengthHistogram& histogram, const Geometry& geometry,
              std::uint64_t seed, Monitor& monitor, Plan& plan, Buffer<Id>& ids) {
  Dealer<Id>(items, histogram, seed, monitor).write(geometry, plan.pack_offsets, ids);
  if (!items.whole_documents()) write_segments(items, ids, monitor, plan);
}

}  // namespace

void deal(const Items& items, const LengthHistogram& histogram, const Geometry& geometry,
          std::uint64_t seed, Monitor& monitor, Plan& plan) {
  if (items.size() <= std::numeric_limits<std::int32_t>::max()) {
    deal_ids(items, histogram, geometry, seed, monitor, plan, plan.narrow_ids);
  } else {
    deal_ids(items, histogram, geometry, seed, monitor, plan, plan.wide_ids);
  }
}

}  // namespace packing
