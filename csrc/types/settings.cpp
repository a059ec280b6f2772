// SPDX-License-Identifier: Apache-2.0
// The names and the ranges of settings.
#include "types/settings.hpp"

#include "base/setting_error.hpp"

namespace packing {
namespace {

void require(bool holds, const std::string& name, std::int64_t value, const std::string& expected) {
  if (holds) return;
  throw SettingError("{" + name + "} is " + std::to_string(value) + "; it must be " + expected);
}

}  // namespace

void parse(const std::string& name, Effort& effort) {
  if (name == "default") {
    effort = Effort::kDefault;
  } else if (name == "high") {
    effort = Effort::kHigh;
  } else {
    throw SettingError("{effort} is " + quoted(name) + "; use default or high");
  }
}

void parse(const std::string& name, Overlong& overlong) {
  if (name == "error") {
    overlong = Overlong::kError;
  } else if (name == "drop") {
    overlong = Overlong::kDrop;
  } else if (name == "truncate") {
    overlong = Overlong::kTruncate;
  } else if (name == "split") {
    overlong = Overlong::kSplit;
  } else {
    throw SettingError("{overlong} is " + quoted(name) + "; use error, drop, truncate or split");
  }
}

void check_ranges(const PlanSettings& settings) {
  constexpr std::int64_t kMostPacks = std::int64_t{1} << 36;  // what can be asked for
  const std::int64_t row = settings.sequence_length;
  require(row >= 1 && row <= kMaxSequenceLength, "sequence_length", row,
          "between 1 and " + std::to_string(kMaxSequenceLength));
  require(settings.alignment >= 1 && settings.alignment <= row && row % settings.alignment == 0,
          "alignment", settings.alignment,
          "a divisor of {sequence_length}, which is " + std::to_string(row));
  require(settings.max_documents_per_pack >= 1, "max_documents_per_pack",
          settings.max_documents_per_pack, "at least 1");
  require(settings.min_packs >= 0 && settings.min_packs <= kMostPacks, "min_packs",
          settings.min_packs, "between 0 and 2^36");
  require(settings.packs_multiple_of >= 1 && settings.packs_multiple_of <= kMostPacks,
          "packs_multiple_of", settings.packs_multiple_of, "between 1 and 2^36");
}

}  // namespace packing
