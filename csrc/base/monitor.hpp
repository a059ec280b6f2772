// SPDX-License-Identifier: Apache-2.0
// Reports progress of long work, and stops it.
#pragma once

namespace packing {

// Told from time to time, on the thread that called the core, how far it has come.
class Monitor {
 public:
  virtual ~Monitor() = default;
  // share: of the work that is done, about, from 0 to 1. What it throws ends the work.
  virtual void report(double share) = 0;
};

}  // namespace packing
