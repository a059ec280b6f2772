// SPDX-License-Identifier: Apache-2.0
// Asks the system for the size of its memory.
#include "base/memory.hpp"

#include <unistd.h>

#include "base/setting_error.hpp"

namespace packing {

void require_memory(std::int64_t count, std::int64_t bytes_each, const std::string& what,
                    const std::string& advice) {
  constexpr std::int64_t kGiB = std::int64_t{1} << 30;
  const std::int64_t here = sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGE_SIZE);
  if (here <= 0 || count <= here / bytes_each) return;
  throw SettingError("the plan has at least " + std::to_string(count) + " " + what +
                     ", more than the " + std::to_string(here / kGiB) +
                     " GiB of memory of this machine can hold; " + advice);
}

}  // namespace packing
