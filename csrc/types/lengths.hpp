// SPDX-License-Identifier: Apache-2.0
// The lengths of documents, read in place, and what one pass over them finds.
#pragma once

#include <cstdint>
#include <vector>

#include "base/monitor.hpp"

namespace packing {

// Lengths in an array of one of three widths, which is read in place.
class Lengths {
 public:
  Lengths(const std::uint16_t* data, std::int64_t size) : narrow_(data), size_(size) {}
  Lengths(const std::int32_t* data, std::int64_t size) : middle_(data), size_(size) {}
  Lengths(const std::int64_t* data, std::int64_t size) : wide_(data), size_(size) {}

  std::int64_t size() const { return size_; }
  std::int64_t operator[](std::int64_t document) const {
    if (narrow_ != nullptr) return narrow_[document];
    return middle_ != nullptr ? middle_[document] : wide_[document];
  }

  // Calls a function with the pointer to the array as it is.
  template <class Function>
  auto visit(const Function& function) const {
    if (narrow_ != nullptr) return function(narrow_);
    return middle_ != nullptr ? function(middle_) : function(wide_);
  }

 private:
  const std::uint16_t* narrow_ = nullptr;
  const std::int32_t* middle_ = nullptr;
  const std::int64_t* wide_ = nullptr;
  std::int64_t size_;
};

// What one pass over the lengths finds.
struct Survey {
  std::vector<std::int64_t> counts;    // documents of each length 0..row
  std::vector<std::int64_t> overlong;  // documents longer than a row, in order
  std::int64_t positions = 0;          // of all documents
  std::int64_t overlong_positions = 0;
  // Of documents in equal parts: how many there are of each length 0..row, and how many of all
  // parts up to this one are in `overlong`. Empty where one part has all.
  struct Part {
    std::vector<std::int64_t> counts;
    std::size_t overlong_end;
  };
  std::vector<Part> parts;
};

// Throws std::invalid_argument for a length below 1, naming the first document that has one, and
// std::overflow_error where the lengths add up to more than 2^63 - 1.
Survey survey(const Lengths& lengths, std::int64_t row, Monitor& monitor);

}  // namespace packing
