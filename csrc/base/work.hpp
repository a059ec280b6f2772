// SPDX-License-Identifier: Apache-2.0
// A limit on work, in steps: the same on every machine.
#pragma once

#include <cstdint>

#include "base/monitor.hpp"

namespace packing {

// Counts basic steps, so that a limit on work does not depend on the machine's speed.
class Work {
 public:
  Work(std::int64_t limit, Monitor& monitor) : left_(limit), limit_(limit), monitor_(monitor) {}

  void spend(std::int64_t steps) {
    constexpr std::int64_t kReportEvery = 20'000'000;
    left_ -= steps;
    unreported_ += steps;
    if (unreported_ < kReportEvery) return;
    unreported_ = 0;
    monitor_.report(1 - static_cast<double>(left_) / static_cast<double>(limit_));
  }
  bool exhausted() const { return left_ <= 0; }
  std::int64_t left() const { return left_; }

 private:
  std::int64_t left_;
  std::int64_t limit_;
  std::int64_t unreported_ = 0;
  Monitor& monitor_;
};

}  // namespace packing
