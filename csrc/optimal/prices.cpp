// SPDX-License-Identifier: Apache-2.0
// Column generation: packs that cost too much under the prices become columns.
#include "optimal/prices.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace packing {
namespace {

constexpr std::int64_t kJumps = 8;  // prices may jump at 1/2 .. 1/8 of a row
constexpr int kMaxRounds = 400;
constexpr double kRelativeGap = 1e-6;  // between the program's value and the bound

// Ends of pieces of equal width, and the places where prices may jump. The grid divides the row
// evenly, so that the pieces of two lengths that fill a row mirror each other.
std::vector<std::int64_t> even_ends(const LengthHistogram& histogram, std::int64_t pieces) {
  const std::int64_t capacity = histogram.capacity();
  std::int64_t shortest = 1;
  while (shortest < capacity && histogram.count(shortest) == 0) ++shortest;
  const std::int64_t range =
      std::max<std::int64_t>(1, histogram.largest_at_most(capacity) - shortest);
  std::int64_t in_row = std::min(capacity, pieces);
  while (2 * in_row <= capacity && in_row * range <= pieces * capacity / 2) in_row *= 2;
  std::vector<std::int64_t> ends;
  for (std::int64_t jump = 1; jump <= kJumps; ++jump) ends.push_back(capacity / jump);
  for (std::int64_t piece = 1; piece <= in_row; ++piece) {
    ends.push_back(capacity / in_row * piece + capacity % in_row * piece / in_row);
  }
  return ends;
}

// Adds the ends of pieces that hold equally many segments, and what those leave of a row: where
// segments are limited, prices jump where one short segment fewer fits beside a long one.
void add_quantiles(const LengthHistogram& histogram, std::int64_t quantiles,
                   std::vector<std::int64_t>& ends) {
  const std::int64_t capacity = histogram.capacity();
  std::int64_t longer = 0;  // segments of at least `length`
  std::int64_t passed = 0;  // quantiles
  for (std::int64_t length = histogram.largest_at_most(capacity - 1); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    longer += histogram.count(length);
    const auto quantile =
        static_cast<std::int64_t>(static_cast<double>(longer) * static_cast<double>(quantiles) /
                                  static_cast<double>(histogram.size()));
    if (quantile == passed) continue;
    passed = quantile;
    ends.push_back(length);
    ends.push_back(capacity - length);
  }
}

std::vector<std::int64_t> piece_ends(const LengthHistogram& histogram,
                                     const PriceFinder::Pieces& pieces) {
  std::vector<std::int64_t> ends = even_ends(histogram, pieces.even);
  if (pieces.quantiles > 0) add_quantiles(histogram, pieces.quantiles, ends);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  if (ends.front() == 0) ends.erase(ends.begin());
  return ends;
}

}  // namespace

PriceFinder::PriceFinder(const LengthHistogram& histogram, std::int64_t max_segments, Pieces pieces)
    : capacity_(histogram.capacity()), max_segments_(max_segments), program_(0) {
  const auto size = static_cast<std::size_t>(capacity_) + 1;
  piece_of_.assign(size, 0);
  prices_.assign(size, 0);
  std::size_t rows = 0;
  std::int64_t first = 1;
  for (const std::int64_t last : piece_ends(histogram, pieces)) {
    if (histogram.largest_at_most(last) >= first) {
      for (std::int64_t length = first; length <= last; ++length) {
        piece_of_[static_cast<std::size_t>(length)] = pieces_.size();
      }
      // Ends that hold no segments would leave a row without demand.
      const std::int64_t low = histogram.smallest_at_least(first);
      const std::int64_t high = histogram.largest_at_most(last);
      pieces_.push_back({low, high, rows});
      rows += low < high ? 2 : 1;
    }
    first = last + 1;
  }
  program_ = CoveringProgram(rows);
  // Rows of one length bound its price; pairs that fill a row are in most optimal plans.
  for (std::int64_t length = histogram.largest_at_most(capacity_); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    auto alike = column({length});
    for (auto& entry : alike) entry.second *= most_alike(length);
    program_.add_column(alike);
    runs_.push_back({static_cast<std::uint32_t>(length),
                     static_cast<std::uint32_t>(std::min(capacity_ / length, max_segments_))});
    ends_.push_back(runs_.size());
    if (max_segments_ >= 2 && 2 * length > capacity_ && length < capacity_ &&
        histogram.count(capacity_ - length) > 0) {
      add_pack({length, capacity_ - length});
    }
  }
}

double PriceFinder::most_alike(std::int64_t length) const {
  return static_cast<double>(std::min(capacity_ / length, max_segments_));
}

CoveringProgram::Column PriceFinder::column(const std::vector<std::int64_t>& pack) const {
  CoveringProgram::Column entries;
  auto add = [&entries](std::size_t row, double value) {
    if (value == 0) return;
    for (auto& entry : entries) {
      if (entry.first == row) {
        entry.second += value;
        return;
      }
    }
    entries.emplace_back(row, value);
  };
  for (const std::int64_t length : pack) {
    const Piece& piece = pieces_[piece_of_[static_cast<std::size_t>(length)]];
    if (piece.first == piece.last) {
      add(piece.row, 1);
      continue;
    }
    const double along =
        static_cast<double>(length - piece.first) / static_cast<double>(piece.last - piece.first);
    add(piece.row, 1 - along);
    add(piece.row + 1, along);
  }
  return entries;
}

void PriceFinder::add_pack(const std::vector<std::int64_t>& pack) {
  program_.add_column(column(pack));
  const std::size_t first = runs_.size();
  for (const std::int64_t length : pack) {
    std::size_t run = first;
    while (run < runs_.size() && runs_[run].length != length) ++run;
    if (run == runs_.size()) runs_.push_back({static_cast<std::uint32_t>(length), 0});
    ++runs_[run].count;
  }
  ends_.push_back(runs_.size());
}

void PriceFinder::begin_with(const PriceFinder& coarser) {
  std::vector<std::int64_t> pack;
  for (const Pattern& pattern : coarser.patterns()) {
    pack.clear();
    for (const Run& run : pattern.runs) pack.insert(pack.end(), run.count, run.length);
    add_pack(pack);
  }
}

std::vector<PriceFinder::Pattern> PriceFinder::patterns() const {
  std::vector<Pattern> patterns;
  program_.visit_solution([&](std::size_t column, double packs) {
    const auto first = static_cast<std::ptrdiff_t>(column == 0 ? 0 : ends_[column - 1]);
    const auto end = static_cast<std::ptrdiff_t>(ends_[column]);
    patterns.push_back({{runs_.begin() + first, runs_.begin() + end}, packs});
  });
  return patterns;
}

std::int64_t PriceFinder::bound(const LengthHistogram& histogram,
                                const std::vector<std::int32_t>& prices, std::int64_t dearest) {
  std::int64_t total = 0;
  for (std::int64_t length = 1; length <= histogram.capacity(); ++length) {
    total += histogram.count(length) * prices[static_cast<std::size_t>(length)];
  }
  return dearest == 0 ? 0 : (total + dearest - 1) / dearest;
}

// Adds, for each piece, the dearest pack that is led by one of its lengths; false where none costs
// more than a pack.
bool PriceFinder::add_dearest_packs(const LengthHistogram& histogram, Work& work) {
  bool added = false;
  std::vector<std::int64_t> pack;
  for (const Piece& piece : pieces_) {
    std::int64_t leader = 0;
    std::int32_t best = 0;
    for (std::int64_t length = piece.first; length <= piece.last; ++length) {
      if (histogram.count(length) == 0) continue;
      const std::int32_t value = prices_[static_cast<std::size_t>(length)] +
                                 fill_.value(capacity_ - length, max_segments_ - 1);
      if (value > best) {
        best = value;
        leader = length;
      }
    }
    if (leader == 0 || best <= kPriceUnit + kPriceUnit / 1000000) continue;
    pack.assign(1, leader);
    std::int64_t room = capacity_ - leader;
    // A length without a price may have taken a place.
    for (std::int64_t places = max_segments_ - 1; places > 0 && fill_.value(room, places) > 0;
         --places) {
      // The next segment is one that leaves a room of the right value.
      const std::int32_t value = fill_.value(room, places);
      std::int64_t next = histogram.largest_at_most(room);
      while (next > 0 &&
             prices_[static_cast<std::size_t>(next)] + fill_.value(room - next, places - 1) <
                 value) {
        next = histogram.largest_at_most(next - 1);
        work.spend(1);
      }
      if (next == 0) break;
      pack.push_back(next);
      room -= next;
    }
    add_pack(pack);
    added = true;
  }
  return added;
}

std::int64_t PriceFinder::find(const LengthHistogram& histogram, std::int64_t enough, Work& work) {
  std::vector<double> demand(program_.rows(), 0.0);
  for (std::int64_t length = histogram.largest_at_most(capacity_); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    for (const auto& [row, value] : column({length})) {
      demand[row] += value * static_cast<double>(histogram.count(length));
    }
  }
  program_.start(demand);
  std::int64_t best_bound = 0;
  std::vector<std::int32_t> best_prices = prices_;
  for (int round = 0; round < kMaxRounds && !work.exhausted(); ++round) {
    const std::vector<double>& by_row = program_.solve(work);
    double value = 0;
    for (std::size_t row = 0; row < by_row.size(); ++row) value += by_row[row] * demand[row];
    for (std::int64_t length = 1; length <= capacity_; ++length) {
      double price = 0;
      if (histogram.count(length) > 0) {
        for (const auto& [row, share] : column({length})) price += share * by_row[row];
      }
      // More cannot be had: so many of the length are a pack. It also keeps the price of any pack
      // below three units, so that no sum of prices overflows.
      const double most = static_cast<double>(kPriceUnit) / most_alike(length);
      prices_[static_cast<std::size_t>(length)] =
          static_cast<std::int32_t>(std::floor(std::clamp(price * kPriceUnit, 0.0, most)));
    }
    fill_.compute(prices_, capacity_, max_segments_, work);
    const std::int64_t bound =
        PriceFinder::bound(histogram, prices_, fill_.value(capacity_, max_segments_));
    if (bound > best_bound) {
      best_bound = bound;
      best_prices = prices_;
    }
    if (best_bound >= enough || static_cast<double>(best_bound) >= value * (1 - kRelativeGap)) {
      break;
    }
    if (!add_dearest_packs(histogram, work)) break;
  }
  prices_ = best_prices;
  return best_bound;
}

}  // namespace packing
