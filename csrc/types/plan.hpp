// SPDX-License-Identifier: Apache-2.0
// A finished plan: which segments share which pack.
#pragma once

#include <cstdint>

#include "base/buffer.hpp"
#include "base/monitor.hpp"
#include "types/items.hpp"

namespace packing {

// Packs in compressed-row form: pack p holds the entries pack_offsets[p] .. pack_offsets[p + 1] of
// the other arrays. Document ids stand in one of two arrays: the narrow one unless there are more
// than 2^31 - 1 items. The segment arrays are empty unless a segment is not a whole document.
struct Plan {
  Buffer<std::int64_t> pack_offsets;
  Buffer<std::int32_t> narrow_ids;
  Buffer<std::int64_t> wide_ids;
  Buffer<std::int64_t> segment_starts;
  Buffer<std::int64_t> segment_lengths;
  // No plan under the same settings has fewer packs; 0 where no bound is known yet.
  std::int64_t lower_bound = 0;
  std::int64_t num_positions = 0;
  std::int64_t num_positions_lost = 0;
  std::int64_t num_documents_overlong = 0;
  std::int64_t num_documents_split = 0;
};

// Replaces the items in `ids`, one of the two arrays of `plan`, by their documents, and fills the
// segment arrays.
template <class Id>
void write_segments(const Items& items, Buffer<Id>& ids, Monitor& monitor, Plan& plan);

}  // namespace packing
