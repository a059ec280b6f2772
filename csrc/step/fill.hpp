// SPDX-License-Identifier: Apache-2.0
// Fills a given number of micro-batches, none of which stays empty.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "step/micro_batches.hpp"

namespace packing {

// The items, largest first: by their share of a micro-batch's budget and of its work.
std::vector<std::size_t> largest_first(const std::vector<StepItem>& items, std::int64_t budget,
                                       std::size_t num_batches);

// Fills `num_batches` micro-batches with all items (there are as many, at least), or with none
// where no way is found. First each item goes to the emptiest one, so that all are about as full
// and their work differs by little from one to the next; then to the fullest with room, which
// leaves fewer gaps; then gaps are closed exactly.
std::optional<MicroBatches> fill(const std::vector<StepItem>& items,
                                 const std::vector<std::size_t>& order, std::size_t num_batches,
                                 const StepLimits& limits);

}  // namespace packing
