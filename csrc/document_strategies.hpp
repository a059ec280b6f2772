// SPDX-License-Identifier: Apache-2.0
// Strategies that look at documents one after another in a random order, not at counts of lengths.
#pragma once

#include "items.hpp"
#include "monitor.hpp"
#include "plan.hpp"

namespace packing {

// Documents one after another in a seeded order, cut wherever a row ends (random packing of
// arXiv 2410.08081, section 2.2). With an alignment each segment starts at a multiple of it.
void random_packs(const Items& items, const PlanOptions& options, Monitor& monitor, Plan& plan);

// Documents in a seeded order, each into the first row that it fits: the default of several
// frameworks. A tree of the room left in each row finds it in log(rows) steps.
void first_fit_shuffle(const Items& items, const PlanOptions& options, Monitor& monitor,
                       Plan& plan);

}  // namespace packing
