// SPDX-License-Identifier: Apache-2.0
// Dynamic programs over the room of a row.
#include "optimal/dearest_fill.hpp"

#include <algorithm>
#include <limits>

#include "base/wide_vectors.hpp"

namespace packing {
namespace {

constexpr std::int32_t kBarred = std::numeric_limits<std::int32_t>::min() / 2;

// values[i] = max(values[i], base + prices[i])
PACKING_AVX2_CLONES void raise(std::int32_t* values, const std::int32_t* prices, std::int64_t size,
                               std::int32_t base) {
  for (std::int64_t i = 0; i < size; ++i) {
    const std::int32_t value = base + prices[i];
    values[i] = values[i] < value ? value : values[i];
  }
}

}  // namespace

void DearestFill::compute(const std::vector<std::int32_t>& prices, std::int64_t capacity,
                          std::int64_t places, Work& work) {
  size_ = static_cast<std::size_t>(capacity) + 1;
  values_.assign(size_, 0);
  most_places_ = 0;
  priced_.assign(prices.begin(), prices.begin() + capacity + 1);
  std::int64_t shortest = 0;
  std::int64_t longest = 0;
  for (std::int64_t length = 1; length <= capacity; ++length) {
    auto& price = priced_[static_cast<std::size_t>(length)];
    if (price > 0) {
      if (shortest == 0) shortest = length;
      longest = length;
    } else {
      price = kBarred;
    }
  }
  if (shortest == 0) return;
  if (places >= capacity / shortest) {
    compute_unlimited(shortest, longest, work);
  } else {
    compute_layers(places, shortest, work);
  }
}

void DearestFill::compute_unlimited(std::int64_t shortest, std::int64_t longest, Work& work) {
  const std::int64_t capacity = static_cast<std::int64_t>(size_) - 1;
  std::int32_t best = -1;
  for (std::int64_t room = 0; room <= capacity; ++room) {
    std::int32_t& value = values_[static_cast<std::size_t>(room)];
    if (value <= best) {  // the same as with less room: what builds on it is dominated
      value = best;
      continue;
    }
    best = value;
    const std::int64_t last = std::min(longest, capacity - room);
    if (last < shortest) continue;
    raise(&values_[static_cast<std::size_t>(room + shortest)],
          &priced_[static_cast<std::size_t>(shortest)], last - shortest + 1, value);
    work.spend(last - shortest + 1);
  }
}

// Each layer allows one segment more than the one before.
void DearestFill::compute_layers(std::int64_t places, std::int64_t shortest, Work& work) {
  const std::int64_t capacity = static_cast<std::int64_t>(size_) - 1;
  for (; most_places_ < places; ++most_places_) {
    const std::size_t before = static_cast<std::size_t>(most_places_) * size_;
    const std::size_t now = before + size_;
    values_.resize(now + size_);
    std::copy_n(values_.begin() + static_cast<std::ptrdiff_t>(before), size_,
                values_.begin() + static_cast<std::ptrdiff_t>(now));
    std::int32_t best = 0;
    for (std::int64_t length = shortest; length <= capacity; ++length) {
      const std::int32_t price = priced_[static_cast<std::size_t>(length)];
      if (price <= best) continue;  // a shorter one costs as much
      best = price;
      raise(&values_[now + static_cast<std::size_t>(length)], &values_[before],
            capacity - length + 1, price);
      work.spend(capacity - length + 1);
    }
    if (std::equal(values_.begin() + static_cast<std::ptrdiff_t>(now), values_.end(),
                   values_.begin() + static_cast<std::ptrdiff_t>(before))) {
      values_.resize(now);
      return;
    }
  }
}

std::int64_t DearestFill::steps(const LengthHistogram& histogram, std::int64_t places) {
  const std::int64_t capacity = histogram.capacity();
  std::int64_t shortest = 0;
  std::int64_t a_layer = 0;
  for (std::int64_t length = histogram.largest_at_most(capacity); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    shortest = length;
    a_layer += capacity - length + 1;
  }
  if (shortest == 0 || places >= capacity / shortest) return capacity * capacity / 2;
  constexpr std::int64_t kMostEntries = std::int64_t{1} << 27;  // 512 MiB
  if (places >= kMostEntries / (capacity + 1)) return std::numeric_limits<std::int64_t>::max();
  return a_layer * places;
}

}  // namespace packing
