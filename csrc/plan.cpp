#include "plan.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <type_traits>

#include "random.hpp"
#include "strategies.hpp"

namespace packing {
namespace {

// The uses of a seed: a new use takes a new number, so that no other use changes.
enum Stream : std::uint64_t { kDocumentOrder, kPackOrder, kSegmentOrder };

std::int64_t as_int64(std::uint64_t value) {
  if (value > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
    throw std::overflow_error("length " + std::to_string(value) + " does not fit in 64 bits");
  }
  return static_cast<std::int64_t>(value);
}

// Lengths of documents, checked once and read as int64 from then on.
template <class Length>
class Lengths {
 public:
  Lengths(const Length* lengths, std::int64_t size) : lengths_(lengths), size_(size) {
    for (std::int64_t document = 0; document < size; ++document) {
      const std::int64_t length = (*this)[document];
      if (length < 1) {
        throw std::invalid_argument("document " + std::to_string(document) + " has length " +
                                    std::to_string(length) + "; every length must be at least 1");
      }
      if (__builtin_add_overflow(sum_, length, &sum_)) {
        throw std::overflow_error("the lengths of documents 0 to " + std::to_string(document) +
                                  " add up to more than 2^63 - 1");
      }
    }
  }

  std::int64_t operator[](std::int64_t document) const {
    if constexpr (std::is_same_v<Length, std::uint64_t>) {
      return as_int64(lengths_[document]);
    } else {
      return static_cast<std::int64_t>(lengths_[document]);
    }
  }
  std::int64_t size() const { return size_; }
  std::int64_t sum() const { return sum_; }

 private:
  const Length* lengths_;
  std::int64_t size_;
  std::int64_t sum_ = 0;
};

// What there is to pack. Item d < num_documents is document d, or what is left of it after its full
// rows; the items from num_documents on are the full rows of split documents, in document order.
template <class Length>
class Items {
 public:
  struct Segment {
    std::int64_t document, start, length;
  };

  Items(const Lengths<Length>& lengths, const PlanOptions& options)
      : lengths_(lengths), row_(options.sequence_length), overlong_(options.overlong) {
    first_full_row_.push_back(lengths.size());
    for (std::int64_t document = 0; document < lengths.size(); ++document) {
      const std::int64_t length = lengths[document];
      if (length <= row_) continue;
      if (overlong_ == Overlong::kError) {
        throw std::invalid_argument(
            "document " + std::to_string(document) + " has " + std::to_string(length) +
            " positions, more than the sequence length " + std::to_string(row_) +
            "; use a longer sequence length, or overlong = drop, truncate or split");
      }
      if (overlong_ == Overlong::kSplit) {
        split_.push_back(document);
        first_full_row_.push_back(first_full_row_.back() + length / row_);
      }
    }
  }

  std::int64_t size() const { return first_full_row_.back(); }

  // The packed length of an item; 0 where nothing of it is packed.
  std::int64_t length(std::int64_t item) const {
    if (item >= lengths_.size()) return row_;
    const std::int64_t length = lengths_[item];
    if (length <= row_) return length;
    if (overlong_ == Overlong::kDrop) return 0;
    return overlong_ == Overlong::kTruncate ? row_ : length % row_;
  }

  Segment segment(std::int64_t item) const {
    if (item < lengths_.size()) {
      const bool rest = overlong_ == Overlong::kSplit && lengths_[item] > row_;
      return {item, rest ? lengths_[item] / row_ * row_ : 0, length(item)};
    }
    const auto above = std::upper_bound(first_full_row_.begin(), first_full_row_.end(), item);
    const auto split = static_cast<std::size_t>(above - first_full_row_.begin() - 1);
    return {split_[split], (item - first_full_row_[split]) * row_, row_};
  }

 private:
  const Lengths<Length>& lengths_;
  std::int64_t row_;
  Overlong overlong_;
  std::vector<std::int64_t> split_;  // documents that were split
  std::vector<std::int64_t>
      first_full_row_;  // the item of their first full row; one more at the end
};

void add_empty_packs(Plan& plan, std::int64_t multiple) {
  auto num_packs = static_cast<std::int64_t>(plan.pack_offsets.size()) - 1;
  for (; num_packs % multiple != 0; ++num_packs) {
    plan.pack_offsets.push_back(plan.pack_offsets.back());
  }
}

// Documents one after another in a seeded order, cut every sequence_length positions (random
// packing of arXiv 2410.08081, section 2.2).
template <class Length>
Plan plan_random(const Lengths<Length>& lengths, const PlanOptions& options) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(lengths.size()));
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  Random random(options.seed, kDocumentOrder);
  shuffle(order, random);

  Plan plan;
  std::int64_t room = options.sequence_length;
  bool cut = false;
  for (const std::int64_t document : order) {
    for (std::int64_t start = 0; start < lengths[document];) {
      const std::int64_t length = std::min(room, lengths[document] - start);
      plan.document_ids.push_back(document);
      plan.segment_starts.push_back(start);
      plan.segment_lengths.push_back(length);
      cut = cut || length < lengths[document];
      start += length;
      room -= length;
      if (room == 0) {
        plan.pack_offsets.push_back(static_cast<std::int64_t>(plan.document_ids.size()));
        room = options.sequence_length;
      }
    }
  }
  if (room < options.sequence_length) {
    plan.pack_offsets.push_back(static_cast<std::int64_t>(plan.document_ids.size()));
  }
  if (!cut) {
    plan.segment_starts = {};
    plan.segment_lengths = {};
  }
  return plan;
}

// Deals the items to the places of a geometry.
template <class Length>
class Dealer {
 public:
  // Sorts the items by length (counting sort), in a seeded order within each length.
  Dealer(const Items<Length>& items, const LengthHistogram& histogram, std::uint64_t seed)
      : items_(items), next_(static_cast<std::size_t>(histogram.capacity()) + 2, 0) {
    for (std::int64_t length = 1; length <= histogram.capacity(); ++length) {
      next_[at(length + 1)] = next_[at(length)] + histogram.count(length);
    }
    dealt_.resize(at(histogram.size()));
    const std::vector<std::int64_t> first = next_;
    for (std::int64_t item = 0; item < items.size(); ++item) {
      const std::int64_t length = items.length(item);
      if (length > 0) dealt_[at(next_[at(length)]++)] = item;
    }
    next_ = first;
    Random random(seed, kDocumentOrder);
    for (std::size_t length = 1; length + 1 < first.size(); ++length) {
      shuffle(dealt_.data() + first[length], dealt_.data() + first[length + 1], random);
    }
  }

  std::int64_t deal(std::int64_t length) { return dealt_[at(next_[at(length)]++)]; }

 private:
  static std::size_t at(std::int64_t index) { return static_cast<std::size_t>(index); }

  const Items<Length>& items_;
  std::vector<std::int64_t> dealt_;
  std::vector<std::int64_t> next_;  // by length: where in dealt_ its next item stands
};

// The patterns of a geometry, each as often as it repeats, in a seeded order.
std::vector<std::int64_t> pack_order(const Geometry& geometry, std::int64_t multiple,
                                     std::uint64_t seed) {
  constexpr std::int64_t kEmptyPack = -1;
  std::vector<std::int64_t> order;
  for (std::size_t pattern = 0; pattern < geometry.repeats.size(); ++pattern) {
    order.insert(order.end(), static_cast<std::size_t>(geometry.repeats[pattern]),
                 static_cast<std::int64_t>(pattern));
  }
  while (static_cast<std::int64_t>(order.size()) % multiple != 0) order.push_back(kEmptyPack);
  Random random(seed, kPackOrder);
  shuffle(order, random);
  return order;
}

template <class Length>
Plan plan_by_length(const Lengths<Length>& lengths, const PlanOptions& options, Strategy strategy) {
  const Items<Length> items(lengths, options);
  LengthHistogram histogram(options.sequence_length);
  bool whole_documents = items.size() == lengths.size();
  for (std::int64_t item = 0; item < items.size(); ++item) {
    const std::int64_t length = items.length(item);
    if (length == 0) continue;
    histogram.add(length);
    whole_documents = whole_documents && length == lengths[item];
  }
  const Geometry geometry = strategy(histogram);
  Dealer<Length> dealer(items, histogram, options.seed);
  const auto order = pack_order(geometry, options.packs_multiple_of, options.seed);

  Plan plan;
  plan.pack_offsets.reserve(order.size() + 1);
  plan.document_ids.reserve(static_cast<std::size_t>(histogram.size()));
  Random random(options.seed, kSegmentOrder);
  std::vector<std::int64_t> pack;
  for (const std::int64_t pattern : order) {
    pack.clear();
    if (pattern >= 0) {
      const auto p = static_cast<std::size_t>(pattern);
      for (auto run = geometry.pattern_offsets[p]; run < geometry.pattern_offsets[p + 1]; ++run) {
        const Run& places = geometry.runs[static_cast<std::size_t>(run)];
        for (std::int64_t i = 0; i < places.count; ++i) pack.push_back(dealer.deal(places.length));
      }
    }
    shuffle(pack, random);
    for (const std::int64_t item : pack) {
      const auto segment = items.segment(item);
      plan.document_ids.push_back(segment.document);
      if (whole_documents) continue;
      plan.segment_starts.push_back(segment.start);
      plan.segment_lengths.push_back(segment.length);
    }
    plan.pack_offsets.push_back(static_cast<std::int64_t>(plan.document_ids.size()));
  }
  return plan;
}

}  // namespace

Overlong overlong_from_name(const std::string& name) {
  if (name == "error") return Overlong::kError;
  if (name == "drop") return Overlong::kDrop;
  if (name == "truncate") return Overlong::kTruncate;
  if (name == "split") return Overlong::kSplit;
  throw std::invalid_argument("overlong is '" + name + "'; use error, drop, truncate or split");
}

template <class Length>
Plan plan_packs(const Length* values, std::int64_t num_documents, const PlanOptions& options) {
  if (options.sequence_length < 1 || options.sequence_length > kMaxSequenceLength) {
    throw std::invalid_argument("sequence_length is " + std::to_string(options.sequence_length) +
                                "; it must be between 1 and " + std::to_string(kMaxSequenceLength));
  }
  if (options.packs_multiple_of < 1) {
    throw std::invalid_argument("packs_multiple_of is " +
                                std::to_string(options.packs_multiple_of) +
                                "; it must be at least 1");
  }
  const Lengths<Length> lengths(values, num_documents);
  if (options.strategy == "random") {
    if (options.overlong == Overlong::kDrop || options.overlong == Overlong::kTruncate) {
      throw std::invalid_argument(
          "strategy random cuts documents at the ends of rows; use overlong = split or error");
    }
    Plan plan = plan_random(lengths, options);
    add_empty_packs(plan, options.packs_multiple_of);
    return plan;
  }
  const Strategy strategy = find_strategy(options.strategy);
  if (strategy == nullptr) {
    throw std::invalid_argument("strategy is '" + options.strategy +
                                "'; use padding, random, greedy or first_fit_decreasing");
  }
  return plan_by_length(lengths, options, strategy);
}

#define PACKING_INSTANTIATE(Length) \
  template Plan plan_packs<Length>(const Length*, std::int64_t, const PlanOptions&);
PACKING_INSTANTIATE(std::int8_t)
PACKING_INSTANTIATE(std::uint8_t)
PACKING_INSTANTIATE(std::int16_t)
PACKING_INSTANTIATE(std::uint16_t)
PACKING_INSTANTIATE(std::int32_t)
PACKING_INSTANTIATE(std::uint32_t)
PACKING_INSTANTIATE(std::int64_t)
PACKING_INSTANTIATE(std::uint64_t)
#undef PACKING_INSTANTIATE

}  // namespace packing
