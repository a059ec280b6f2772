// SPDX-License-Identifier: Apache-2.0
// Seeded random numbers that are the same on every machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/monitor.hpp"

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

  // Uniform integers in [0, bound), [0, bound - 1), ..., `count` of them, without bias.
  // product: bound * (bound - 1) * ... of all of them.
  void below_each(std::uint64_t bound, std::uint64_t count, std::uint64_t product,
                  std::uint64_t* chosen) {
    std::uint64_t rest = 0;
    do {
      rest = next();
      for (std::uint64_t i = 0; i < count; ++i) {
        const Wide wide = static_cast<Wide>(rest) * (bound - i);
        chosen[i] = static_cast<std::uint64_t>(wide >> 64);
        rest = static_cast<std::uint64_t>(wide);
      }
    } while (rest < product && rest < (0 - product) % product);
  }

 private:
  __extension__ typedef unsigned __int128 Wide;
  std::uint64_t state_;
};

// How many swaps of a shuffle one random word serves, and the product of their bounds.
struct Batch {
  std::uint64_t product = 0;
  std::uint64_t swaps = 0;

  // For the first swaps of `size` values, at least two.
  static constexpr Batch of(std::uint64_t size) {
    constexpr std::uint64_t kLargestProduct = std::uint64_t{1} << 48;
    Batch batch{size, 1};
    while (size - batch.swaps > 1 && batch.product < kLargestProduct / size) {
      batch.product *= size - batch.swaps++;
    }
    return batch;
  }
};

// Batches of few values, which are looked up: packs are shuffled millions of times.
class SmallBatches {
 public:
  static constexpr std::uint64_t kSizes = 256;

  constexpr SmallBatches() : batches_() {
    for (std::uint64_t size = 2; size < kSizes; ++size) batches_[size] = Batch::of(size);
  }
  constexpr const Batch& operator[](std::uint64_t size) const { return batches_[size]; }

 private:
  Batch batches_[kSizes];
};
inline constexpr SmallBatches kSmallBatches;

// Fisher-Yates: every order of [first, last) is equally likely. One random word serves several
// swaps: Brackett-Rozinsky and Lemire, "Batched ranged random integer generation", 2024.
//
// Shuffling 100 million values takes seconds, so `goes_on` is asked every million or so; the order
// is unfinished where it says no.
template <class T, class GoesOn>
void shuffle(T* first, T* last, Random& random, const GoesOn& goes_on) {
  constexpr std::uint64_t kAskEvery = std::uint64_t{1} << 20;
  std::uint64_t chosen[24];
  auto size = static_cast<std::uint64_t>(last - first);
  for (std::uint64_t ask_at = size > kAskEvery ? size - kAskEvery : 0; size > 1;) {
    if (size < ask_at) {
      if (!goes_on()) return;
      ask_at = size > kAskEvery ? size - kAskEvery : 0;
    }
    const Batch batch = size < SmallBatches::kSizes ? kSmallBatches[size] : Batch::of(size);
    random.below_each(size, batch.swaps, batch.product, chosen);
    for (std::uint64_t swap = 0; swap < batch.swaps; ++swap, --size) {
      std::swap(first[size - 1], first[chosen[swap]]);
    }
  }
}

template <class T>
void shuffle(T* first, T* last, Random& random) {
  shuffle(first, last, random, [] { return true; });
}

template <class T>
void shuffle(std::vector<T>& values, Random& random) {
  shuffle(values.data(), values.data() + values.size(), random);
}

// The same; the monitor hears `share` meanwhile.
template <class T>
void shuffle(std::vector<T>& values, Random& random, Monitor& monitor, double share) {
  shuffle(values.data(), values.data() + values.size(), random, [&] {
    monitor.report(share);
    return true;
  });
}

}  // namespace packing
