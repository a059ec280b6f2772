// SPDX-License-Identifier: Apache-2.0
// The table of strategies. setup.py reads the names of its rows for type checkers.
#include "base/setting_error.hpp"
#include "strategies/strategy.hpp"

namespace packing {

// Each stands in the file of its name.
LengthStrategy padding, greedy, first_fit_decreasing, best_fit_decreasing, optimal;
DocumentStrategy random, first_fit_shuffle;

const std::vector<Strategy>& strategies() {
  constexpr bool kCuts = true;
  constexpr bool kKeepsWhole = false;
  static const std::vector<Strategy> table{
      {"padding", kKeepsWhole, padding, "one document a row"},
      {"random", kCuts, random,
       "documents one after another in a random order, cut wherever a row ends"},
      {"greedy", kKeepsWhole, greedy,
       "longest first; a row is closed at the first document that does not fit"},
      {"first_fit_shuffle", kKeepsWhole, first_fit_shuffle,
       "in a random order, each into the first row with room"},
      {"first_fit_decreasing", kKeepsWhole, first_fit_decreasing,
       "longest first, each into the first row with room"},
      {"best_fit_decreasing", kKeepsWhole, best_fit_decreasing,
       "longest first, each into the row that it leaves the least room in"},
      {"optimal", kKeepsWhole, optimal,
       "never more rows than first_fit_decreasing, and as few as there can be wherever the lower "
       "bound is met"},
  };
  return table;
}

const Strategy& find_strategy(const PlanSettings& settings) {
  std::string names;
  for (const Strategy& strategy : strategies()) {
    if (settings.strategy != strategy.name) {
      if (!names.empty()) names += &strategy == &strategies().back() ? " or " : ", ";
      names += strategy.name;
      continue;
    }
    const bool leaves_out =
        settings.overlong == Overlong::kDrop || settings.overlong == Overlong::kTruncate;
    if (strategy.cuts_documents && leaves_out) {
      throw SettingError("{strategy} " + settings.strategy +
                         " cuts documents at the ends of rows; use {overlong} split or error");
    }
    return strategy;
  }
  throw SettingError("{strategy} is " + quoted(settings.strategy) + "; use " + names);
}

}  // namespace packing
