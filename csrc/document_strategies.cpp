// SPDX-License-Identifier: Apache-2.0
#include "document_strategies.hpp"

#include <algorithm>
#include <limits>
#include <vector>

#include "deal.hpp"
#include "random.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 18;  // items between two reports

std::size_t index(std::int64_t value) { return static_cast<std::size_t>(value); }

template <class T>
Buffer<T> to_buffer(const std::vector<T>& values) {
  Buffer<T> buffer(static_cast<std::int64_t>(values.size()));
  std::copy(values.begin(), values.end(), buffer.data());
  return buffer;
}

template <class Id>
std::vector<Id> shuffled(std::int64_t size, std::uint64_t seed, Monitor& monitor) {
  std::vector<Id> order(index(size));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<Id>(i);
  Random random(seed, kDocumentOrder);
  shuffle(order, random, monitor, 0);
  return order;
}

template <class Id>
void random_packs(const Items& items, const PlanOptions& options, Monitor& monitor, Plan& plan,
                  Buffer<Id>& ids) {
  const Lengths& lengths = items.lengths();
  const std::int64_t row = options.sequence_length;
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
  for (const Id document : shuffled<Id>(lengths.size(), options.seed, monitor)) {
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
      room -= items.units(part) * options.alignment;
      const auto in_pack = static_cast<std::int64_t>(documents.size()) - offsets.back();
      if (room == 0 || in_pack == options.max_documents_per_pack) close();
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
void first_fit_shuffle(const Items& items, const PlanOptions& options, Monitor& monitor, Plan& plan,
                       Buffer<Id>& ids) {
  const std::int64_t capacity = options.sequence_length / options.alignment;
  std::vector<Id> order = shuffled<Id>(items.size(), options.seed, monitor);
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
      num_items, 2 * (units / capacity + 1) + num_items / options.max_documents_per_pack + 1);
  Rooms rooms(most_rows, capacity);
  std::vector<std::int64_t> sizes;  // of each row, in documents
  std::vector<std::uint32_t> row_of(order.size());
  for (std::size_t place = 0; place < order.size(); ++place) {
    if (static_cast<std::int64_t>(place) % kChunk == 0) {
      monitor.report(static_cast<double>(place) / static_cast<double>(order.size()));
    }
    const std::int64_t row = rooms.first(needed[place]);
    if (row == static_cast<std::int64_t>(sizes.size())) sizes.push_back(0);
    const bool full = ++sizes[index(row)] == options.max_documents_per_pack;
    rooms.set(row, full ? 0 : rooms.room(row) - needed[place]);
    row_of[place] = static_cast<std::uint32_t>(row);
  }

  std::vector<std::uint32_t> packs =
      shuffled<std::uint32_t>(static_cast<std::int64_t>(sizes.size()), ~options.seed, monitor);
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

void random_packs(const Items& items, const PlanOptions& options, Monitor& monitor, Plan& plan) {
  if (items.lengths().size() <= std::numeric_limits<std::int32_t>::max()) {
    random_packs(items, options, monitor, plan, plan.narrow_ids);
  } else {
    random_packs(items, options, monitor, plan, plan.wide_ids);
  }
}

void first_fit_shuffle(const Items& items, const PlanOptions& options, Monitor& monitor,
                       Plan& plan) {
  if (items.size() <= std::numeric_limits<std::int32_t>::max()) {
    first_fit_shuffle(items, options, monitor, plan, plan.narrow_ids);
  } else {
    first_fit_shuffle(items, options, monitor, plan, plan.wide_ids);
  }
}

}  // namespace packing
