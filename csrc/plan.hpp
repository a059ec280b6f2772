// SPDX-License-Identifier: Apache-2.0
// From the lengths of documents to packs.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

#include "buffer.hpp"
#include "items.hpp"
#include "lengths.hpp"
#include "monitor.hpp"
#include "optimal.hpp"

namespace packing {

// A plan keeps a few tables with an entry for each possible length: 2 GiB at this limit.
constexpr std::int64_t kMaxSequenceLength = std::int64_t{1} << 26;

struct PlanOptions {
  std::string strategy;
  Effort effort = Effort::kDefault;
  std::int64_t sequence_length = 0;
  std::int64_t alignment = 1;  // each segment takes a multiple of this in its row
  std::int64_t max_documents_per_pack = std::numeric_limits<std::int64_t>::max();
  Overlong overlong = Overlong::kError;
  std::int64_t min_packs = 0;
  std::int64_t packs_multiple_of = 1;
  std::uint64_t seed = 0;
};

// Packs in compressed-row form: pack p holds the entries pack_offsets[p] .. pack_offsets[p + 1] of
// the other arrays. Document ids stand in one of two arrays: the narrow one unless there are more
// than 2^31 - 1 items. The segment arrays are empty unless a segment is not a whole document.
struct Plan {
  Buffer<std::int64_t> pack_offsets;
  Buffer<std::int32_t> narrow_ids;
  Buffer<std::int64_t> wide_ids;
  Buffer<std::int64_t> segment_starts;
  Buffer<std::int64_t> segment_lengths;
  std::int64_t lower_bound = 0;  // on the number of packs of any plan under the same options
  std::int64_t num_positions = 0;
  std::int64_t num_positions_lost = 0;
  std::int64_t num_documents_overlong = 0;
  std::int64_t num_documents_split = 0;
};

// Plans packs for documents of the given lengths, in positions.
//
// Membership is random: documents of one length are dealt to the places of that length in a seeded
// order, the segments of a pack and the packs themselves stand in a seeded order. The same input
// gives the same plan on every machine, whatever its cores.
// Throws std::invalid_argument for a length below 1, an option outside its range, an unknown
// strategy, or an over-long document under Overlong::kError; std::overflow_error where the lengths
// add up to more than 2^63 - 1.
Plan plan_packs(const Lengths& lengths, const PlanOptions& options, Monitor& monitor);

}  // namespace packing
