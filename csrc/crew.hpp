// A few threads that share one piece of work.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace packing {

// Runs a function on several threads, of which the calling one is the first.
class Crew {
 public:
  // As many as there are cores, at most `most`.
  explicit Crew(std::int64_t most)
      : size_(std::max<std::int64_t>(
            1, std::min<std::int64_t>(most, std::thread::hardware_concurrency()))) {}

  std::int64_t size() const { return size_; }
  // Whether another thread has failed, so that this one's work is in vain.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // Calls work(worker) for workers 0 .. size() - 1 and throws the first exception of any.
  template <class WorkOfOne>
  void run(const WorkOfOne& work) {
    std::exception_ptr failure;
    std::mutex mutex;
    auto guarded = [&](std::int64_t worker) {
      try {
        work(worker);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
        stopped_ = true;
      }
    };
    std::vector<std::thread> others;
    std::int64_t started = 1;
    try {
      for (; started < size_; ++started) others.emplace_back(guarded, started);
    } catch (const std::system_error&) {  // no more threads are to be had
    }
    guarded(0);
    for (std::int64_t worker = started; worker < size_; ++worker) guarded(worker);
    for (std::thread& other : others) other.join();
    if (failure) std::rethrow_exception(failure);
  }

  // Of `items` in equal parts, where a worker's begin.
  std::int64_t begin_of(std::int64_t worker, std::int64_t items) const {
    return items / size_ * worker + items % size_ * worker / size_;
  }

 private:
  std::int64_t size_;
  std::atomic<bool> stopped_{false};
};

}  // namespace packing
