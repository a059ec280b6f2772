// SPDX-License-Identifier: Apache-2.0
// What is packed: documents, or what `overlong` leaves of those longer than a row.
#pragma once

#include <cstdint>
#include <vector>

#include "types/histogram.hpp"
#include "types/lengths.hpp"
#include "types/settings.hpp"

namespace packing {

// Says that another thread or process wrote to the lengths while they were read.
[[noreturn]] void refuse_changed_lengths();

// Positions start .. start + length - 1 of a document.
struct Segment {
  std::int64_t document, start, length;
};

// Item d < lengths.size() is document d, or what is left of it after its full rows; the items from
// lengths.size() on are the full rows of split documents, in document order.
class Items {
 public:
  // Throws SettingError for an overlong document under Overlong::kError, and where memory does not
  // hold so many items.
  // row: positions in a row, a multiple of alignment.
  Items(const Lengths& lengths, const Survey& survey, std::int64_t row, std::int64_t alignment,
        Overlong overlong);

  std::int64_t size() const { return first_full_row_.back(); }
  // Of all items together.
  std::int64_t positions() const { return positions_; }
  // Whether every item is a whole document.
  bool whole_documents() const { return whole_documents_; }
  const Lengths& lengths() const { return lengths_; }
  std::int64_t row() const { return row_; }

  // Positions of an item; 0 where nothing of it is packed.
  std::int64_t length(std::int64_t item) const {
    return item < lengths_.size() ? packed_length(lengths_[item]) : row_;
  }
  // The same from the length of a document.
  std::int64_t packed_length(std::int64_t length) const {
    if (length <= row_) return length;
    if (overlong_ == Overlong::kDrop) return 0;
    return overlong_ == Overlong::kTruncate ? row_ : length % row_;
  }
  // Positions in units of the alignment, rounded up.
  std::int64_t units(std::int64_t length) const {
    return alignment_ == 1 ? length : (length + alignment_ - 1) / alignment_;
  }

  Segment segment(std::int64_t item) const;

  // How many items there are of each number of units.
  LengthHistogram histogram(const Survey& survey, Monitor& monitor) const;

 private:
  Lengths lengths_;
  std::int64_t row_;
  std::int64_t alignment_;
  Overlong overlong_;
  bool whole_documents_;
  std::int64_t positions_;
  std::vector<std::int64_t> split_;  // documents that were split
  // The item of their first full row, and one more at the end.
  std::vector<std::int64_t> first_full_row_;
  // Entry i: the split document of full row i * kFullRowsAnEntry, as a place in split_.
  std::vector<std::int64_t> split_of_full_row_;
};

}  // namespace packing
