// SPDX-License-Identifier: Apache-2.0
// Documents one after another in a seeded order, cut wherever a row ends (random packing of arXiv
// 2410.08081, section 2.2). With an alignment each segment starts at a multiple of it.
#include <algorithm>
#include <limits>
#include <vector>

#include "base/buffer.hpp"
#include "strategies/shuffled_numbers.hpp"
#include "strategies/strategy.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // segments between two reports

template <class T>
Buffer<T> to_buffer(const std::vector<T>& values) {
  Buffer<T> buffer(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), buffer.data());
  return buffer;
}

template <class Id>
void cut_into_rows(const Items& items, const PlanSettings& settings, Monitor& monitor, Plan& plan,
                   Buffer<Id>& ids) {
  const Lengths& lengths = items.lengths();
  const std::int64_t row = settings.sequence_length;
  std::vector<Id> documents;
  std::vector<std::int64_t> starts;
  std::vector<std::int64_t> sizes;
  std::vector<std::int64_t> offsets{0};
  std::int64_t room = row;
  bool cut = false;
  auto close = [&] {
    offsets.push_back(static_cast<std::int64_t>(documents.size()));
    room = row;
  };
  std::int64_t planned = 0;
  std::int64_t report_at = 0;
  for (const Id document : shuffled_numbers<Id>(lengths.size(), settings.seed, monitor)) {
    const std::int64_t length = lengths[document];
    if (length > items.positions() - planned) refuse_changed_lengths();
    for (std::int64_t start = 0; start < length;) {
      if (static_cast<std::int64_t>(documents.size()) >= report_at) {
        monitor.report(static_cast<double>(planned) / static_cast<double>(items.positions()));
        report_at += kChunk;
      }
      const std::int64_t part = std::min(room, length - start);
      documents.push_back(document);
      starts.push_back(start);
      sizes.push_back(part);
      cut = cut || part < length;
      start += part;
      room -= items.units(part) * settings.alignment;
      const auto in_pack = static_cast<std::int64_t>(documents.size()) - offsets.back();
      if (room == 0 || in_pack == settings.max_documents_per_pack) close();
    }
    planned += length;
  }
  if (planned != items.positions()) refuse_changed_lengths();
  if (room < row) close();
  monitor.report(1);
  ids = to_buffer(documents);
  plan.pack_offsets = to_buffer(offsets);
  if (!cut) return;
  plan.segment_starts = to_buffer(starts);
  plan.segment_lengths = to_buffer(sizes);
}

}  // namespace

void random(const Items& items, const PlanSettings& settings, Monitor& monitor, Plan& plan) {
  const std::int64_t row = settings.sequence_length;
  const std::int64_t num_documents = items.lengths().size();
  // Cut documents fill every row.
  plan.lower_bound = std::max(items.positions() / row + (items.positions() % row > 0 ? 1 : 0),
                              (num_documents - 1) / settings.max_documents_per_pack + 1);
  if (num_documents <= std::numeric_limits<std::int32_t>::max()) {
    cut_into_rows(items, settings, monitor, plan, plan.narrow_ids);
  } else {
    cut_into_rows(items, settings, monitor, plan, plan.wide_ids);
  }
}

}  // namespace packing
