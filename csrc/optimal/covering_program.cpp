// SPDX-License-Identifier: Apache-2.0
// The revised simplex method with Dantzig's rule.
#include "optimal/covering_program.hpp"

#include <algorithm>
#include <cstdint>
#include <limits>

#include "base/wide_vectors.hpp"

namespace packing {
namespace {

constexpr double kTolerance = 1e-9;

// values[i] -= factor * others[i]
PACKING_AVX2_CLONES void subtract(double* values, const double* others, std::size_t size,
                                  double factor) {
  for (std::size_t i = 0; i < size; ++i) values[i] -= factor * others[i];
}

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
  const auto steps = static_cast<std::int64_t>(rows_ * rows_ + 4 * ends_.size());
  const std::size_t max_pivots = 50 * rows_ + 1000;
  for (std::size_t pivots = 0; pivots < max_pivots && !work.exhausted() && step(); ++pivots) {
    work.spend(steps);
  }
  return prices_;
}

// One pivot; false where the basis is optimal.
bool CoveringProgram::step() {
  double best = -kTolerance;
  std::size_t entering = kOneEntry;
  std::size_t at = 0;
  for (std::size_t column = 0; column < ends_.size(); ++column) {
    double reduced_cost = 1.0;
    for (; at < ends_[column]; ++at) reduced_cost -= prices_[entries_[at].row] * entries_[at].value;
    if (reduced_cost < best) {
      best = reduced_cost;
      entering = column;
    }
  }
  // Or a column with one entry: -1 where the demand of a row is exceeded, at no cost, and 1 where
  // the row is covered at a cost of 1 a unit.
  std::size_t entering_row = rows_;
  double entry = 0.0;
  for (std::size_t row = 0; row < rows_; ++row) {
    if (prices_[row] < best) {
      best = prices_[row];
      entering_row = row;
      entry = -1.0;
    }
    if (1.0 - prices_[row] < best) {
      best = 1.0 - prices_[row];
      entering_row = row;
      entry = 1.0;
    }
  }
  if (entering == kOneEntry && entering_row == rows_) return false;

  direction_.assign(rows_, 0.0);
  if (entering_row < rows_) {
    entering = kOneEntry;
    subtract(direction_.data(), &inverse_[entering_row * rows_], rows_, -entry);
  } else {
    for (at = begin(entering); at < ends_[entering]; ++at) {
      const double* inverse = &inverse_[entries_[at].row * rows_];
      subtract(direction_.data(), inverse, rows_, -entries_[at].value);
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
  pivot(leaving, entering, best);
  return true;
}

void CoveringProgram::pivot(std::size_t leaving, std::size_t entering, double reduced_cost) {
  basis_[leaving] = entering;
  const double scale = 1.0 / direction_[leaving];
  direction_[leaving] = 0.0;  // the pivot's row is scaled, not reduced
  for (std::size_t row = 0; row < rows_; ++row) {
    double* column = &inverse_[row * rows_];
    if (column[leaving] == 0.0) continue;
    const double in_pivot_row = column[leaving] * scale;
    subtract(column, direction_.data(), rows_, in_pivot_row);
    column[leaving] = in_pivot_row;
    prices_[row] += reduced_cost * in_pivot_row;
  }
  solution_[leaving] *= scale;
  for (std::size_t row = 0; row < rows_; ++row) {
    if (direction_[row] == 0.0) continue;
    solution_[row] = std::max(0.0, solution_[row] - direction_[row] * solution_[leaving]);
  }
}

}  // namespace packing
