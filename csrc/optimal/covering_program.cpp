// SPDX-License-Identifier: Apache-2.0
// The revised simplex method with Dantzig's rule.
#include "optimal/covering_program.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

namespace packing {
namespace {

constexpr double kTolerance = 1e-9;

}  // namespace

void CoveringProgram::start(const std::vector<double>& demand) {
  // The basis begins with covering each row at a cost of 1 a unit.
  solution_ = demand;
  basis_.assign(rows_, kOneEntry);
  prices_.assign(rows_, 1.0);
  inverse_.assign(rows_ * rows_, 0.0);
  for (std::size_t row = 0; row < rows_; ++row) inverse_[row * rows_ + row] = 1.0;
}

const std::vector<double>& CoveringProgram::solve(Work& work) {
  const auto steps = static_cast<std::int64_t>(rows_ * rows_ + 4 * columns_.size());
  const std::size_t max_pivots = 50 * rows_ + 1000;
  for (std::size_t pivots = 0; pivots < max_pivots && !work.exhausted() && step(); ++pivots) {
    work.spend(steps);
  }
  return prices_;
}

// One pivot; false where the basis is optimal.
bool CoveringProgram::step() {
  double best = -kTolerance;
  const Column* entering = nullptr;
  for (const Column& column : columns_) {
    double reduced_cost = 1.0;
    for (const auto& [row, value] : column) reduced_cost -= prices_[row] * value;
    if (reduced_cost < best) {
      best = reduced_cost;
      entering = &column;
    }
  }
  // Or a column with one entry: -1 where the demand of a row is exceeded, at no cost, and 1 where
  // the row is covered at a cost of 1 a unit.
  std::size_t entering_row = rows_;
  double entry = 0.0;
  for (std::size_t row = 0; row < rows_; ++row) {
    if (prices_[row] < best) {
      best = prices_[row];
      entering = nullptr;
      entering_row = row;
      entry = -1.0;
    }
    if (1.0 - prices_[row] < best) {
      best = 1.0 - prices_[row];
      entering = nullptr;
      entering_row = row;
      entry = 1.0;
    }
  }
  if (entering == nullptr && entering_row == rows_) return false;

  direction_.assign(rows_, 0.0);
  for (std::size_t row = 0; row < rows_; ++row) {
    const double* inverse = &inverse_[row * rows_];
    if (entering_row < rows_) {
      direction_[row] = entry * inverse[entering_row];
    } else {
      for (const auto& [place, value] : *entering) direction_[row] += inverse[place] * value;
    }
  }
  std::size_t leaving = rows_;
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t row = 0; row < rows_; ++row) {
    if (direction_[row] > kTolerance && solution_[row] / direction_[row] < least) {
      least = solution_[row] / direction_[row];
      leaving = row;
    }
  }
  if (leaving == rows_) return false;  // rounding: no row bounds the step
  pivot(leaving,
        entering == nullptr ? kOneEntry : static_cast<std::size_t>(entering - columns_.data()),
        best);
  return true;
}

void CoveringProgram::pivot(std::size_t leaving, std::size_t entering, double reduced_cost) {
  basis_[leaving] = entering;
  double* pivot_row = &inverse_[leaving * rows_];
  const double scale = 1.0 / direction_[leaving];
  for (std::size_t column = 0; column < rows_; ++column) pivot_row[column] *= scale;
  solution_[leaving] *= scale;
  for (std::size_t row = 0; row < rows_; ++row) {
    const double factor = direction_[row];
    if (row == leaving || factor == 0.0) continue;
    double* inverse = &inverse_[row * rows_];
    for (std::size_t column = 0; column < rows_; ++column) {
      inverse[column] -= factor * pivot_row[column];
    }
    solution_[row] = std::max(0.0, solution_[row] - factor * solution_[leaving]);
  }
  for (std::size_t row = 0; row < rows_; ++row) prices_[row] += reduced_cost * pivot_row[row];
}

}  // namespace packing
