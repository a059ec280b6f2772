// SPDX-License-Identifier: Apache-2.0
// Each bound is a sum over the lengths for a parameter, of which the best is kept.
#include "optimal/lower_bound.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/divide_up.hpp"

namespace packing {
namespace {

// The fewest packs of at most two segments: the longest that is left takes the shortest that is
// left, if both fit. Another partner for either would leave no more pairs.
std::int64_t packs_of_two(const LengthHistogram& histogram) {
  std::int64_t shortest = 1;
  std::int64_t longest = histogram.capacity();
  std::int64_t short_count = histogram.count(shortest);  // not in a pack yet
  std::int64_t long_count = histogram.count(longest);
  std::int64_t packs = 0;
  while (shortest < longest) {
    if (short_count == 0) {
      short_count = histogram.count(++shortest);
    } else if (long_count == 0) {
      long_count = histogram.count(--longest);
    } else if (shortest + longest <= histogram.capacity()) {
      const std::int64_t pairs = std::min(short_count, long_count);
      packs += pairs;
      short_count -= pairs;
      long_count -= pairs;
    } else {
      packs += std::exchange(long_count, 0);
    }
  }
  // Segments of one length are left, counted from both sides.
  const std::int64_t left = std::min(short_count, long_count);
  return packs + (2 * longest <= histogram.capacity() ? divide_up(left, 2) : left);
}

}  // namespace

// For each k, segments longer than capacity - k have a row of their own, those longer than half a
// row have a row each that no segment of k or more beside them needs to share, and what the
// segments from k to half a row do not find beside those opens new rows.
std::int64_t lower_bound(const LengthHistogram& histogram, std::int64_t max_segments) {
  const std::int64_t capacity = histogram.capacity();
  std::int64_t long_count = 0;       // longer than half a row
  std::int64_t long_positions = 0;   // of those not longer than capacity - k
  std::int64_t short_positions = 0;  // from k to half a row
  for (std::int64_t length = 1; length <= capacity; ++length) {
    const std::int64_t count = histogram.count(length);
    if (2 * length > capacity) {
      long_count += count;
      long_positions += length * count;
    } else {
      short_positions += length * count;
    }
  }
  std::int64_t shared = long_count;  // long ones not longer than capacity - k
  std::int64_t bound = divide_up(histogram.size(), max_segments);
  for (std::int64_t k = 0; 2 * k <= capacity; ++k) {
    const std::int64_t room_beside = shared * capacity - long_positions;
    const std::int64_t over = std::max<std::int64_t>(0, short_positions - room_beside);
    bound = std::max(bound, long_count + divide_up(over, capacity));
    // The next k: one length fewer on either side.
    short_positions -= k * (k > 0 ? histogram.count(k) : 0);
    const std::int64_t alone = capacity - k;
    if (2 * alone > capacity) {
      shared -= histogram.count(alone);
      long_positions -= alone * histogram.count(alone);
    }
  }
  return max_segments == 2 ? std::max(bound, packs_of_two(histogram)) : bound;
}

// With m = capacity / e, phi gives 1/m to a length from e to half a row, nothing to a shorter one,
// and 1 - floor((capacity - length) / e) / m to a longer one.
std::int64_t dual_feasible_bound(const LengthHistogram& histogram, Work& work) {
  const std::int64_t capacity = histogram.capacity();
  std::vector<std::int64_t> up_to(static_cast<std::size_t>(capacity) + 1, 0);  // segments
  for (std::int64_t length = 1; length <= capacity; ++length) {
    up_to[static_cast<std::size_t>(length)] =
        up_to[static_cast<std::size_t>(length - 1)] + histogram.count(length);
  }
  auto at = [&up_to](std::int64_t length) { return up_to[static_cast<std::size_t>(length)]; };
  const std::int64_t half = capacity / 2;
  const std::int64_t num_long = at(capacity) - at(half);
  std::int64_t bound = 0;
  for (std::int64_t e = half; e >= 1 && !work.exhausted(); --e) {
    const std::int64_t m = capacity / e;
    work.spend(1 + half / e);
    std::int64_t parts = at(half) - at(e - 1) + m * num_long;
    for (std::int64_t length = capacity - e; length > half; length -= e) {
      parts -= at(length) - at(half);
    }
    bound = std::max(bound, divide_up(parts, m));
  }
  return bound;
}

std::int64_t quick_lower_bound(const LengthHistogram& histogram, std::int64_t max_segments,
                               Monitor& monitor) {
  const std::int64_t quick = lower_bound(histogram, max_segments);
  monitor.report(0);
  Work work(kDualFeasibleSteps, monitor);
  return std::max(quick, dual_feasible_bound(histogram, work));
}

}  // namespace packing
