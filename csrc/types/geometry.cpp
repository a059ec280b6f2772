// SPDX-License-Identifier: Apache-2.0
// Patterns of lengths, and one row being filled.
#include "types/geometry.hpp"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

namespace packing {

std::int64_t Geometry::num_packs() const {
  return std::accumulate(repeats.begin(), repeats.end(), std::int64_t{0});
}

std::int64_t Geometry::pattern_size(std::int64_t pattern) const {
  const auto p = static_cast<std::size_t>(pattern);
  std::int64_t size = 0;
  for (auto run = pattern_offsets[p]; run < pattern_offsets[p + 1]; ++run) {
    size += runs[static_cast<std::size_t>(run)].count;
  }
  return size;
}

std::int64_t Geometry::pattern_positions(std::int64_t pattern) const {
  const auto p = static_cast<std::size_t>(pattern);
  std::int64_t positions = 0;
  for (auto run = pattern_offsets[p]; run < pattern_offsets[p + 1]; ++run) {
    const Run& places = runs[static_cast<std::size_t>(run)];
    positions += std::int64_t{places.length} * places.count;
  }
  return positions;
}

void Geometry::close_pattern(std::int64_t repeat) {
  pattern_offsets.push_back(static_cast<std::int64_t>(runs.size()));
  repeats.push_back(repeat);
}

void Geometry::drop_unused() {
  Geometry used;
  for (std::size_t p = 0; p < repeats.size(); ++p) {
    if (repeats[p] == 0) continue;
    used.runs.insert(used.runs.end(), runs.begin() + pattern_offsets[p],
                     runs.begin() + pattern_offsets[p + 1]);
    used.close_pattern(repeats[p]);
  }
  *this = std::move(used);
}

void Geometry::append(const Geometry& other) {
  const auto shift = static_cast<std::int64_t>(runs.size());
  runs.insert(runs.end(), other.runs.begin(), other.runs.end());
  repeats.insert(repeats.end(), other.repeats.begin(), other.repeats.end());
  for (std::size_t p = 1; p < other.pattern_offsets.size(); ++p) {
    pattern_offsets.push_back(other.pattern_offsets[p] + shift);
  }
}

void OpenPack::take(std::int64_t length, std::int64_t count) {
  histogram_.remove(length, count);
  room_ -= length * count;
  places_ -= count;
  // Runs are merged: what is repeated is decided by length.
  const auto first = static_cast<std::size_t>(geometry_.pattern_offsets.back());
  for (std::size_t run = first; run < geometry_.runs.size(); ++run) {
    if (geometry_.runs[run].length == length) {
      geometry_.runs[run].count += static_cast<std::uint32_t>(count);
      return;
    }
  }
  geometry_.runs.push_back({static_cast<std::uint32_t>(length), static_cast<std::uint32_t>(count)});
}

void OpenPack::fill_longest_first() {
  while (places_ > 0) {
    const std::int64_t length = histogram_.largest_at_most(room_);
    if (length == 0) return;
    take(length, std::min({histogram_.count(length), room_ / length, places_}));
  }
}

std::int64_t OpenPack::max_repeat() const {
  std::int64_t repeat = std::numeric_limits<std::int64_t>::max();
  const auto first = static_cast<std::size_t>(geometry_.pattern_offsets.back());
  for (std::size_t run = first; run < geometry_.runs.size(); ++run) {
    const Run& taken = geometry_.runs[run];
    repeat = std::min(repeat, histogram_.count(taken.length) / taken.count + 1);
  }
  return repeat;
}

void OpenPack::close(std::int64_t limit) {
  const std::int64_t repeat = std::min(limit, max_repeat());
  const auto first = static_cast<std::size_t>(geometry_.pattern_offsets.back());
  if (repeat > 1) {
    for (std::size_t run = first; run < geometry_.runs.size(); ++run) {
      const Run& taken = geometry_.runs[run];
      histogram_.remove(taken.length, taken.count * (repeat - 1));
    }
  }
  geometry_.close_pattern(repeat);
}

}  // namespace packing
