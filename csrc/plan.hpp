// From the lengths of documents to packs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace packing {

// A plan keeps one counter for each possible length: 512 MiB at this limit.
constexpr std::int64_t kMaxSequenceLength = std::int64_t{1} << 26;

// What happens to a document that is longer than a row.
enum class Overlong {
  kError,     // std::invalid_argument names the document
  kDrop,      // left out and counted
  kTruncate,  // its first sequence_length positions are kept
  kSplit,     // full rows first, the rest is packed (Ding et al., arXiv 2404.10830)
};

// Throws std::invalid_argument where the name is not error, drop, truncate or split.
Overlong overlong_from_name(const std::string& name);

struct PlanOptions {
  std::string strategy;
  std::int64_t sequence_length = 0;
  Overlong overlong = Overlong::kError;
  std::int64_t packs_multiple_of = 1;  // empty packs are added up to a multiple
  std::uint64_t seed = 0;
};

// Packs in compressed-row form: pack p holds the entries pack_offsets[p] .. pack_offsets[p + 1] of
// the other arrays. The segment arrays are empty unless some segment is not a whole document.
struct Plan {
  std::vector<std::int64_t> pack_offsets{0};
  std::vector<std::int64_t> document_ids;
  std::vector<std::int64_t> segment_starts;
  std::vector<std::int64_t> segment_lengths;
};

// Plans packs for documents of the given lengths, in positions.
//
// Membership is random: documents of one length are dealt to the places of that length in a seeded
// order, the segments of a pack and the packs themselves stand in a seeded order. The same input
// gives the same plan on every machine.
// Throws std::invalid_argument for a length below 1, a sequence length
// outside 1..kMaxSequenceLength, a multiple below 1, an unknown strategy, or an over-long document
// under Overlong::kError; std::overflow_error where the lengths add up to more than 2^63 - 1.
template <class Length>
Plan plan_packs(const Length* lengths, std::int64_t num_documents, const PlanOptions& options);

}  // namespace packing
