// SPDX-License-Identifier: Apache-2.0
// Seeded random numbers that are the same on every machine.
#pragma once

#include <cstdint>

namespace packing {

// One step of SplitMix64's output function: a bijection of 64-bit words that mixes all bits.
// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
constexpr std::uint64_t mix64(std::uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9ULL;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebULL;
  return word ^ (word >> 31);
}

// The SplitMix64 generator. `stream` separates the uses of one seed from each other.
class Random {
 public:
  Random(std::uint64_t seed, std::uint64_t stream) : state_(mix64(seed) ^ mix64(~stream)) {}

  std::uint64_t next() { return mix64(state_ += 0x9e3779b97f4a7c15ULL); }

  // A uniform integer in [0, bound), bound > 0, without bias.
  // Lemire, "Fast random integer generation in an interval", TOMACS 2019.
  std::uint64_t below(std::uint64_t bound) {
    Wide product = static_cast<Wide>(next()) * bound;
    if (static_cast<std::uint64_t>(product) < bound) {
      const std::uint64_t threshold = (0 - bound) % bound;
      while (static_cast<std::uint64_t>(product) < threshold) {
        product = static_cast<Wide>(next()) * bound;
      }
    }
    return static_cast<std::uint64_t>(product >> 64);
  }

  // Splits a uniform word into an integer in [0, bound) and what is left of the word for the next.
  static std::uint64_t split_below(std::uint64_t& word, std::uint64_t bound) {
    const Wide product = static_cast<Wide>(word) * bound;
    word = static_cast<std::uint64_t>(product);
    return static_cast<std::uint64_t>(product >> 64);
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  std::uint64_t state_;
};

}  // namespace packing
