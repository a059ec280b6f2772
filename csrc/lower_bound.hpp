// How many packs any plan needs at least.
#pragma once

#include <cstdint>

#include "histogram.hpp"

namespace packing {

// The bound L2 of Martello and Toth (Discrete Applied Mathematics 28, 1990), and the number of
// segments over max_segments where that is more. Costs one pass over the lengths.
std::int64_t lower_bound(const LengthHistogram& histogram, std::int64_t max_segments);

// The best of the bounds by the dual-feasible functions phi^(e) of Fekete and Schepers
// (Mathematical Programming 91, 2001, section 3), over all e. Costs capacity * log(capacity) steps.
std::int64_t dual_feasible_bound(const LengthHistogram& histogram);

}  // namespace packing
