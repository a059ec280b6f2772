// SPDX-License-Identifier: Apache-2.0
// Maps a part of a file into memory without keeping the file open.
#pragma once

#include <cstddef>
#include <cstdint>

namespace packing {

// Python's mmap keeps a descriptor for each map, of which a process may have only so many.
class MappedFile {
 public:
  // Maps `size` bytes from byte `start` of an open file for reading. Throws std::system_error.
  MappedFile(int descriptor, std::int64_t start, std::int64_t size);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::uint8_t* data() const { return static_cast<std::uint8_t*>(pages_) + lead_; }

 private:
  std::size_t lead_;  // bytes of the first page before `start`
  std::size_t size_;  // of the pages
  void* pages_;
};

}  // namespace packing
