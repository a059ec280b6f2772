// SPDX-License-Identifier: Apache-2.0
// Packs as lengths, before documents are assigned to them.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "types/histogram.hpp"

namespace packing {

// `count` segments of one `length`.
struct Run {
  std::uint32_t length;
  std::uint32_t count;
};

// The packs of a plan as lengths: pattern p holds runs[pattern_offsets[p] .. pattern_offsets[p+1])
// and stands for repeats[p] equal packs. Which document fills which place is decided later.
struct Geometry {
  std::vector<Run> runs;
  std::vector<std::int64_t> pattern_offsets{0};
  std::vector<std::int64_t> repeats;

  std::int64_t num_patterns() const { return static_cast<std::int64_t>(repeats.size()); }
  std::int64_t num_packs() const;
  // Segments of one pack of a pattern.
  std::int64_t pattern_size(std::int64_t pattern) const;
  // Positions of one pack of a pattern.
  std::int64_t pattern_positions(std::int64_t pattern) const;

  // Closes a pattern made of the runs pushed since the last call.
  void close_pattern(std::int64_t repeat);
  // Forgets patterns that stand for no pack.
  void drop_unused();
  // Adds every pattern of another geometry.
  void append(const Geometry& other);
};

// One row being filled from a histogram. What it takes leaves the histogram at once; close() then
// repeats the pack as often as what is left allows.
class OpenPack {
 public:
  OpenPack(LengthHistogram& histogram, Geometry& geometry, std::int64_t max_segments)
      : histogram_(histogram),
        geometry_(geometry),
        room_(histogram.capacity()),
        places_(max_segments) {}

  std::int64_t room() const { return room_; }
  // Segments that it can still take, whatever their length.
  std::int64_t places() const { return places_; }

  void take(std::int64_t length, std::int64_t count = 1);
  // Takes the longest segment that fits until none does.
  void fill_longest_first();

  // How many equal packs there could be in all.
  std::int64_t max_repeat() const;

  // Closes the pack and makes up to `limit` equal ones in all.
  void close(std::int64_t limit = std::numeric_limits<std::int64_t>::max());

 private:
  LengthHistogram& histogram_;
  Geometry& geometry_;
  std::int64_t room_;
  std::int64_t places_;
};

}  // namespace packing
