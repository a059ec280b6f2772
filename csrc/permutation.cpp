// SPDX-License-Identifier: Apache-2.0
// A balanced Feistel network over the smallest even number of bits that holds `size`, walked until
// it lands inside [0, size). Luby and Rackoff, SIAM J. Comput. 1988; cycle walking: Black and
// Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002. The domain is less than four times
// `size`, so the walk takes fewer than four steps on average.
#include "permutation.hpp"

#include <stdexcept>
#include <string>

#include "base/random.hpp"

namespace packing {
namespace {

constexpr int kRounds = 8;

}  // namespace

std::int64_t permute(std::int64_t index, std::int64_t size, std::uint64_t key) {
  if (index < 0 || index >= size) {
    throw std::out_of_range("index " + std::to_string(index) + " is outside [0, " +
                            std::to_string(size) + ")");
  }
  int half_bits = 1;
  while (half_bits < 31 && (std::int64_t{1} << (2 * half_bits)) < size) ++half_bits;
  const std::uint64_t mask = (std::uint64_t{1} << half_bits) - 1;
  auto value = static_cast<std::uint64_t>(index);
  do {
    std::uint64_t left = value >> half_bits;
    std::uint64_t right = value & mask;
    for (int round = 0; round < kRounds; ++round) {
      const std::uint64_t mixed =
          mix64(key + mix64(right + (static_cast<std::uint64_t>(round) << 40)));
      const std::uint64_t next = (left ^ mixed) & mask;
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= static_cast<std::uint64_t>(size));
  return static_cast<std::int64_t>(value);
}

std::uint64_t derive_key(std::uint64_t key, std::int64_t number) {
  return mix64(mix64(key) + 0x9e3779b97f4a7c15ULL * static_cast<std::uint64_t>(number + 1));
}

}  // namespace packing
