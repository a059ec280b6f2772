// SPDX-License-Identifier: Apache-2.0
// A seeded order of documents, for the strategies that look at them one after another.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/monitor.hpp"
#include "base/shuffle.hpp"
#include "types/settings.hpp"

namespace packing {

// The numbers 0 .. size - 1, every order equally likely.
template <class Id>
std::vector<Id> shuffled_numbers(std::int64_t size, std::uint64_t seed, Monitor& monitor) {
  std::vector<Id> order(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Id>(i);
  Random random(seed, kDocumentOrder);
  shuffle(order, random, monitor, 0);
  return order;
}

}  // namespace packing
