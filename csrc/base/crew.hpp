// SPDX-License-Identifier: Apache-2.0
// Runs a function on a few threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "base/divide_up.hpp"
#include "base/monitor.hpp"

namespace packing {

// Runs a function on several threads, of which the calling one is the first.
class Crew {
 public:
  // As many as there are cores, at most `most`.
  explicit Crew(std::int64_t most)
      : size_(std::max<std::int64_t>(
            1, std::min<std::int64_t>(most, std::thread::hardware_concurrency()))) {}

  std::int64_t size() const { return size_; }
  // Whether another thread has failed, so that this one's work is in vain. Long work asks it often.
  bool stopped() const { return stopped_.load(std::memory_order_relaxed); }

  // Calls work(worker) for workers 0 .. size() - 1 and throws the first exception of any. The
  // monitor hears `share` while the calling thread waits for the others, so that it can stop them.
  template <class WorkOfOne>
  void run(Monitor& monitor, double share, const WorkOfOne& work) {
    std::exception_ptr failure;
    std::mutex mutex;
    std::condition_variable done;
    std::int64_t running = 0;
    auto guarded = [&](auto&& part) {
      try {
        part();
      } catch (...) {
        const std::lock_guard<std::mutex> lock(mutex);
        if (!failure) failure = std::current_exception();
        stopped_ = true;
      }
    };
    auto other = [&](std::int64_t worker) {
      guarded([&] { work(worker); });
      const std::lock_guard<std::mutex> lock(mutex);
      --running;
      done.notify_one();
    };
    std::vector<std::thread> others;
    std::int64_t started = 1;
    try {
      for (; started < size_; ++started) {
        {
          const std::lock_guard<std::mutex> lock(mutex);
          ++running;
        }
        others.emplace_back(other, started);
      }
    } catch (const std::system_error&) {  // no more threads are to be had
      const std::lock_guard<std::mutex> lock(mutex);
      --running;
    }
    guarded([&] { work(0); });
    for (std::int64_t worker = started; worker < size_; ++worker) guarded([&] { work(worker); });
    std::unique_lock<std::mutex> lock(mutex);
    while (running > 0) {
      done.wait_for(lock, std::chrono::milliseconds(50));
      lock.unlock();
      guarded([&] { monitor.report(share); });
      lock.lock();
    }
    lock.unlock();
    for (std::thread& thread : others) thread.join();
    if (failure) std::rethrow_exception(failure);
  }

  // Of `items` in equal parts, where a worker's begin.
  std::int64_t begin_of(std::int64_t worker, std::int64_t items) const {
    return begin_of_part(worker, size_, items);
  }

 private:
  std::int64_t size_;
  std::atomic<bool> stopped_{false};
};

}  // namespace packing
