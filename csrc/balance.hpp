// SPDX-License-Identifier: Apache-2.0
// Which data-parallel rank takes which pack of a global batch.
#pragma once

#include <cstdint>
#include <vector>

namespace packing {

// Deals the packs of one global batch so that every rank gets as many packs and about as much work.
//
// costs: num_packs of them, the work of each pack in any unit. Returns the order in which the packs
// are to stand: rank r takes the places r, r + num_ranks, r + 2 * num_ranks and so on, heaviest
// first, so that ranks which wait for each other in every micro-batch meet with like packs. The
// heaviest rank is never heavier than in the order given. The same costs give the same order on
// every machine.
// Throws std::invalid_argument where num_ranks is below 1, num_packs is no multiple of it or a cost
// is negative; std::overflow_error where the costs add up to more than 2^63 - 1.
std::vector<std::int64_t> balance(const std::int64_t* costs, std::int64_t num_packs,
                                  std::int64_t num_ranks);

}  // namespace packing
