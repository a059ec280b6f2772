// SPDX-License-Identifier: Apache-2.0
// Rounds a quotient up.
#pragma once

#include <cstdint>

namespace packing {

// dividend: 0 or more; divisor: above 0. Does not overflow.
constexpr std::int64_t divide_up(std::int64_t dividend, std::int64_t divisor) {
  return dividend / divisor + (dividend % divisor > 0 ? 1 : 0);
}

// Of `items` in equal parts, where a part begins.
constexpr std::int64_t begin_of_part(std::int64_t part, std::int64_t num_parts,
                                     std::int64_t items) {
  return items / num_parts * part + items % num_parts * part / num_parts;
}

}  // namespace packing
