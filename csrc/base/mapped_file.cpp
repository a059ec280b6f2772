// SPDX-License-Identifier: Apache-2.0
// Maps by mmap, which takes whole pages.
#include "base/mapped_file.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

namespace packing {

MappedFile::MappedFile(int descriptor, std::int64_t start, std::int64_t size)
    : lead_(static_cast<std::size_t>(start % sysconf(_SC_PAGE_SIZE))),
      size_(static_cast<std::size_t>(size) + lead_),
      pages_(mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor,
                  static_cast<off_t>(start) - static_cast<off_t>(lead_))) {
  if (pages_ == MAP_FAILED) throw std::system_error(errno, std::generic_category());
}

MappedFile::~MappedFile() { munmap(pages_, size_); }

}  // namespace packing
