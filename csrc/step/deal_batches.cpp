// SPDX-License-Identifier: Apache-2.0
// Turns of like micro-batches.
#include "step/deal_batches.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace packing {
namespace {

// Ranks are even enough where the heaviest has so much more work than the mean.
constexpr double kEven = 5e-4;
// Exchanges of items may make the heaviest micro-batch of a turn so much heavier: first by little,
// then, where ranks are not even yet, by more.
constexpr double kHeavierTurns[] = {3e-3, 1e-2};
// Exchanges, in multiples of the ranks.
constexpr std::size_t kExchangesARank = 8;
// The lightest ranks that the heaviest one tries to exchange items with.
constexpr std::size_t kPartners = 4;

class Deal {
 public:
  Deal(const std::vector<StepItem>& items, MicroBatches& batches, std::size_t num_ranks)
      : items_(items),
        batches_(batches),
        num_ranks_(num_ranks),
        loads_(num_ranks, 0.0),
        dealt_(batches.size()) {}

  void in_turns() {
    std::vector<std::size_t> heaviest_first(batches_.size());
    std::iota(heaviest_first.begin(), heaviest_first.end(), std::size_t{0});
    std::stable_sort(
        heaviest_first.begin(), heaviest_first.end(),
        [&](std::size_t a, std::size_t b) { return batches_[a].work > batches_[b].work; });
    std::vector<std::size_t> lightest_first(num_ranks_);
    std::iota(lightest_first.begin(), lightest_first.end(), std::size_t{0});
    for (std::size_t begin = 0; begin < dealt_.size(); begin += num_ranks_) {
      std::stable_sort(lightest_first.begin(), lightest_first.end(),
                       [&](std::size_t a, std::size_t b) { return loads_[a] < loads_[b]; });
      for (std::size_t i = 0; i < num_ranks_; ++i) {
        const std::size_t rank = lightest_first[i];
        dealt_[begin + rank] = heaviest_first[begin + i];
        loads_[rank] += work(begin + rank);
      }
    }
  }

  // The heaviest rank exchanges a micro-batch of one turn with another rank, the one that leaves
  // the heavier of the two with the least work, while that helps.
  void exchange_batches() {
    const std::size_t most = kExchangesARank * num_ranks_;
    for (std::size_t exchange = 0; exchange < most; ++exchange) {
      const std::size_t heaviest = find_heaviest();
      const double load = loads_[heaviest];
      if (load <= mean() * (1 + kEven)) return;
      double best = load;
      std::size_t best_place = 0;
      std::size_t best_rank = heaviest;
      for (std::size_t begin = 0; begin < dealt_.size(); begin += num_ranks_) {
        for (std::size_t other = 0; other < num_ranks_; ++other) {
          const double moved = work(begin + heaviest) - work(begin + other);
          const double heavier = std::max(load - moved, loads_[other] + moved);
          if (moved <= 0 || heavier >= best) continue;
          best = heavier;
          best_place = begin;
          best_rank = other;
        }
      }
      if (best_rank == heaviest) return;
      const double moved = work(best_place + heaviest) - work(best_place + best_rank);
      std::swap(dealt_[best_place + heaviest], dealt_[best_place + best_rank]);
      loads_[heaviest] -= moved;
      loads_[best_rank] += moved;
    }
  }

  // The heaviest rank gives an item of one turn to one of the lightest ranks, or gets a lighter one
  // back, while that helps.
  void exchange_items() {
    std::vector<double> heaviest_of_turn;
    for (std::size_t begin = 0; begin < dealt_.size(); begin += num_ranks_) {
      heaviest_of_turn.push_back(heaviest_of(begin));
    }
    for (const double heavier : kHeavierTurns) {
      limits_ = heaviest_of_turn;
      for (double& limit : limits_) limit *= 1 + heavier;
      exchange_items_within_limits();
    }
  }

  Dealt result() const {
    Dealt dealt;
    dealt.batches = dealt_;
    if (mean() <= 0) return dealt;
    dealt.rank = *std::max_element(loads_.begin(), loads_.end()) / mean();
    double slowest = 0;
    for (std::size_t begin = 0; begin < dealt_.size(); begin += num_ranks_) {
      slowest += heaviest_of(begin);
    }
    dealt.sync = slowest / mean();
    return dealt;
  }

 private:
  void exchange_items_within_limits() {
    const std::size_t most = kExchangesARank * num_ranks_;
    for (std::size_t exchange = 0; exchange < most; ++exchange) {
      const std::size_t heaviest = find_heaviest();
      if (loads_[heaviest] <= mean() * (1 + kEven)) return;
      std::vector<std::size_t> lightest(num_ranks_);
      std::iota(lightest.begin(), lightest.end(), std::size_t{0});
      const std::size_t partners = std::min(kPartners, num_ranks_ - 1);
      std::partial_sort(lightest.begin(), lightest.begin() + static_cast<std::ptrdiff_t>(partners),
                        lightest.end(), [&](std::size_t a, std::size_t b) {
                          return loads_[a] != loads_[b] ? loads_[a] < loads_[b] : a < b;
                        });
      lightest.resize(partners);
      const bool done = std::any_of(lightest.begin(), lightest.end(), [&](std::size_t other) {
        return exchange_item(heaviest, other);
      });
      if (!done) return;
    }
  }

  // Does the exchange that leaves the heavier of two ranks with the least work, if one helps.
  bool exchange_item(std::size_t heavy, std::size_t light) {
    constexpr std::size_t kNone = static_cast<std::size_t>(-1);
    double best = loads_[heavy];
    std::size_t given = kNone;
    std::size_t taken = kNone;
    const double heavy_load = loads_[heavy];
    const double light_load = loads_[light];
    auto helps = [&](double moved) {
      return std::max(heavy_load - moved, light_load + moved) < best;
    };
    auto consider = [&](double moved, std::size_t item, std::size_t back) {
      if (moved <= 0 || !helps(moved)) return;
      best = std::max(heavy_load - moved, light_load + moved);
      given = item;
      taken = back;
    };
    for (std::size_t begin = 0; begin < dealt_.size(); begin += num_ranks_) {
      const std::size_t from = dealt_[begin + heavy];
      const std::size_t to = dealt_[begin + light];
      const double most_moved = limits_[begin / num_ranks_] - batches_[to].work;
      if (most_moved <= 0) continue;
      backs_.clear();
      batches_.each_item(to,
                         [&](std::size_t number) { backs_.push_back({items_[number], number}); });
      const MicroBatches::Batch heavy_batch = batches_[from];
      const MicroBatches::Batch light_batch = batches_[to];
      batches_.each_item(from, [&](std::size_t number) {
        const StepItem& item = items_[number];
        if (item.work <= most_moved && heavy_batch.items > 1 && batches_.fits(item, to)) {
          consider(item.work, number, kNone);
        }
        for (const auto& [back, other] : backs_) {
          const double moved = item.work - back.work;
          if (moved <= 0 || moved > most_moved || !helps(moved) ||
              item.units - back.units > light_batch.room ||
              back.units - item.units > heavy_batch.room ||
              item.documents - back.documents > light_batch.places ||
              back.documents - item.documents > heavy_batch.places) {
            continue;
          }
          consider(moved, number, other);
        }
      });
    }
    if (given == kNone) return false;
    const std::size_t from = batches_.batch_of(given);
    double moved = items_[given].work;
    // Found by their turn: the two micro-batches of it.
    const auto place =
        static_cast<std::size_t>(std::find(dealt_.begin(), dealt_.end(), from) - dealt_.begin());
    const std::size_t to = dealt_[place / num_ranks_ * num_ranks_ + light];
    batches_.move(items_[given], given, to);
    if (taken != kNone) {
      batches_.move(items_[taken], taken, from);
      moved -= items_[taken].work;
    }
    loads_[heavy] -= moved;
    loads_[light] += moved;
    return true;
  }

  std::size_t find_heaviest() const {
    return static_cast<std::size_t>(std::max_element(loads_.begin(), loads_.end()) -
                                    loads_.begin());
  }
  double heaviest_of(std::size_t begin) const {
    double most = 0;
    for (std::size_t rank = 0; rank < num_ranks_; ++rank) most = std::max(most, work(begin + rank));
    return most;
  }
  double work(std::size_t place) const { return batches_[dealt_[place]].work; }
  double mean() const {
    return std::accumulate(loads_.begin(), loads_.end(), 0.0) / static_cast<double>(num_ranks_);
  }

  const std::vector<StepItem>& items_;
  MicroBatches& batches_;
  std::size_t num_ranks_;
  std::vector<double> loads_;
  std::vector<std::size_t> dealt_;
  std::vector<std::pair<StepItem, std::size_t>> backs_;  // the items of a micro-batch, for a while
  std::vector<double> limits_;  // by turn: the work of a micro-batch that gains items, at most
};

}  // namespace

Dealt deal_batches(const std::vector<StepItem>& items, MicroBatches& batches,
                   std::size_t num_ranks) {
  Deal deal(items, batches, num_ranks);
  deal.in_turns();
  deal.exchange_batches();
  deal.exchange_items();
  return deal.result();
}

}  // namespace packing
