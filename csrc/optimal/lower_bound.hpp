// SPDX-License-Identifier: Apache-2.0
// Lower bounds on the number of packs of any plan.
#pragma once

#include <cstdint>

#include "base/work.hpp"
#include "types/histogram.hpp"

namespace packing {

// The bound L2 of Martello and Toth (Discrete Applied Mathematics 28, 1990), and the number of
// segments over max_segments where that is more. Where two segments may share a row at most, it is
// the fewest packs that there are. Costs two passes over the lengths.
std::int64_t lower_bound(const LengthHistogram& histogram, std::int64_t max_segments);

// The best of the bounds by the dual-feasible functions phi^(e) of Fekete and Schepers
// (Mathematical Programming 91, 2001, section 3), over all e from half a row down until `work` is
// exhausted. All of them cost capacity * log(capacity) steps.
std::int64_t dual_feasible_bound(const LengthHistogram& histogram, Work& work);

// Steps that cover every e in rows of up to 2^23, in half a second.
constexpr std::int64_t kDualFeasibleSteps = 64'000'000;

// The better of the two.
std::int64_t quick_lower_bound(const LengthHistogram& histogram, std::int64_t max_segments,
                               Monitor& monitor);

}  // namespace packing
