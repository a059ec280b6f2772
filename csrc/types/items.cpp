// SPDX-License-Identifier: Apache-2.0
// Applies `overlong` to documents that are longer than a row.
#include "types/items.hpp"

#include <stdexcept>
#include <string>

#include "base/memory.hpp"
#include "base/setting_error.hpp"

namespace packing {
namespace {

constexpr std::int64_t kFullRowsAnEntry = 8;

// Positions of what is packed.
std::int64_t packed_positions(const Survey& survey, std::int64_t row, Overlong overlong) {
  const auto num_overlong = static_cast<std::int64_t>(survey.overlong.size());
  if (overlong == Overlong::kDrop) return survey.positions - survey.overlong_positions;
  if (overlong != Overlong::kTruncate) return survey.positions;
  return survey.positions - survey.overlong_positions + num_overlong * row;
}

}  // namespace

void refuse_changed_lengths() {
  throw std::invalid_argument(
      "the lengths changed while they were planned; give an array that nothing writes to "
      "meanwhile");
}

Items::Items(const Lengths& lengths, const Survey& survey, std::int64_t row, std::int64_t alignment,
             Overlong overlong)
    : lengths_(lengths),
      row_(row),
      alignment_(alignment),
      overlong_(overlong),
      whole_documents_(survey.overlong.empty() || overlong == Overlong::kDrop),
      positions_(packed_positions(survey, row, overlong)) {
  first_full_row_.push_back(lengths.size());
  if (overlong == Overlong::kError && !survey.overlong.empty()) {
    const std::int64_t document = survey.overlong.front();
    throw SettingError("document " + std::to_string(document) + " has " +
                       std::to_string(lengths[document]) + " positions, but {sequence_length} is " +
                       std::to_string(row) +
                       "; use a longer one, or {overlong} drop, truncate or split");
  }
  if (overlong != Overlong::kSplit) return;
  split_ = survey.overlong;
  for (const std::int64_t document : split_) {
    first_full_row_.push_back(first_full_row_.back() + lengths[document] / row);
  }
  constexpr std::int64_t kBytesASegment = 24;
  require_memory(size(), kBytesASegment, "segments",
                 "use a longer {sequence_length}, or {overlong} truncate");
  std::size_t split = 0;
  for (std::int64_t item = lengths_.size(); item < size(); item += kFullRowsAnEntry) {
    while (first_full_row_[split + 1] <= item) ++split;
    split_of_full_row_.push_back(static_cast<std::int64_t>(split));
  }
}

Segment Items::segment(std::int64_t item) const {
  if (item < lengths_.size()) {
    const std::int64_t length = lengths_[item];
    const bool rest = overlong_ == Overlong::kSplit && length > row_;
    return {item, rest ? length / row_ * row_ : 0, packed_length(length)};
  }
  const std::int64_t entry = (item - lengths_.size()) / kFullRowsAnEntry;
  auto split = static_cast<std::size_t>(split_of_full_row_[static_cast<std::size_t>(entry)]);
  while (first_full_row_[split + 1] <= item) ++split;
  return {split_[split], (item - first_full_row_[split]) * row_, row_};
}

LengthHistogram Items::histogram(const Survey& survey, Monitor& monitor) const {
  LengthHistogram histogram(row_ / alignment_);
  monitor.report(0.1);
  for (std::int64_t length = 1; length <= row_; ++length) {
    histogram.add(units(length), survey.counts[static_cast<std::size_t>(length)]);
  }
  for (const std::int64_t document : survey.overlong) {
    const std::int64_t length = packed_length(lengths_[document]);
    if (length > 0) histogram.add(units(length));
  }
  histogram.add(histogram.capacity(), size() - lengths_.size());
  return histogram;
}

}  // namespace packing
