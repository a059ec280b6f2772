// SPDX-License-Identifier: Apache-2.0
// Fills the segment arrays of a plan.
#include "types/plan.hpp"

namespace packing {

template <class Id>
void write_segments(const Items& items, Buffer<Id>& ids, Monitor& monitor, Plan& plan) {
  constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // segments between two reports
  plan.segment_starts = Buffer<std::int64_t>(ids.size());
  plan.segment_lengths = Buffer<std::int64_t>(ids.size());
  for (std::int64_t place = 0; place < ids.size(); ++place) {
    if (place % kChunk == 0) monitor.report(1);
    const Segment segment = items.segment(ids[place]);
    ids[place] = static_cast<Id>(segment.document);
    plan.segment_starts[place] = segment.start;
    plan.segment_lengths[place] = segment.length;
  }
}

template void write_segments<std::int32_t>(const Items&, Buffer<std::int32_t>&, Monitor&, Plan&);
template void write_segments<std::int64_t>(const Items&, Buffer<std::int64_t>&, Monitor&, Plan&);

}  // namespace packing
