// SPDX-License-Identifier: Apache-2.0
// The dearest selection of lengths under prices, for every room.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/work.hpp"
#include "types/histogram.hpp"

namespace packing {

// Prices are whole numbers of 1 / kPriceUnit packs.
constexpr std::int32_t kPriceUnit = 1 << 26;

// The dearest selection, with repetition, of lengths with a positive price for each room
// 0..capacity and, where the number of segments is limited, for each number of places.
class DearestFill {
 public:
  // prices: by length, from 0 to at least capacity; 0 bars a length.
  // places: the most segments of a selection.
  void compute(const std::vector<std::int32_t>& prices, std::int64_t capacity, std::int64_t places,
               Work& work);
  std::int32_t value(std::int64_t room, std::int64_t places) const {
    const auto layer = static_cast<std::size_t>(std::min(places, most_places_));
    return values_[layer * size_ + static_cast<std::size_t>(room)];
  }

  // Steps of compute(), about, where all lengths have a price; more than any limit where the table
  // would take too much memory.
  static std::int64_t steps(const LengthHistogram& histogram, std::int64_t places);

 private:
  void compute_unlimited(std::int64_t shortest, std::int64_t longest, Work& work);
  void compute_layers(std::int64_t places, std::int64_t shortest, Work& work);

  std::size_t size_ = 0;              // rooms
  std::int64_t most_places_ = 0;      // more make no difference
  std::vector<std::int32_t> values_;  // by room, for each number of places up to most_places_
  std::vector<std::int32_t> priced_;
};

}  // namespace packing
