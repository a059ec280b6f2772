// SPDX-License-Identifier: Apache-2.0
// Prices: what a segment of each length costs, in packs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/work.hpp"
#include "optimal/covering_program.hpp"
#include "types/histogram.hpp"

namespace packing {

// Prices are whole numbers of 1 / kPriceUnit packs.
constexpr std::int32_t kPriceUnit = 1 << 26;

// The dearest selection, with repetition, of lengths with a positive price for each room
// 0..capacity and, where the number of segments is limited, for each number of places.
class DearestFill {
 public:
  // prices: by length, from 0 to at least capacity; 0 bars a length.
  // places: the most segments of a selection.
  void compute(const std::vector<std::int32_t>& prices, std::int64_t capacity, std::int64_t places,
               Work& work);
  std::int32_t value(std::int64_t room, std::int64_t places) const {
    const auto layer = static_cast<std::size_t>(std::min(places, most_places_));
    return values_[layer * size_ + static_cast<std::size_t>(room)];
  }

  // Steps of compute(), about, where all lengths have a price.
  static std::int64_t steps(const LengthHistogram& histogram, std::int64_t places);

 private:
  void compute_unlimited(std::int64_t shortest, std::int64_t longest, Work& work);
  void compute_layers(std::int64_t places, std::int64_t shortest, Work& work);

  std::size_t size_ = 0;              // rooms
  std::int64_t most_places_ = 0;      // more make no difference
  std::vector<std::int32_t> values_;  // by room, for each number of places up to most_places_
  std::vector<std::int32_t> priced_;
};

// Finds prices under which no pack costs more than one pack but all segments together cost as much
// as possible: the dual of the cutting-stock program of Gilmore and Gomory (Operations Research 9,
// 1961). What all segments cost, rounded up, is a lower bound on the number of packs (a
// dual-feasible function: Fekete and Schepers, Mathematical Programming 91, 2001); packs that cost
// one pack are the ones that an optimal plan is made of.
//
// The prices are piecewise linear in the length and may jump at 1/2, 1/3, ... of a row; so the
// program stays small, a few hundred rows at any capacity.
class PriceFinder {
 public:
  // How many linear pieces the prices have, about.
  struct Pieces {
    std::int64_t even;           // of equal width
    std::int64_t quantiles = 0;  // of equally many segments, and their mirror images in the row
  };

  // max_segments: the most of a pack.
  PriceFinder(const LengthHistogram& histogram, std::int64_t max_segments, Pieces pieces);

  // Finds prices for the segments of a histogram (of the same capacity) and returns the lower bound
  // that they prove. Stops early where `work` is exhausted or `enough` is reached.
  std::int64_t find(const LengthHistogram& histogram, std::int64_t enough, Work& work);

  // The prices found last, by length.
  const std::vector<std::int32_t>& prices() const { return prices_; }

  // The lower bound that prices prove: all segments' price over the dearest pack's, rounded up.
  static std::int64_t bound(const LengthHistogram& histogram,
                            const std::vector<std::int32_t>& prices, std::int64_t dearest);

 private:
  // A linear piece of the prices: lengths first..last, rows `row` (its start) and `row + 1`.
  struct Piece {
    std::int64_t first, last;
    std::size_t row;
  };

  // How many segments of a length are a pack.
  double most_alike(std::int64_t length) const;
  CoveringProgram::Column column(const std::vector<std::int64_t>& pack) const;
  bool add_dearest_packs(const LengthHistogram& histogram, Work& work);

  std::int64_t capacity_;
  std::int64_t max_segments_;
  std::vector<Piece> pieces_;
  std::vector<std::size_t> piece_of_;  // by length
  CoveringProgram program_;
  std::vector<std::int32_t> prices_;
  DearestFill fill_;
};

}  // namespace packing
