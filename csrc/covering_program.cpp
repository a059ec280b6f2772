#include "covering_program.hpp"

#include <cmath>
#include <limits>

namespace packing {
namespace {

constexpr double kTolerance = 1e-9;
constexpr std::size_t kSurplus = std::numeric_limits<std::size_t>::max();

// The state of one solve: a basis, its inverse and the basic solution.
class Simplex {
 public:
  Simplex(const std::vector<CoveringProgram::Column>& columns, const std::vector<double>& demand)
      : columns_(columns), rows_(demand.size()), solution_(demand), prices_(rows_, 1.0) {
    // The basis begins with covering each row at a cost of 1 a unit.
    inverse_.assign(rows_ * rows_, 0.0);
    for (std::size_t row = 0; row < rows_; ++row) inverse_[row * rows_ + row] = 1.0;
  }

  std::vector<double> run(Work& work) {
    const auto steps = static_cast<std::int64_t>(rows_ * rows_ + 4 * columns_.size());
    const std::size_t max_pivots = 50 * rows_ + 1000;
    for (std::size_t pivots = 0; pivots < max_pivots && !work.exhausted() && step(); ++pivots) {
      work.spend(steps);
    }
    return prices_;
  }

 private:
  // One pivot; false where the basis is optimal.
  bool step() {
    double best = -kTolerance;
    std::size_t entering = kSurplus;
    std::size_t surplus_row = rows_;
    for (std::size_t column = 0; column < columns_.size(); ++column) {
      double reduced = 1.0;
      for (const auto& [row, value] : columns_[column]) reduced -= prices_[row] * value;
      if (reduced < best) {
        best = reduced;
        entering = column;
      }
    }
    for (std::size_t row = 0; row < rows_; ++row) {
      if (prices_[row] < best) {
        best = prices_[row];
        entering = kSurplus;
        surplus_row = row;
      }
    }
    if (best >= -kTolerance) return false;

    direction_.assign(rows_, 0.0);
    for (std::size_t row = 0; row < rows_; ++row) {
      const double* inverse = &inverse_[row * rows_];
      if (entering == kSurplus) {
        direction_[row] = -inverse[surplus_row];
      } else {
        for (const auto& [entry, value] : columns_[entering]) {
          direction_[row] += inverse[entry] * value;
        }
      }
    }
    std::size_t leaving = rows_;
    double ratio = std::numeric_limits<double>::infinity();
    for (std::size_t row = 0; row < rows_; ++row) {
      if (direction_[row] > kTolerance && solution_[row] / direction_[row] < ratio) {
        ratio = solution_[row] / direction_[row];
        leaving = row;
      }
    }
    if (leaving == rows_) return false;  // rounding: no row bounds the step
    pivot(leaving, best);
    return true;
  }

  void pivot(std::size_t leaving, double reduced) {
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
      solution_[row] = std::fmax(0.0, solution_[row] - factor * solution_[leaving]);
    }
    for (std::size_t row = 0; row < rows_; ++row) prices_[row] += reduced * pivot_row[row];
  }

  const std::vector<CoveringProgram::Column>& columns_;
  std::size_t rows_;
  std::vector<double> inverse_;
  std::vector<double> solution_;
  std::vector<double> prices_;
  std::vector<double> direction_;
};

}  // namespace

std::vector<double> CoveringProgram::solve(const std::vector<double>& demand, Work& work) {
  return Simplex(columns_, demand).run(work);
}

}  // namespace packing
