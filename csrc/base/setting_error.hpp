// SPDX-License-Identifier: Apache-2.0
// The error for a setting that a user must change.
#pragma once

#include <stdexcept>
#include <string>

namespace packing {

// The message names settings in braces, "{alignment} is 5; it must be ...", so that whoever shows
// it can replace each name by what the user typed, such as a flag. Braces that are meant as such
// are doubled.
class SettingError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// What a user gave, in quotation marks and with its braces doubled.
inline std::string quoted(const std::string& given) {
  std::string text = "'";
  for (const char character : given) {
    text += character;
    if (character == '{' || character == '}') text += character;
  }
  return text + "'";
}

}  // namespace packing
