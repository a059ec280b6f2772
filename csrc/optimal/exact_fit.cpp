// SPDX-License-Identifier: Apache-2.0
// Searches for two or three segments whose lengths add up to the room that is left.
#include "optimal/exact_fit.hpp"

#include <algorithm>
#include <utility>
#include <vector>

namespace packing {
namespace {

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

// The shortest segments that are left.
struct Shortest {
  std::int64_t count = 0;
  std::int64_t positions = 0;
  std::int64_t last = 0;  // the longest of them
  std::int64_t steps = 0;
};

// As many of the shortest segments as fit, at most `most`. lengths: ascending, none is shorter.
template <class Length>
Shortest find_shortest(const LengthHistogram& histogram, Length lengths, Length end,
                       std::int64_t room, std::int64_t most) {
  Shortest found;
  for (; lengths != end && found.count < most; ++lengths, ++found.steps) {
    const std::int64_t left = histogram.count(*lengths);
    const std::int64_t count =
        std::min({left, most - found.count, (room - found.positions) / *lengths});
    if (count > 0) found.last = *lengths;
    found.count += count;
    found.positions += count * *lengths;
    if (count < left) break;
  }
  return found;
}

}  // namespace

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

Geometry exact_fit_decreasing(LengthHistogram histogram, std::int64_t max_segments, Work& work) {
  Geometry geometry;
  while (histogram.size() > 0) {
    OpenPack pack(histogram, geometry, max_segments);
    fill_exactly(pack, histogram, work);
    pack.close();
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
      shortest = histogram.smallest_at_least(shortest);
      if (shortest > pack.room()) break;
      pack.take(shortest);
      if (histogram.capacity() > kSmallRow) work.spend(kStepsASegment);
    }
    fill_exactly(pack, histogram, work);
    pack.close();
  }
  return geometry;
}

Geometry full_count_fit(LengthHistogram histogram, std::int64_t max_segments, Work& work) {
  std::vector<std::int64_t> lengths;  // ascending
  for (std::int64_t length = histogram.largest_at_most(histogram.capacity()); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    lengths.push_back(length);
  }
  std::reverse(lengths.begin(), lengths.end());
  auto shortest = lengths.begin();
  Geometry geometry;
  while (histogram.size() > 0 && !work.exhausted()) {
    OpenPack pack(histogram, geometry, max_segments);
    pack.take(histogram.largest_at_most(histogram.capacity()));
    for (std::int64_t places = pack.places(); places > 0 && histogram.size() > 0; --places) {
      while (histogram.count(*shortest) == 0) ++shortest;
      if (*shortest > pack.room()) break;
      const std::int64_t longest = histogram.largest_at_most(pack.room());
      if (places == 2 && pack.places() == 2 && longest < pack.room() &&
          close_exactly(pack, histogram, longest, work)) {
        break;
      }
      const Shortest others =
          find_shortest(histogram, shortest, lengths.end(), pack.room(), places);
      pack.take(histogram.largest_at_most(pack.room() - others.positions + others.last));
      places = others.count;
      work.spend(kStepsASegment + others.steps);
    }
    pack.close();
  }
  geometry.append(exact_fit_decreasing(std::move(histogram), max_segments, work));
  return geometry;
}

}  // namespace packing
