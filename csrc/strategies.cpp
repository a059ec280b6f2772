#include "strategies.hpp"

#include <algorithm>
#include <limits>

namespace packing {

Geometry padding(LengthHistogram histogram) {
  Geometry geometry;
  while (const std::int64_t length = histogram.largest_at_most(histogram.capacity())) {
    const std::int64_t count = histogram.count(length);
    geometry.runs.push_back({length, 1});
    geometry.close_pattern(count);
    histogram.remove(length, count);
  }
  return geometry;
}

Geometry greedy(LengthHistogram histogram) {
  Geometry geometry;
  const std::int64_t capacity = histogram.capacity();
  std::int64_t room = capacity;
  while (const std::int64_t length = histogram.largest_at_most(capacity)) {
    std::int64_t count = histogram.count(length);
    histogram.remove(length, count);
    const std::int64_t fitting = std::min(count, room / length);
    if (fitting > 0) {
      geometry.runs.push_back({length, fitting});
      room -= fitting * length;
      count -= fitting;
    }
    if (count == 0) continue;
    geometry.close_pattern(1);  // the open row does not take the next one
    const std::int64_t per_row = capacity / length;
    const std::int64_t closed_rows = (count - 1) / per_row;  // the last one stays open
    if (closed_rows > 0) {
      geometry.runs.push_back({length, per_row});
      geometry.close_pattern(closed_rows);
      count -= closed_rows * per_row;
    }
    geometry.runs.push_back({length, count});
    room = capacity - count * length;
  }
  const bool row_is_open =
      geometry.pattern_offsets.back() != static_cast<std::int64_t>(geometry.runs.size());
  if (row_is_open) geometry.close_pattern(1);
  return geometry;
}

Geometry first_fit_decreasing(LengthHistogram histogram) {
  Geometry geometry;
  while (histogram.size() > 0) {
    std::int64_t room = histogram.capacity();
    std::int64_t limit = room;
    std::int64_t repeat = std::numeric_limits<std::int64_t>::max();
    const auto first_run = static_cast<std::size_t>(geometry.pattern_offsets.back());
    while (const std::int64_t length = histogram.largest_at_most(std::min(room, limit))) {
      const std::int64_t count = std::min(histogram.count(length), room / length);
      geometry.runs.push_back({length, count});
      repeat = std::min(repeat, histogram.count(length) / count);
      room -= count * length;
      limit = length - 1;  // the run took all of this length that is left or fits
    }
    for (std::size_t run = first_run; run < geometry.runs.size(); ++run) {
      histogram.remove(geometry.runs[run].length, geometry.runs[run].count * repeat);
    }
    geometry.close_pattern(repeat);
  }
  return geometry;
}

Strategy find_strategy(const std::string& name) {
  if (name == "padding") return padding;
  if (name == "greedy") return greedy;
  if (name == "first_fit_decreasing") return first_fit_decreasing;
  return nullptr;
}

}  // namespace packing
