// SPDX-License-Identifier: Apache-2.0
// From the lengths of documents to a plan.
#pragma once

#include "base/monitor.hpp"
#include "types/lengths.hpp"
#include "types/plan.hpp"
#include "types/settings.hpp"

namespace packing {

// Plans packs for documents of the given lengths, in positions.
//
// Membership is random: documents of one length are dealt to the places of that length in a seeded
// order, the segments of a pack and the packs themselves stand in a seeded order. The same input
// gives the same plan on every machine, whatever its cores.
// Throws std::invalid_argument for a length below 1; SettingError, which is one, for a setting that
// is wrong or that these lengths do not go with; std::overflow_error where the lengths add up to
// more than 2^63 - 1.
Plan plan_packs(const Lengths& lengths, const PlanSettings& settings, Monitor& monitor);

}  // namespace packing
