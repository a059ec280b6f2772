// SPDX-License-Identifier: Apache-2.0
// Micro-batches that are being filled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace packing {

// What goes into one micro-batch as a whole: a document, or the documents of a group.
struct StepItem {
  std::int64_t units = 0;
  std::int64_t documents = 0;
  double work = 0;
};

// How much a micro-batch may hold.
struct StepLimits {
  std::int64_t budget;
  std::int64_t documents;
};

// A number of micro-batches with the items that they hold.
class MicroBatches {
 public:
  struct Batch {
    double work = 0;
    std::int64_t room;
    std::int64_t places;
    std::int64_t items = 0;
    std::size_t last = 0;  // the item that came last, where there is one
  };

  MicroBatches(std::size_t count, std::size_t num_items, const StepLimits& limits)
      : batches_(count, Batch{0, limits.budget, limits.documents}),
        batch_of_(num_items, 0),
        before_(num_items, 0) {}

  std::size_t size() const { return batches_.size(); }
  const Batch& operator[](std::size_t batch) const { return batches_[batch]; }
  std::size_t batch_of(std::size_t item) const { return batch_of_[item]; }

  // Calls function(number) for each item of a micro-batch, the last one first.
  template <class Function>
  void each_item(std::size_t batch, const Function& function) const {
    std::size_t number = batches_[batch].last;
    for (std::int64_t left = batches_[batch].items; left > 0; --left) {
      function(number);
      number = before_[number];
    }
  }

  bool fits(const StepItem& item, std::size_t batch) const {
    return item.units <= batches_[batch].room && item.documents <= batches_[batch].places;
  }
  void add(const StepItem& item, std::size_t number, std::size_t batch) {
    before_[number] = batches_[batch].last;
    batches_[batch].last = number;
    batch_of_[number] = batch;
    change(item, batch, 1);
  }
  void move(const StepItem& item, std::size_t number, std::size_t to) {
    const std::size_t from = batch_of_[number];
    std::size_t* link = &batches_[from].last;
    while (*link != number) link = &before_[*link];
    *link = before_[number];
    change(item, from, -1);
    add(item, number, to);
  }

 private:
  void change(const StepItem& item, std::size_t batch, int sign) {
    Batch& changed = batches_[batch];
    changed.work += sign * item.work;
    changed.room -= sign * item.units;
    changed.places -= sign * item.documents;
    changed.items += sign;
  }

  std::vector<Batch> batches_;
  std::vector<std::size_t> batch_of_;  // by item
  std::vector<std::size_t> before_;    // by item: the one that came before it into its micro-batch
};

}  // namespace packing
