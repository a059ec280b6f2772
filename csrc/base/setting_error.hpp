// SPDX-License-Identifier: Apache-2.0
// The error for a setting that a user must change.
#pragma once

#include <stdexcept>

namespace packing {

// The message names settings in braces, "{alignment} is 5; it must be ...", so that whoever shows
// it can replace each name by what the user typed, such as a flag.
class SettingError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

}  // namespace packing
