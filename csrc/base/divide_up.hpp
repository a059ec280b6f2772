// SPDX-License-Identifier: Apache-2.0
// Rounds a quotient up.
#pragma once

#include <cstdint>

namespace packing {

// dividend: 0 or more; divisor: above 0. Does not overflow.
constexpr std::int64_t divide_up(std::int64_t dividend, std::int64_t divisor) {
  return dividend / divisor + (dividend % divisor > 0 ? 1 : 0);
}

}  // namespace packing
