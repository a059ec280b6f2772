// SPDX-License-Identifier: Apache-2.0
// Prices: what a segment of each length costs, in packs.
#pragma once

#include <cstdint>
#include <vector>

#include "base/work.hpp"
#include "optimal/covering_program.hpp"
#include "optimal/dearest_fill.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"

namespace packing {

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

  // Begins with the packs of a coarser finder's fractional plan, so that finer prices are found
  // sooner. It must have found prices for the same histogram, with the same limit.
  void begin_with(const PriceFinder& coarser);

  // Finds prices for the segments of a histogram (of the same capacity) and returns the lower bound
  // that they prove. Stops early where `work` is exhausted or `enough` is reached.
  std::int64_t find(const LengthHistogram& histogram, std::int64_t enough, Work& work);

  // The prices found last, by length.
  const std::vector<std::int32_t>& prices() const { return prices_; }

  // A pack of the fractional plan that the prices belong to, and how often it is in it.
  struct Pattern {
    std::vector<Run> runs;
    double packs;
  };

  // The packs of the fractional plan for the histogram that prices were found for last. They hold,
  // of each piece, as many segments as it has and as many positions; where each length is a piece
  // of its own, as many of each length.
  std::vector<Pattern> patterns() const;

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
  void add_pack(const std::vector<std::int64_t>& pack);
  bool add_dearest_packs(const LengthHistogram& histogram, Work& work);

  std::int64_t capacity_;
  std::int64_t max_segments_;
  std::vector<Piece> pieces_;
  std::vector<std::size_t> piece_of_;  // by length
  CoveringProgram program_;
  std::vector<Run> runs_;          // of the packs that the program's columns stand for
  std::vector<std::size_t> ends_;  // one past the last run of each
  std::vector<std::int32_t> prices_;
  DearestFill fill_;
};

}  // namespace packing
