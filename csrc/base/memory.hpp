// SPDX-License-Identifier: Apache-2.0
// Refuses plans that do not fit into memory.
#pragma once

#include <cstdint>
#include <string>

namespace packing {

// Throws SettingError where `count` things of `bytes_each` do not fit into the memory of this
// machine. Linux grants more memory than there is and ends the process later, without a word.
// what: names the things; advice: says how to ask for less.
void require_memory(std::int64_t count, std::int64_t bytes_each, const std::string& what,
                    const std::string& advice);

}  // namespace packing
