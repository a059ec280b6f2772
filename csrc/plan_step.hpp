// SPDX-License-Identifier: Apache-2.0
// Micro-batches for every rank of one training step.
#pragma once

#include <cstdint>
#include <vector>

namespace packing {

struct StepSettings {
  std::int64_t budget;         // positions of a micro-batch, at most
  std::int64_t num_ranks;      // data-parallel ranks
  std::int64_t multiple_of;    // a rank's micro-batches are a multiple of this
  std::int64_t max_documents;  // of a micro-batch
};

struct StepPlan {
  // The documents of each micro-batch, ascending: those of rank 0, then those of rank 1, and so on.
  std::vector<std::int64_t> documents;
  std::vector<std::int64_t> offsets;  // one past each micro-batch's documents, after a 0
  std::int64_t lower_bound = 0;       // micro-batches that a rank needs, at least
  double rank = 1;                    // work of the heaviest rank over the mean
  double sync = 1;  // sum of the heaviest i-th micro-batches over a rank's mean work
};

// Plans a step: every document once, no micro-batch above the budget, as many for each rank, and
// ranks that meet in every micro-batch meet with like work.
//
// units: positions of each document, aligned. work: of each document, in any unit, 0 or more.
// groups: for each document, a number that documents of one micro-batch share; null where each is
// alone. All of `size` entries. The same arguments give the same plan on every machine.
//
// Documents go to the emptiest micro-batch, largest first (Graham, SIAM J. Appl. Math. 17, 1969),
// of as few as the lower bound asks for; where that does not fit, best fit decreasing and
// exact_fit_decreasing are tried before a micro-batch is added to each rank. Micro-batches of like
// work are dealt to the ranks together.
//
// Throws std::invalid_argument where a setting or an entry is out of its range, a group fits into
// no micro-batch, or there are fewer groups than micro-batches.
StepPlan plan_step(const std::int64_t* units, const double* work, const std::int64_t* groups,
                   std::int64_t size, const StepSettings& settings);

}  // namespace packing
