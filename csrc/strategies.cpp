// SPDX-License-Identifier: Apache-2.0
#include "strategies.hpp"

#include <algorithm>
#include <limits>

namespace packing {
namespace {

constexpr std::int64_t kNoLimit = std::numeric_limits<std::int64_t>::max();

// How many third-last segments are tried before a row is left to the greedy choice.
constexpr int kThirdsTried = 8;

// What taking a segment costs in large rows, about, beside the search for it.
constexpr std::int64_t kStepsASegment = 8;

// Fills a row longest first, but closes it exactly as soon as that can be done.
void fill_exactly(OpenPack& pack, LengthHistogram& histogram, Work& work) {
  while (pack.places() > 0) {
    const std::int64_t longest = histogram.largest_at_most(pack.room());
    if (longest == 0) return;
    if (longest < pack.room() && close_exactly(pack, histogram, longest, work)) return;
    pack.take(longest);
    if (histogram.capacity() > kSmallRow) work.spend(kStepsASegment);
  }
}

}  // namespace

void fill_longest_first(OpenPack& pack, LengthHistogram& histogram) {
  while (pack.places() > 0) {
    const std::int64_t length = histogram.largest_at_most(pack.room());
    if (length == 0) return;
    pack.take(length, std::min({histogram.count(length), pack.room() / length, pack.places()}));
  }
}

bool close_exactly(OpenPack& pack, LengthHistogram& histogram, std::int64_t longest, Work& work) {
  const std::int64_t room = pack.room();
  auto largest_of_pair = [&](std::int64_t sum, std::int64_t limit) {
    std::int64_t steps = 0;
    const std::int64_t larger = histogram.largest_of_pair(sum, limit, steps);
    if (histogram.capacity() > kSmallRow) work.spend(steps);
    return larger;
  };
  if (histogram.capacity() > kSmallRow && work.exhausted()) return false;
  if (pack.places() >= 2 && room <= 2 * longest) {
    if (const std::int64_t larger = largest_of_pair(room, longest)) {
      pack.take(larger);
      pack.take(room - larger);
      return true;
    }
  }
  if (pack.places() < 3 || room > 3 * longest) return false;
  std::int64_t third = longest;
  for (int tries = 0; third > 0 && tries < kThirdsTried; ++tries) {
    histogram.remove(third);
    const std::int64_t rest = room - third;
    const std::int64_t larger = largest_of_pair(rest, third);
    histogram.add(third);
    if (larger > 0) {
      pack.take(third);
      pack.take(larger);
      pack.take(rest - larger);
      return true;
    }
    third = histogram.largest_at_most(third - 1);
  }
  return false;
}

Geometry padding(LengthHistogram histogram, std::int64_t) {
  Geometry geometry;
  while (const std::int64_t length = histogram.largest_at_most(histogram.capacity())) {
    OpenPack pack(histogram, geometry, 1);
    pack.take(length);
    pack.close(kNoLimit);
  }
  return geometry;
}

Geometry greedy(LengthHistogram histogram, std::int64_t max_segments) {
  Geometry geometry;
  while (histogram.size() > 0) {
    OpenPack pack(histogram, geometry, max_segments);
    while (const std::int64_t length = histogram.largest_at_most(histogram.capacity())) {
      const std::int64_t fitting = std::min(pack.room() / length, pack.places());
      if (fitting == 0) break;
      pack.take(length, std::min(fitting, histogram.count(length)));
    }
    // Equal rows follow a row of one length only, and the last of that length stays open.
    const auto first = static_cast<std::size_t>(geometry.pattern_offsets.back());
    const Run& last = geometry.runs.back();
    const std::int64_t left = histogram.count(last.length);
    const bool one_length = geometry.runs.size() == first + 1;
    pack.close(one_length && left > 0 ? 1 + (left - 1) / last.count : 1);
  }
  return geometry;
}

Geometry first_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments) {
  Geometry geometry;
  while (histogram.size() > 0) {
    OpenPack pack(histogram, geometry, max_segments);
    fill_longest_first(pack, histogram);
    pack.close(kNoLimit);
  }
  return geometry;
}

Geometry exact_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments, Work& work) {
  Geometry geometry;
  while (histogram.size() > 0) {
    OpenPack pack(histogram, geometry, max_segments);
    fill_exactly(pack, histogram, work);
    pack.close(kNoLimit);
  }
  return geometry;
}

Geometry even_count_fit(LengthHistogram histogram, std::int64_t max_segments, Work& work) {
  constexpr std::int64_t kClosing = 2;  // segments left to close_exactly
  Geometry geometry;
  std::int64_t shortest = 1;
  while (histogram.size() > 0) {
    const std::int64_t rows =
        std::max(histogram.positions() / histogram.capacity(), histogram.size() / max_segments) + 1;
    std::int64_t share = std::min(max_segments, (histogram.size() + rows - 1) / rows);
    OpenPack pack(histogram, geometry, max_segments);
    pack.take(histogram.largest_at_most(histogram.capacity()));
    for (--share; share > kClosing && histogram.size() > 0; --share) {
      while (histogram.count(shortest) == 0) ++shortest;
      if (shortest > pack.room()) break;
      pack.take(shortest);
      if (histogram.capacity() > kSmallRow) work.spend(kStepsASegment);
    }
    fill_exactly(pack, histogram, work);
    pack.close(kNoLimit);
  }
  return geometry;
}

Strategy find_strategy(const std::string& name) {
  if (name == "padding") return padding;
  if (name == "greedy") return greedy;
  if (name == "first_fit_decreasing") return first_fit_decreasing;
  if (name == "best_fit_decreasing") return best_fit_decreasing;
  return nullptr;
}

}  // namespace packing
