// SPDX-License-Identifier: Apache-2.0
// Longest first, each into the row that it leaves the least room in (Johnson et al. 1974). Works on
// counts: rows that are alike are kept as one group, and a whole group takes
// the next length at once. A group's contents are a path in a tree of placements.
#include <algorithm>
#include <map>
#include <utility>
#include <vector>

#include "strategies/strategy.hpp"

namespace packing {
namespace {

// `count` segments of one length that were put on top of `below`.
struct Placement {
  std::int64_t below;  // -1: the row was empty
  Run run;
};

// `repeat` rows with the same contents.
struct Group {
  std::int64_t top;
  std::int64_t repeat;
  std::int64_t places;
};

class OpenRows {
 public:
  OpenRows(std::int64_t capacity, std::int64_t max_segments)
      : max_segments_(max_segments), rows_by_fill_(capacity) {}

  // Puts `count` segments of `length` where they leave the least room.
  void place(std::int64_t length, std::int64_t count) {
    const std::int64_t capacity = rows_by_fill_.capacity();
    while (count > 0) {
      // The fullest rows that the length fits: the largest fill of at most capacity - length.
      const std::int64_t fill = rows_by_fill_.largest_at_most(capacity - length);
      if (fill == 0) {
        const std::int64_t in_row = std::min({capacity / length, max_segments_, count});
        put({-1, count / in_row, max_segments_}, 0, length, in_row);
        count %= in_row;
        continue;
      }
      auto& alike = groups_[fill];
      Group group = alike.back();
      const std::int64_t in_row = std::min({(capacity - fill) / length, group.places, count});
      const std::int64_t rows = std::min(group.repeat, count / in_row);
      alike.back().repeat -= rows;
      if (alike.back().repeat == 0) alike.pop_back();
      rows_by_fill_.remove(fill, rows);
      group.repeat = rows;
      put(group, fill, length, in_row);
      count -= rows * in_row;
    }
  }

  Geometry finish() {
    for (const auto& [fill, alike] : groups_) {
      for (const Group& group : alike) close(group);
    }
    return std::move(geometry_);
  }

 private:
  void put(Group group, std::int64_t fill, std::int64_t length, std::int64_t count) {
    placements_.push_back(
        {group.top, {static_cast<std::uint32_t>(length), static_cast<std::uint32_t>(count)}});
    group.top = static_cast<std::int64_t>(placements_.size()) - 1;
    group.places -= count;
    fill += length * count;
    if (group.places == 0 || fill == rows_by_fill_.capacity()) {
      close(group);
    } else {
      groups_[fill].push_back(group);
      rows_by_fill_.add(fill, group.repeat);
    }
  }

  void close(const Group& group) {
    for (auto at = group.top; at >= 0; at = placements_[static_cast<std::size_t>(at)].below) {
      geometry_.runs.push_back(placements_[static_cast<std::size_t>(at)].run);
    }
    geometry_.close_pattern(group.repeat);
  }

  std::int64_t max_segments_;
  LengthHistogram rows_by_fill_;  // open rows, counted by the positions they hold
  std::map<std::int64_t, std::vector<Group>> groups_;  // the same rows, by the positions they hold
  std::vector<Placement> placements_;
  Geometry geometry_;
};

}  // namespace

PackedLengths best_fit_decreasing(const LengthHistogram& histogram, const PlanSettings& settings,
                                  Monitor&) {
  OpenRows rows(histogram.capacity(), settings.max_documents_per_pack);
  for (std::int64_t length = histogram.largest_at_most(histogram.capacity()); length > 0;
       length = histogram.largest_at_most(length - 1)) {
    rows.place(length, histogram.count(length));
  }
  return {rows.finish()};
}

}  // namespace packing
