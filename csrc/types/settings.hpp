// SPDX-License-Identifier: Apache-2.0
// The settings of a plan: what decides it, beside the lengths.
#pragma once

#include <cstdint>
#include <limits>
#include <string>

namespace packing {

// How long the strategy `optimal` looks for better packs.
enum class Effort { kDefault, kHigh };

// What happens to a document that is longer than a row.
enum class Overlong {
  kError,     // SettingError names the document
  kDrop,      // left out and counted
  kTruncate,  // its first sequence_length positions are kept
  kSplit,     // full rows first, the rest is packed (Ding et al., arXiv 2404.10830)
};

// The uses of a plan's seed: a new use takes a new number, so that no other use changes.
enum SeedStream : std::uint64_t { kDocumentOrder, kPackOrder, kFrontPacks, kBackPacks };

// A plan keeps a few tables with an entry for each possible length: 2 GiB at this limit.
constexpr std::int64_t kMaxSequenceLength = std::int64_t{1} << 26;

struct PlanSettings {
  std::string strategy;
  std::int64_t sequence_length = 0;
  Effort effort = Effort::kDefault;
  std::int64_t alignment = 1;  // each segment takes a multiple of this in its row
  std::int64_t max_documents_per_pack = std::numeric_limits<std::int64_t>::max();
  Overlong overlong = Overlong::kError;
  std::int64_t min_packs = 0;
  std::int64_t packs_multiple_of = 1;
  std::uint64_t seed = 0;

  // Calls visitor(name, field) for each field, by its name in Python and in messages.
  template <class Visitor>
  void visit(Visitor&& visitor) {
    visitor("strategy", strategy);
    visitor("sequence_length", sequence_length);
    visitor("effort", effort);
    visitor("alignment", alignment);
    visitor("max_documents_per_pack", max_documents_per_pack);
    visitor("overlong", overlong);
    visitor("min_packs", min_packs);
    visitor("packs_multiple_of", packs_multiple_of);
    visitor("seed", seed);
  }
};

// Set a field from its name in Python. Throw SettingError for any other name.
void parse(const std::string& name, Effort& effort);
void parse(const std::string& name, Overlong& overlong);

// Throws SettingError where a number is outside its range. Strategies are checked where they are
// looked up (strategies/strategy.hpp).
void check_ranges(const PlanSettings& settings);

}  // namespace packing
