// SPDX-License-Identifier: Apache-2.0
// Counts operations on files of one folder, for benchmarks/startup.py.
//
//     cc -O2 -shared -fPIC -o count_files.so benchmarks/count_files.c -ldl
//     COUNT_FILES_IN=/folder LD_PRELOAD=./count_files.so python ...
//
// With DELAY_FILES=0.002 each of them takes 2 ms longer, as with a file server.
// What asks a file server is counted: to open, to look at or to list a path, and to read. fstat,
// close, mmap and lseek are not; pages that are read through a map are not seen.
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { kOpened, kLooked, kListed, kRead, kBytes, kNumCounts };
enum { kMostFiles = 65536 };

// Read by ctypes.
atomic_long file_counts[kNumCounts];

static atomic_char is_ours[kMostFiles];

static int counts(const char* path) {
  static const char* folder;
  if (folder == NULL) {
    const char* named = getenv("COUNT_FILES_IN");
    folder = named == NULL ? "" : named;
  }
  return *folder != 0 && path != NULL && strncmp(path, folder, strlen(folder)) == 0;
}

static void* next(const char* name) { return dlsym(RTLD_NEXT, name); }

// Counts an operation, and waits as long as a file server takes to answer it.
static void count(int kind) {
  static atomic_long nanoseconds = -1;
  if (nanoseconds < 0) {
    const char* seconds = getenv("DELAY_FILES");
    nanoseconds = seconds == NULL ? 0 : (long)(1e9 * atof(seconds));
  }
  file_counts[kind]++;
  const int error = errno;
  if (nanoseconds > 0) nanosleep(&(struct timespec){.tv_nsec = nanoseconds}, NULL);
  errno = error;
}

static int opened(const char* path, int file) {
  if (counts(path)) {
    count(kOpened);
    if (file >= 0 && file < kMostFiles) is_ours[file] = 1;
  } else if (file >= 0 && file < kMostFiles) {
    is_ours[file] = 0;
  }
  return file;
}

#define OPEN(name)                                    \
  int name(const char* path, int flags, ...) {        \
    int (*real)(const char*, int, ...) = next(#name); \
    va_list more;                                     \
    va_start(more, flags);                            \
    const mode_t mode = va_arg(more, mode_t);         \
    va_end(more);                                     \
    return opened(path, real(path, flags, mode));     \
  }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                       \
  int name(int folder, const char* path, int flags, ...) { \
    int (*real)(int, const char*, int, ...) = next(#name); \
    va_list more;                                          \
    va_start(more, flags);                                 \
    const mode_t mode = va_arg(more, mode_t);              \
    va_end(more);                                          \
    return opened(path, real(folder, path, flags, mode));  \
  }
OPENAT(openat)
OPENAT(openat64)

#define LOOK(name, type)                                  \
  int name(const char* path, struct type* status) {       \
    int (*real)(const char*, struct type*) = next(#name); \
    if (counts(path)) count(kLooked);             \
    return real(path, status);                            \
  }
LOOK(stat, stat)
LOOK(stat64, stat64)
LOOK(lstat, stat)
LOOK(lstat64, stat64)

#define LOOK_AT(name, type)                                                \
  int name(int folder, const char* path, struct type* status, int flags) { \
    int (*real)(int, const char*, struct type*, int) = next(#name);        \
    if (counts(path)) count(kLooked);                              \
    return real(folder, path, status, flags);                              \
  }
LOOK_AT(fstatat, stat)
LOOK_AT(fstatat64, stat64)

int access(const char* path, int mode) {
  int (*real)(const char*, int) = next("access");
  if (counts(path)) count(kLooked);
  return real(path, mode);
}

ssize_t readlink(const char* path, char* buffer, size_t size) {
  ssize_t (*real)(const char*, char*, size_t) = next("readlink");
  if (counts(path)) count(kLooked);
  return real(path, buffer, size);
}

DIR* opendir(const char* path) {
  DIR* (*real)(const char*) = next("opendir");
  if (counts(path)) count(kListed);
  return real(path);
}

static ssize_t has_read(int file, ssize_t size) {
  if (file >= 0 && file < kMostFiles && is_ours[file]) {
    count(kRead);
    if (size > 0) file_counts[kBytes] += size;
  }
  return size;
}

ssize_t read(int file, void* buffer, size_t size) {
  static ssize_t (*real)(int, void*, size_t);
  if (real == NULL) real = next("read");
  return has_read(file, real(file, buffer, size));
}

#define PREAD(name, type)                                      \
  ssize_t name(int file, void* buffer, size_t size, type at) { \
    ssize_t (*real)(int, void*, size_t, type) = next(#name);   \
    return has_read(file, real(file, buffer, size, at));       \
  }
PREAD(pread, off_t)
PREAD(pread64, off64_t)
