// Packing strategies that need nothing but how many segments there are of each length.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "histogram.hpp"

namespace packing {

// `count` segments of one `length`.
struct Run {
  std::int64_t length;
  std::int64_t count;
};

// The packs of a plan as lengths: pattern p holds runs[pattern_offsets[p] .. pattern_offsets[p+1])
// and stands for repeats[p] equal packs. Which document fills which place is decided later.
struct Geometry {
  std::vector<Run> runs;
  std::vector<std::int64_t> pattern_offsets{0};
  std::vector<std::int64_t> repeats;

  // Closes a pattern made of the runs pushed since the last call.
  void close_pattern(std::int64_t repeat) {
    pattern_offsets.push_back(static_cast<std::int64_t>(runs.size()));
    repeats.push_back(repeat);
  }
};

// Packs every segment of the histogram into rows of histogram.capacity() positions.
using Strategy = Geometry (*)(LengthHistogram histogram);

// One segment a row: the baseline that packing is measured against.
Geometry padding(LengthHistogram histogram);

// Longest first; a row is closed at the first segment that does not fit (next-fit decreasing, the
// text of arXiv 2410.08081, section 2.3).
Geometry greedy(LengthHistogram histogram);

// Longest first, each into the first row that it fits (Johnson 1973). Filling one row at a time
// with the longest segment that still fits gives the same rows.
Geometry first_fit_decreasing(LengthHistogram histogram);

// The strategy of that name, or nullptr.
Strategy find_strategy(const std::string& name);

}  // namespace packing
