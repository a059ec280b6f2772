// How many segments of each length are still to be placed.
#pragma once

#include <cstdint>
#include <vector>

namespace packing {

// Counts of the lengths 1..capacity, with a search for the largest length that is left.
//
// The search walks a tree of 64-bit words in which a set bit marks a subtree with segments left
// (a van Emde Boas layout with a fan-out of 64), so it costs a few instructions for any capacity.
class LengthHistogram {
 public:
  explicit LengthHistogram(std::int64_t capacity);

  std::int64_t capacity() const { return static_cast<std::int64_t>(counts_.size()) - 1; }
  std::int64_t count(std::int64_t length) const {
    return counts_[static_cast<std::size_t>(length)];
  }
  // The number of segments left, of any length.
  std::int64_t size() const { return size_; }

  void add(std::int64_t length, std::int64_t count = 1);
  // Takes `count` segments of `length` out; there must be that many.
  void remove(std::int64_t length, std::int64_t count);

  // The largest length <= limit with segments left, or 0 where there is none.
  std::int64_t largest_at_most(std::int64_t limit) const;

 private:
  std::vector<std::int64_t> counts_;
  std::vector<std::vector<std::uint64_t>> levels_;  // levels_[0] has one bit a length
  std::int64_t size_ = 0;
};

}  // namespace packing
