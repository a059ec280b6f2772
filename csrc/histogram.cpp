#include "histogram.hpp"

namespace packing {
namespace {

// The highest set bit of a word that is not zero.
int highest_bit(std::uint64_t word) { return 63 - __builtin_clzll(word); }

// Bits 0..bit, both ends included.
std::uint64_t up_to(std::size_t bit) { return ~std::uint64_t{0} >> (63 - bit); }

}  // namespace

LengthHistogram::LengthHistogram(std::int64_t capacity)
    : counts_(static_cast<std::size_t>(capacity) + 1, 0) {
  std::size_t words = counts_.size();
  do {
    words = (words + 63) / 64;
    levels_.emplace_back(words, 0);
  } while (words > 1);
}

void LengthHistogram::add(std::int64_t length, std::int64_t count) {
  if (count == 0) return;
  auto position = static_cast<std::size_t>(length);
  counts_[position] += count;
  size_ += count;
  for (auto& level : levels_) {
    level[position / 64] |= std::uint64_t{1} << (position % 64);
    position /= 64;
  }
}

void LengthHistogram::remove(std::int64_t length, std::int64_t count) {
  auto position = static_cast<std::size_t>(length);
  counts_[position] -= count;
  size_ -= count;
  if (counts_[position] != 0) return;
  for (auto& level : levels_) {
    level[position / 64] &= ~(std::uint64_t{1} << (position % 64));
    if (level[position / 64] != 0) return;
    position /= 64;
  }
}

std::int64_t LengthHistogram::largest_at_most(std::int64_t limit) const {
  auto position = static_cast<std::size_t>(limit < capacity() ? limit : capacity());
  bool inclusive = true;
  for (std::size_t height = 0; height < levels_.size(); ++height) {
    const std::size_t bit = position % 64;
    std::uint64_t word = levels_[height][position / 64];
    word &= inclusive ? up_to(bit) : (bit == 0 ? 0 : up_to(bit - 1));
    if (word == 0) {
      position /= 64;
      inclusive = false;
      continue;
    }
    position = position / 64 * 64 + static_cast<std::size_t>(highest_bit(word));
    while (height-- > 0) {
      position = position * 64 + static_cast<std::size_t>(highest_bit(levels_[height][position]));
    }
    return static_cast<std::int64_t>(position);
  }
  return 0;
}

}  // namespace packing
