// SPDX-License-Identifier: Apache-2.0
// How many segments of each length are left to pack.
#pragma once

#include <cstdint>
#include <vector>

namespace packing {

// Counts of the lengths 1..capacity, with searches among the lengths that are left.
//
// A set bit marks a length with segments left. Two summaries of 64 bits to one lie above, so a
// search for one length costs a few instructions; a second, reversed bitmap finds pairs of a given
// sum 64 at a time.
class LengthHistogram {
 public:
  explicit LengthHistogram(std::int64_t capacity);

  std::int64_t capacity() const { return static_cast<std::int64_t>(counts_.size()) - 1; }
  std::int64_t count(std::int64_t length) const {
    return counts_[static_cast<std::size_t>(length)];
  }
  // The number of segments left, of any length.
  std::int64_t size() const { return size_; }
  // The number of lengths that have segments left.
  std::int64_t num_lengths() const;
  // The sum of their lengths.
  std::int64_t positions() const { return positions_; }

  void add(std::int64_t length, std::int64_t count = 1);
  // Takes `count` segments of `length` out; there must be that many.
  void remove(std::int64_t length, std::int64_t count = 1);

  // The largest length <= limit with segments left, or 0 where there is none.
  std::int64_t largest_at_most(std::int64_t limit) const;

  // The smallest length >= limit with segments left, or 0 where there is none. limit: 1 to
  // capacity.
  std::int64_t smallest_at_least(std::int64_t limit) const;

  // The largest length x <= limit with x >= sum - x such that two segments, of x and sum - x, are
  // left; 0 where there is none. sum: 2 to capacity. Adds the words it looked at to `steps`.
  std::int64_t largest_of_pair(std::int64_t sum, std::int64_t limit, std::int64_t& steps) const;

 private:
  // The last word at or before `word` with a length left; past the end of words_ where there is
  // none.
  std::size_t filled_word(std::size_t word) const;

  std::vector<std::int64_t> counts_;
  std::vector<std::uint64_t> words_;     // bit l: length l is left
  std::vector<std::uint64_t> reversed_;  // bit capacity - l: length l is left
  std::vector<std::uint64_t> summary_;   // bit w: words_[w] is not zero
  std::vector<std::uint64_t> top_;       // bit s: summary_[s] is not zero
  std::int64_t size_ = 0;
  std::int64_t positions_ = 0;
};

}  // namespace packing
