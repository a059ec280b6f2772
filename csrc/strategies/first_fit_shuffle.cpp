// SPDX-License-Identifier: Apache-2.0
// Documents in a seeded order, each into the first row that it fits: the default of several
// frameworks. A tree of the room left in each row finds it in log(rows) steps.
#include <algorithm>
#include <limits>
#include <vector>

#include "base/buffer.hpp"
#include "strategies/shuffled_numbers.hpp"
#include "strategies/strategy.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // items between two reports

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

// The room left in each of a number of rows.
class Rooms {
 public:
  Rooms(std::int64_t rows, std::int64_t capacity) {
    while (leaves_ < index(rows)) leaves_ *= 2;
    most_.assign(2 * leaves_, static_cast<std::uint32_t>(capacity));
  }

  // The first row with room for `units`.
  std::int64_t first(std::int64_t units) const {
    std::size_t node = 1;
    while (node < leaves_) node = 2 * node + (most_[2 * node] >= units ? 0 : 1);
    return static_cast<std::int64_t>(node - leaves_);
  }

  std::int64_t room(std::int64_t row) const { return most_[leaves_ + index(row)]; }

  void set(std::int64_t row, std::int64_t room) {
    std::size_t node = leaves_ + index(row);
    most_[node] = static_cast<std::uint32_t>(room);
    while ((node /= 2) > 0) {
      const std::uint32_t most = std::max(most_[2 * node], most_[2 * node + 1]);
      if (most_[node] == most) return;
      most_[node] = most;
    }
  }

 private:
  std::size_t leaves_ = 1;
  std::vector<std::uint32_t> most_;  // of the two nodes below; the leaves are the rows
};

template <class Id>
void place_in_first_row(const Items& items, const PlanSettings& settings, Monitor& monitor,
                        Plan& plan, Buffer<Id>& ids) {
  const std::int64_t capacity = settings.sequence_length / settings.alignment;
  std::vector<Id> order = shuffled_numbers<Id>(items.size(), settings.seed, monitor);
  // Lengths are read once, as they may change meanwhile.
  std::vector<std::uint32_t> needed;  // units of each item in the order
  needed.reserve(order.size());
  std::int64_t units = 0;
  std::int64_t positions = 0;
  for (std::size_t place = 0; place < order.size(); ++place) {
    if (static_cast<std::int64_t>(place) % kChunk == 0) monitor.report(0);
    const std::int64_t length = items.length(order[place]);
    if (length <= 0) continue;
    order[needed.size()] = order[place];
    needed.push_back(static_cast<std::uint32_t>(items.units(length)));
    units += needed.back();
    positions += length;
  }
  if (positions != items.positions()) refuse_changed_lengths();
  order.resize(needed.size());
  const auto num_items = static_cast<std::int64_t>(order.size());
  // Rows that are at most half full, and not full of documents, are never two.
  const std::int64_t most_rows = std::min(
      num_items, 2 * (units / capacity + 1) + num_items / settings.max_documents_per_pack + 1);
  Rooms rooms(most_rows, capacity);
  std::vector<std::int64_t> sizes;  // of each row, in documents
  std::vector<std::uint32_t> row_of(order.size());
  for (std::size_t place = 0; place < order.size(); ++place) {
    if (static_cast<std::int64_t>(place) % kChunk == 0) {
      monitor.report(static_cast<double>(place) / static_cast<double>(order.size()));
    }
    const std::int64_t row = rooms.first(needed[place]);
    if (row == static_cast<std::int64_t>(sizes.size())) sizes.push_back(0);
    const bool full = ++sizes[index(row)] == settings.max_documents_per_pack;
    rooms.set(row, full ? 0 : rooms.room(row) - needed[place]);
    row_of[place] = static_cast<std::uint32_t>(row);
  }

  std::vector<std::uint32_t> packs = shuffled_numbers<std::uint32_t>(
      static_cast<std::int64_t>(sizes.size()), ~settings.seed, monitor);
  plan.pack_offsets = Buffer<std::int64_t>(static_cast<std::int64_t>(packs.size()) + 1);
  std::vector<std::int64_t> next(sizes.size());
  std::int64_t at = 0;
  for (std::size_t pack = 0; pack < packs.size(); ++pack) {
    plan.pack_offsets[static_cast<std::int64_t>(pack)] = at;
    next[packs[pack]] = at;
    at += sizes[packs[pack]];
  }
  plan.pack_offsets[static_cast<std::int64_t>(packs.size())] = at;
  ids = Buffer<Id>(num_items);
  for (std::size_t place = 0; place < order.size(); ++place) {
    if (static_cast<std::int64_t>(place) % kChunk == 0) monitor.report(1);
    ids[next[row_of[place]]++] = order[place];
  }
  if (!items.whole_documents()) write_segments(items, ids, monitor, plan);
}

}  // namespace

void first_fit_shuffle(const Items& items, const PlanSettings& settings, Monitor& monitor,
                       Plan& plan) {
  if (items.size() <= std::numeric_limits<std::int32_t>::max()) {
    place_in_first_row(items, settings, monitor, plan, plan.narrow_ids);
  } else {
    place_in_first_row(items, settings, monitor, plan, plan.wide_ids);
  }
}

}  // namespace packing
