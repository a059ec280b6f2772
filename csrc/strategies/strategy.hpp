// SPDX-License-Identifier: Apache-2.0
// What a strategy is, and the table of all of them.
//
// A new strategy is a file in this folder with its function, and its row in table.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "base/monitor.hpp"
#include "types/geometry.hpp"
#include "types/histogram.hpp"
#include "types/items.hpp"
#include "types/plan.hpp"
#include "types/settings.hpp"

namespace packing {

// What a LengthStrategy makes of the segments.
struct PackedLengths {
  Geometry geometry;
  // No packing of the same segments has fewer packs. 0: the strategy proves nothing, and the bounds
  // of optimal/lower_bound.hpp are computed for it.
  std::int64_t lower_bound = 0;
};

// A strategy that sees only how many segments there are of each length. Documents are dealt to
// their places afterwards.
// Packs every segment of the histogram into rows of histogram.capacity() units and at most
// settings.max_documents_per_pack segments.
using LengthStrategy = PackedLengths(const LengthHistogram& histogram, const PlanSettings& settings,
                                     Monitor& monitor);

// A strategy that looks at documents one after another, in an order that settings.seed decides.
// Fills the arrays of `plan`, and its lower_bound if it proves one of its own.
using DocumentStrategy = void(const Items& items, const PlanSettings& settings, Monitor& monitor,
                              Plan& plan);

// A row of the table.
struct Strategy {
  const char* name;
  // Cuts documents of any length where rows end. Then the lower bound, which is the strategy's own,
  // does not hold for whole documents, and overlong documents are neither dropped nor truncated.
  bool cuts_documents;
  std::variant<LengthStrategy*, DocumentStrategy*> pack;
  const char* summary;  // for --help: what it does, without a capital and a period
};

// All strategies, in the order in which they are listed. The first is the baseline that packing is
// measured against.
const std::vector<Strategy>& strategies();

// Throws SettingError where the settings name no strategy, or one that their `overlong` does not go
// with.
const Strategy& find_strategy(const PlanSettings& settings);

}  // namespace packing
