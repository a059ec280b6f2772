// SPDX-License-Identifier: Apache-2.0
// Computed permutations: the order of an epoch without storing it.
#pragma once

#include <cstdint>

namespace packing {

// Returns the image of `index` under a permutation of [0, size) chosen by `key`.
//
// index: in [0, size); size: at least 1. A bijection for each (size, key); expected cost is a few
// dozen multiplications and no memory.
// Throws std::out_of_range where index is outside [0, size).
std::int64_t permute(std::int64_t index, std::int64_t size, std::uint64_t key);

// Returns a key derived from `key` for the permutation numbered `number`, such as an epoch.
std::uint64_t derive_key(std::uint64_t key, std::int64_t number);

}  // namespace packing
