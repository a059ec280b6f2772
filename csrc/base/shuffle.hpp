// SPDX-License-Identifier: Apache-2.0
// Seeded shuffles that are the same on every machine.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/monitor.hpp"
#include "base/random.hpp"

namespace packing {

// How many swaps of a shuffle one random word serves: as many as it takes for the product of their
// bounds to reach kLargestProduct / size. Fewer values have more, so nothing is divided while a
// shuffle runs.
class SwapsAWord {
 public:
  static constexpr std::uint64_t kLargestProduct = std::uint64_t{1} << 48;
  static constexpr std::uint64_t kMost = 16;

  constexpr SwapsAWord() : small_(), largest_() {
    for (std::uint64_t size = 2; size < kSmallSizes; ++size) {
      small_[size] = static_cast<std::uint8_t>(count(size));
    }
    for (std::uint64_t swaps = 2; swaps <= kMostOfMany; ++swaps) {
      std::uint64_t low = kSmallSizes - 1;
      std::uint64_t high = kLargestProduct;
      while (high - low > 1) {
        const std::uint64_t middle = low + (high - low) / 2;
        (count(middle) >= swaps ? low : high) = middle;
      }
      largest_[swaps] = low;
    }
  }

  // Swaps for `size` values, at least two, where more values had `swaps`.
  std::uint64_t at(std::uint64_t size, std::uint64_t swaps) const {
    if (size < kSmallSizes) return small_[size];
    while (swaps < kMostOfMany && size <= largest_[swaps + 1]) ++swaps;
    return swaps;
  }

 private:
  static constexpr std::uint64_t kSmallSizes = 256;
  static constexpr std::uint64_t kMostOfMany = 6;  // of kSmallSizes values and more

  static constexpr std::uint64_t count(std::uint64_t size) {
    std::uint64_t product = size;
    std::uint64_t swaps = 1;
    while (size - swaps > 1 && product < kLargestProduct / size) product *= size - swaps++;
    return swaps;
  }

  std::uint8_t small_[kSmallSizes];         // by the number of values
  std::uint64_t largest_[kMostOfMany + 1];  // the most values of so many swaps
};
inline constexpr SwapsAWord kSwapsAWord;

// Whether a word is one of the few that would favor some orders. rest: what is left of it after
// `swaps` swaps of `size` values.
inline bool is_unfair(std::uint64_t size, std::uint64_t swaps, std::uint64_t rest) {
  // No product of bounds is larger.
  if (__builtin_expect(rest >= SwapsAWord::kLargestProduct, 1)) return false;
  std::uint64_t product = 1;
  for (std::uint64_t swap = 0; swap < swaps; ++swap) product *= size - swap;
  return rest < product && rest < (0 - product) % product;
}

template <class T>
__attribute__((noinline)) void undo(T* first, std::uint64_t size, std::uint64_t swaps,
                                    std::uint64_t word) {
  std::uint64_t chosen[SwapsAWord::kMost];
  for (std::uint64_t swap = 0; swap < swaps; ++swap) {
    chosen[swap] = Random::split_below(word, size - swap);
  }
  for (std::uint64_t swap = swaps; swap-- > 0;) {
    std::swap(first[size - 1 - swap], first[chosen[swap]]);
  }
}

// Swaps the last of `size` values with itself or one before it, then the last but one, and so on:
// `swaps` of them by one random word, without bias. Brackett-Rozinsky and Lemire, "Batched ranged
// random integer generation", 2024.
template <class T>
inline void swap_last(T* first, std::uint64_t size, std::uint64_t swaps, Random& random) {
  for (;;) {
    const std::uint64_t word = random.next();
    std::uint64_t rest = word;
    for (std::uint64_t swap = 0; swap < swaps; ++swap) {
      std::swap(first[size - 1 - swap], first[Random::split_below(rest, size - swap)]);
    }
    if (!is_unfair(size, swaps, rest)) return;
    undo(first, size, swaps, word);
  }
}

// The same with several words, for more values than caches hold: the memory is told of those that
// will be swapped. Returns how many swaps it made. swaps: of the word before, and then of the last.
template <class T>
std::uint64_t swap_last_of_many(T* first, std::uint64_t size, std::uint64_t& swaps,
                                Random& random) {
  constexpr std::uint64_t kAtOnce = 64;
  std::uint64_t chosen[kAtOnce];
  std::uint64_t count = 0;
  while (count + SwapsAWord::kMost <= kAtOnce) {
    const std::uint64_t left = size - count;
    swaps = kSwapsAWord.at(left, swaps);
    std::uint64_t rest = 0;
    do {
      rest = random.next();
      for (std::uint64_t swap = 0; swap < swaps; ++swap) {
        chosen[count + swap] = Random::split_below(rest, left - swap);
      }
    } while (is_unfair(left, swaps, rest));
    for (const std::uint64_t stop = count + swaps; count < stop; ++count) {
      __builtin_prefetch(first + chosen[count], 1);
    }
  }
  for (std::uint64_t swap = 0; swap < count; ++swap) {
    std::swap(first[size - 1 - swap], first[chosen[swap]]);
  }
  return count;
}

// Fisher-Yates: every order of [first, last) is equally likely.
//
// Shuffling 100 million values takes seconds, so `goes_on` is asked every million or so; the order
// is unfinished where it says no.
template <class T, class GoesOn>
void shuffle(T* first, T* last, Random& random, const GoesOn& goes_on) {
  constexpr std::uint64_t kAskEvery = std::uint64_t{1} << 20;
  constexpr std::uint64_t kMany = std::uint64_t{1} << 18;
  auto size = static_cast<std::uint64_t>(last - first);
  std::uint64_t swaps = 1;
  for (std::uint64_t ask_at = size > kAskEvery ? size - kAskEvery : 0; size > kMany;) {
    if (size < ask_at) {
      if (!goes_on()) return;
      ask_at = size > kAskEvery ? size - kAskEvery : 0;
    }
    size -= swap_last_of_many(first, size, swaps, random);
  }
  for (; size > 1; size -= swaps) {
    swaps = kSwapsAWord.at(size, swaps);
    swap_last(first, size, swaps, random);
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
