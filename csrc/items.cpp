#include "items.hpp"

#include <algorithm>
#include <stdexcept>

namespace packing {

Overlong overlong_from_name(const std::string& name) {
  if (name == "error") return Overlong::kError;
  if (name == "drop") return Overlong::kDrop;
  if (name == "truncate") return Overlong::kTruncate;
  if (name == "split") return Overlong::kSplit;
  throw std::invalid_argument("overlong is '" + name + "'; use error, drop, truncate or split");
}

Items::Items(const Lengths& lengths, const Survey& survey, std::int64_t row, std::int64_t alignment,
             Overlong overlong)
    : lengths_(lengths),
      row_(row),
      alignment_(alignment),
      overlong_(overlong),
      whole_documents_(survey.overlong.empty() || overlong == Overlong::kDrop) {
  first_full_row_.push_back(lengths.size());
  if (overlong == Overlong::kError && !survey.overlong.empty()) {
    const std::int64_t document = survey.overlong.front();
    throw std::invalid_argument(
        "document " + std::to_string(document) + " has " + std::to_string(lengths[document]) +
        " positions, more than the sequence length " + std::to_string(row) +
        "; use a longer sequence length, or overlong = drop, truncate or split");
  }
  if (overlong != Overlong::kSplit) return;
  split_ = survey.overlong;
  for (const std::int64_t document : split_) {
    first_full_row_.push_back(first_full_row_.back() + lengths[document] / row);
  }
}

Segment Items::segment(std::int64_t item) const {
  if (item < lengths_.size()) {
    const std::int64_t length = lengths_[item];
    const bool rest = overlong_ == Overlong::kSplit && length > row_;
    return {item, rest ? length / row_ * row_ : 0, packed_length(length)};
  }
  const auto above = std::upper_bound(first_full_row_.begin(), first_full_row_.end(), item);
  const auto split = static_cast<std::size_t>(above - first_full_row_.begin() - 1);
  return {split_[split], (item - first_full_row_[split]) * row_, row_};
}

LengthHistogram Items::histogram(const Survey& survey) const {
  LengthHistogram histogram(row_ / alignment_);
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
