// SPDX-License-Identifier: Apache-2.0
// Which rank runs which micro-batch, and when.
#pragma once

#include <cstddef>
#include <vector>

#include "step/micro_batches.hpp"

namespace packing {

// Micro-batches by rank: rank r's i-th is batches[i * num_ranks + r].
struct Dealt {
  std::vector<std::size_t> batches;
  double rank = 1;  // work of the heaviest rank over the mean
  double sync = 1;  // sum of the heaviest i-th micro-batches over a rank's mean work
};

// Deals micro-batches, a multiple of the ranks, so that the i-th of all ranks are alike: the
// heaviest ones first, and in each turn the heaviest one to the rank with the least work so far.
// Then ranks exchange i-th micro-batches, and items of them, while that evens out their work.
Dealt deal_batches(const std::vector<StepItem>& items, MicroBatches& batches,
                   std::size_t num_ranks);

}  // namespace packing
