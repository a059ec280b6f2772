// SPDX-License-Identifier: Apache-2.0
// One pass over the lengths, on several threads where there are many.
#include "types/lengths.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "base/crew.hpp"

namespace packing {
namespace {

constexpr std::int64_t kChunk = std::int64_t{1} << 20;  // documents between two reports
constexpr std::int64_t kFewDocuments = std::int64_t{1} << 16;
constexpr std::int64_t kLongRow = std::int64_t{1} << 18;  // parts would keep large tables

void add(std::int64_t& sum, std::int64_t count, std::int64_t length) {
  std::int64_t product = 0;
  if (__builtin_mul_overflow(count, length, &product) ||
      __builtin_add_overflow(sum, product, &sum)) {
    throw std::overflow_error("the lengths add up to more than 2^63 - 1");
  }
}

}  // namespace

Survey survey(const Lengths& lengths, std::int64_t row, Monitor& monitor) {
  Crew crew(lengths.size() < kFewDocuments || row > kChunk ? 1 : 8);
  struct Part {
    std::vector<std::int64_t> counts, overlong;
    std::int64_t bad = -1;  // the first document of a length below 1
  };
  std::vector<Part> parts(static_cast<std::size_t>(crew.size()));
  crew.run(monitor, 0, [&](std::int64_t worker) {
    Part part;
    part.counts.assign(static_cast<std::size_t>(row) + 1, 0);
    const std::int64_t stop = crew.begin_of(worker + 1, lengths.size());
    for (std::int64_t begin = crew.begin_of(worker, lengths.size()); begin < stop;) {
      const std::int64_t end = std::min(stop, begin + kChunk);
      lengths.visit([&](const auto* data) {
        for (std::int64_t document = begin; document < end; ++document) {
          const auto length = static_cast<std::int64_t>(data[document]);
          if (length < 1) {
            if (part.bad < 0) part.bad = document;
          } else if (length > row) {
            part.overlong.push_back(document);
          } else {
            ++part.counts[static_cast<std::size_t>(length)];
          }
        }
      });
      begin = end;
      if (worker == 0) monitor.report(0);
      if (crew.stopped() || part.bad >= 0) break;
    }
    parts[static_cast<std::size_t>(worker)] = std::move(part);
  });

  Survey found;
  monitor.report(0);
  for (Part& part : parts) {
    if (part.bad >= 0) {
      throw std::invalid_argument("document " + std::to_string(part.bad) + " has length " +
                                  std::to_string(lengths[part.bad]) +
                                  "; every length must be at least 1");
    }
    found.overlong.insert(found.overlong.end(), part.overlong.begin(), part.overlong.end());
    if (parts.size() > 1 && row <= kLongRow) {
      found.parts.push_back({part.counts, found.overlong.size()});
    }
    if (found.counts.empty()) {
      found.counts = std::move(part.counts);
      continue;
    }
    for (std::size_t length = 0; length < found.counts.size(); ++length) {
      found.counts[length] += part.counts[length];
    }
  }
  for (std::int64_t length = 1; length <= row; ++length) {
    add(found.positions, found.counts[static_cast<std::size_t>(length)], length);
  }
  for (const std::int64_t document : found.overlong) {
    add(found.overlong_positions, 1, lengths[document]);
  }
  add(found.positions, 1, found.overlong_positions);
  return found;
}

}  // namespace packing
