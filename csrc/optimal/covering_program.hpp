// SPDX-License-Identifier: Apache-2.0
// A small linear program: the fewest columns that cover a demand.
#pragma once

#include <cstddef>
#include <limits>
#include <utility>
#include <vector>

#include "base/work.hpp"

namespace packing {

// Minimizes sum(x) subject to A x >= demand, x >= 0, whose columns are added over time.
//
// Revised primal simplex with an explicit inverse: made for at most a few hundred rows. The inverse
// is kept column by column: an entering column of few entries is a sum of few of its columns, and a
// pivot leaves those alone that have nothing in the pivot's row. The program's prices guide the
// search for packs; whatever is proven with them is checked in integers elsewhere, so rounding here
// costs quality at worst, never correctness.
class CoveringProgram {
 public:
  // The entries of a column: (row, value > 0).
  using Column = std::vector<std::pair<std::size_t, double>>;

  explicit CoveringProgram(std::size_t rows) : rows_(rows) {}

  std::size_t rows() const { return rows_; }

  void add_column(const Column& column) {
    for (const auto& [row, value] : column) entries_.push_back({row, value});
    ends_.push_back(entries_.size());
  }

  // Begins anew for a demand: one number a row, at least 0.
  void start(const std::vector<double>& demand);

  // Goes on from where it stands, with the columns added since, and returns the dual price of each
  // row. No price exceeds 1: a row may also be covered at a cost of 1 a unit.
  const std::vector<double>& solve(Work& work);

  // Calls visitor(column, x) for each column, by its number, with x > 0 in the solution; columns of
  // one entry that cover a unit of a row, or more than its demand, are not among them.
  template <class Visitor>
  void visit_solution(const Visitor& visitor) const {
    for (std::size_t row = 0; row < rows_; ++row) {
      if (basis_[row] != kOneEntry && solution_[row] > 0) visitor(basis_[row], solution_[row]);
    }
  }

 private:
  struct Entry {
    std::size_t row;
    double value;
  };

  // The place of a column's first entry.
  std::size_t begin(std::size_t column) const { return column == 0 ? 0 : ends_[column - 1]; }
  bool step();
  void pivot(std::size_t leaving, std::size_t entering, double reduced_cost);

  static constexpr std::size_t kOneEntry = std::numeric_limits<std::size_t>::max();

  std::size_t rows_;
  std::vector<Entry> entries_;      // of all columns
  std::vector<std::size_t> ends_;   // one past the last entry of each
  std::vector<double> inverse_;     // of the basis, column by column
  std::vector<double> solution_;    // what each basic column is worth
  std::vector<std::size_t> basis_;  // its number; kOneEntry where it has one entry
  std::vector<double> prices_;      // by row
  std::vector<double> direction_;   // the entering column in terms of the basis
};

}  // namespace packing
