// SPDX-License-Identifier: Apache-2.0
// Longest processing time first (Graham, SIAM J. Appl. Math. 1969) with as many packs for every
// rank, then swaps of two packs between the heaviest rank and another, each the one that evens the
// two out best. Every swap lowers the sum of the squared loads, so the swaps come to an end.
#include "balance.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <queue>
#include <stdexcept>
#include <string>
#include <utility>

namespace packing {
namespace {

// Packs looked at in search of swaps: some milliseconds. Batches of thousands of packs reach it.
constexpr std::int64_t kMaxSteps = std::int64_t{1} << 22;

struct Rank {
  std::int64_t load = 0;
  std::vector<std::int64_t> packs;  // heaviest first
};

struct Swap {
  std::size_t rank = 0;   // with which the heaviest rank swaps
  std::size_t given = 0;  // the place of the heaviest rank's pack, and of the other's
  std::size_t taken = 0;
  std::int64_t load = std::numeric_limits<std::int64_t>::max();  // of the heavier one, afterwards
};

using Ranks = std::vector<Rank>;

Ranks longest_first(const std::int64_t* costs, const std::vector<std::int64_t>& by_cost,
                    std::size_t num_ranks) {
  Ranks ranks(num_ranks);
  const std::size_t packs_per_rank = by_cost.size() / num_ranks;
  using Entry = std::pair<std::int64_t, std::size_t>;  // load and rank
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> with_room;
  for (std::size_t rank = 0; rank < num_ranks; ++rank) with_room.emplace(0, rank);
  for (const std::int64_t pack : by_cost) {
    const std::size_t lightest = with_room.top().second;
    with_room.pop();
    Rank& rank = ranks[lightest];
    rank.packs.push_back(pack);
    rank.load += costs[pack];
    if (rank.packs.size() < packs_per_rank) with_room.emplace(rank.load, lightest);
  }
  return ranks;
}

Ranks as_given(const std::int64_t* costs, std::size_t num_packs, std::size_t num_ranks) {
  Ranks ranks(num_ranks);
  for (std::size_t pack = 0; pack < num_packs; ++pack) {
    Rank& rank = ranks[pack % num_ranks];
    rank.packs.push_back(static_cast<std::int64_t>(pack));
    rank.load += costs[pack];
  }
  for (Rank& rank : ranks) {
    std::stable_sort(rank.packs.begin(), rank.packs.end(),
                     [&](std::int64_t a, std::int64_t b) { return costs[a] > costs[b]; });
  }
  return ranks;
}

std::size_t find_heaviest(const Ranks& ranks) {
  const auto heaviest = std::max_element(
      ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) { return a.load < b.load; });
  return static_cast<std::size_t>(heaviest - ranks.begin());
}

// Makes `best` the best swap with rank number `other` where that is better than what it is.
void consider(const std::int64_t* costs, const Rank& heavy, const Ranks& ranks, std::size_t other,
              Swap& best) {
  const Rank& light = ranks[other];
  const std::int64_t gap = heavy.load - light.load;
  // For each pack of the heavy rank, the light rank's packs on both sides of the one that would
  // halve the gap; both lists fall, so the second place only moves on.
  std::size_t taken = 0;
  for (std::size_t given = 0; given < heavy.packs.size(); ++given) {
    const std::int64_t cost = costs[heavy.packs[given]];
    while (taken < light.packs.size() && cost - costs[light.packs[taken]] < gap / 2) ++taken;
    for (std::size_t place = taken - (taken > 0); place <= taken; ++place) {
      if (place == light.packs.size()) break;
      const std::int64_t moved = cost - costs[light.packs[place]];
      if (moved <= 0 || moved >= gap) continue;
      const std::int64_t load = std::max(heavy.load - moved, light.load + moved);
      if (load < best.load) best = {other, given, place, load};
    }
  }
}

// Puts the pack at `place`, which is new there, where its cost belongs.
void restore_order(const std::int64_t* costs, std::vector<std::int64_t>& packs, std::size_t place) {
  while (place > 0 && costs[packs[place - 1]] < costs[packs[place]]) {
    std::swap(packs[place - 1], packs[place]);
    --place;
  }
  while (place + 1 < packs.size() && costs[packs[place]] < costs[packs[place + 1]]) {
    std::swap(packs[place], packs[place + 1]);
    ++place;
  }
}

void swap_packs(const std::int64_t* costs, std::int64_t num_packs, Ranks& ranks) {
  for (std::int64_t steps = 0; steps < kMaxSteps; steps += num_packs) {
    const std::size_t heaviest = find_heaviest(ranks);
    Rank& heavy = ranks[heaviest];
    Swap best;
    for (std::size_t other = 0; other < ranks.size(); ++other) {
      consider(costs, heavy, ranks, other, best);
    }
    if (best.load >= heavy.load) return;
    Rank& light = ranks[best.rank];
    const std::int64_t moved = costs[heavy.packs[best.given]] - costs[light.packs[best.taken]];
    heavy.load -= moved;
    light.load += moved;
    std::swap(heavy.packs[best.given], light.packs[best.taken]);
    restore_order(costs, heavy.packs, best.given);
    restore_order(costs, light.packs, best.taken);
  }
}

void check(const std::int64_t* costs, std::int64_t num_packs, std::int64_t num_ranks) {
  if (num_ranks < 1) {
    throw std::invalid_argument("num_ranks is " + std::to_string(num_ranks) +
                                "; it must be at least 1");
  }
  if (num_packs % num_ranks != 0) {
    throw std::invalid_argument(std::to_string(num_packs) + (num_packs == 1 ? " pack" : " packs") +
                                " cannot be dealt to " + std::to_string(num_ranks) +
                                " ranks; give a multiple of the number of ranks");
  }
  std::int64_t total = 0;
  for (std::int64_t pack = 0; pack < num_packs; ++pack) {
    if (costs[pack] < 0) {
      throw std::invalid_argument("costs[" + std::to_string(pack) + "] is " +
                                  std::to_string(costs[pack]) + "; it must be at least 0");
    }
    if (costs[pack] > std::numeric_limits<std::int64_t>::max() - total) {
      throw std::overflow_error(
          "the costs add up to more than 2^63 - 1; give them in larger units");
    }
    total += costs[pack];
  }
}

}  // namespace

std::vector<std::int64_t> balance(const std::int64_t* costs, std::int64_t num_packs,
                                  std::int64_t num_ranks) {
  check(costs, num_packs, num_ranks);
  if (num_packs == 0) return {};
  const auto size = static_cast<std::size_t>(num_packs);
  const auto stride = static_cast<std::size_t>(num_ranks);
  std::vector<std::int64_t> by_cost(size);
  std::iota(by_cost.begin(), by_cost.end(), 0);
  std::stable_sort(by_cost.begin(), by_cost.end(),
                   [&](std::int64_t a, std::int64_t b) { return costs[a] > costs[b]; });
  Ranks ranks = longest_first(costs, by_cost, stride);
  swap_packs(costs, num_packs, ranks);
  Ranks given = as_given(costs, size, stride);
  if (given[find_heaviest(given)].load < ranks[find_heaviest(ranks)].load) {
    ranks = std::move(given);  // few packs may happen to lie better than anything found
    swap_packs(costs, num_packs, ranks);
  }
  std::vector<std::int64_t> order(size);
  for (std::size_t place = 0; place < size; ++place) {
    order[place] = ranks[place % stride].packs[place / stride];
  }
  return order;
}

}  // namespace packing
