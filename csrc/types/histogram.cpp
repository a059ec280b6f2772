// SPDX-License-Identifier: Apache-2.0
// Bitmaps with two levels of summaries, so that searches skip lengths that have run out.
#include "types/histogram.hpp"

#include <algorithm>

namespace packing {
namespace {

// The highest set bit of a word that is not zero.
std::size_t highest_bit(std::uint64_t word) {
  return static_cast<std::size_t>(63 - __builtin_clzll(word));
}

// Bits 0..bit, both ends included.
std::uint64_t up_to(std::size_t bit) { return ~std::uint64_t{0} >> (63 - bit); }

// Bits 0..bit - 1.
std::uint64_t below(std::size_t bit) { return bit == 0 ? 0 : up_to(bit - 1); }

void set(std::vector<std::uint64_t>& words, std::size_t bit) {
  words[bit / 64] |= std::uint64_t{1} << (bit % 64);
}

// Whether the word of the cleared bit is zero now.
bool clear(std::vector<std::uint64_t>& words, std::size_t bit) {
  return (words[bit / 64] &= ~(std::uint64_t{1} << (bit % 64))) == 0;
}

std::size_t words_for(std::size_t bits) { return (bits + 63) / 64; }

}  // namespace

LengthHistogram::LengthHistogram(std::int64_t capacity)
    : counts_(static_cast<std::size_t>(capacity) + 1, 0),
      words_(words_for(counts_.size()), 0),
      reversed_(words_.size() + 1, 0),  // one more: a shifted read takes two words
      summary_(words_for(words_.size()), 0),
      top_(words_for(summary_.size()), 0) {}

void LengthHistogram::add(std::int64_t length, std::int64_t count) {
  if (count == 0) return;
  const auto bit = static_cast<std::size_t>(length);
  counts_[bit] += count;
  size_ += count;
  positions_ += count * length;
  set(words_, bit);
  set(reversed_, counts_.size() - 1 - bit);
  set(summary_, bit / 64);
  set(top_, bit / 64 / 64);
}

void LengthHistogram::remove(std::int64_t length, std::int64_t count) {
  const auto bit = static_cast<std::size_t>(length);
  counts_[bit] -= count;
  size_ -= count;
  positions_ -= count * length;
  if (counts_[bit] != 0) return;
  clear(reversed_, counts_.size() - 1 - bit);
  if (clear(words_, bit) && clear(summary_, bit / 64)) clear(top_, bit / 64 / 64);
}

std::int64_t LengthHistogram::num_lengths() const {
  std::int64_t number = 0;
  for (const std::uint64_t word : words_) number += __builtin_popcountll(word);
  return number;
}

std::size_t LengthHistogram::filled_word(std::size_t word) const {
  std::size_t at = word / 64;
  std::uint64_t filled = summary_[at] & up_to(word % 64);
  if (filled == 0) {
    std::size_t high = at / 64;
    std::uint64_t higher = top_[high] & below(at % 64);
    while (higher == 0) {
      if (high == 0) return words_.size();
      higher = top_[--high];
    }
    at = high * 64 + highest_bit(higher);
    filled = summary_[at];
  }
  return at * 64 + highest_bit(filled);
}

std::int64_t LengthHistogram::largest_at_most(std::int64_t limit) const {
  const auto bit = static_cast<std::size_t>(std::min(limit, capacity()));
  std::size_t word = bit / 64;
  std::uint64_t found = words_[word] & up_to(bit % 64);
  if (found == 0) {
    if (word == 0) return 0;
    word = filled_word(word - 1);
    if (word == words_.size()) return 0;
    found = words_[word];
  }
  return static_cast<std::int64_t>(word * 64 + highest_bit(found));
}

std::int64_t LengthHistogram::smallest_at_least(std::int64_t limit) const {
  const auto bit = static_cast<std::size_t>(limit);
  std::size_t word = bit / 64;
  std::uint64_t found = words_[word] & ~below(bit % 64);
  while (found == 0) {
    if (++word == words_.size()) return 0;
    found = words_[word];
  }
  return static_cast<std::int64_t>(word * 64) + __builtin_ctzll(found);
}

std::int64_t LengthHistogram::largest_of_pair(std::int64_t sum, std::int64_t limit,
                                              std::int64_t& steps) const {
  const std::int64_t low = (sum + 1) / 2;
  const std::int64_t high = std::min(limit, sum - 1);
  if (high < low) return 0;
  // Length sum - x is left where bit capacity - sum + x of the reversed bitmap is set.
  const auto offset = static_cast<std::size_t>(capacity() - sum);
  const std::size_t words = offset / 64;
  const std::size_t shift = offset % 64;
  const auto first = static_cast<std::size_t>(low) / 64;
  const auto last = static_cast<std::size_t>(high) / 64;
  for (std::size_t word = last + 1; word-- > first; ++steps) {
    std::uint64_t both = words_[word];
    if (both == 0) {  // large rows have long stretches without a length
      word = filled_word(word);
      if (word < first || word == words_.size()) return 0;
      both = words_[word];
    }
    std::uint64_t partners = reversed_[word + words] >> shift;
    if (shift != 0) partners |= reversed_[word + words + 1] << (64 - shift);
    both &= partners;
    if (word == last) both &= up_to(static_cast<std::size_t>(high) % 64);
    for (; both != 0; both &= below(highest_bit(both))) {
      const auto length = static_cast<std::int64_t>(word * 64 + highest_bit(both));
      if (length < low) return 0;
      if (2 * length != sum || count(length) >= 2) return length;
    }
  }
  return 0;
}

}  // namespace packing
