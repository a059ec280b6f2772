// SPDX-License-Identifier: Apache-2.0
// A dive: packs a tenth of what is left, finds new prices, and goes on.
#include "optimal/price_guided.hpp"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "optimal/exact_fit.hpp"

namespace packing {
namespace {

// Prices are found anew when this share of the positions has been packed since they were found.
constexpr double kStep = 0.1;
// A step after which more packs are needed than before is taken again, this many times smaller.
constexpr double kStepShrinks = 4;
// A choice may cost this much less than the best one.
constexpr std::int32_t kTolerance = kPriceUnit / 100000;
// A pattern takes at most this share of what is left of its scarcest length.
constexpr std::int64_t kShareOfScarcest = 8;

class Guide {
 public:
  Guide(LengthHistogram& histogram, std::int64_t max_segments, const Dive& dive, Random& random,
        Work& work)
      : histogram_(histogram),
        max_segments_(max_segments),
        dive_(dive),
        size_at_pieces_(histogram.size()),
        finder_(histogram, max_segments, dive.pieces),
        random_(random),
        work_(work) {}

  // Fits the pieces of the prices to what is left; true where they were too coarse.
  bool refine() {
    if (static_cast<double>(histogram_.size()) >
        static_cast<double>(size_at_pieces_) * dive_.refine_at) {
      return false;
    }
    finder_ = PriceFinder(histogram_, max_segments_, dive_.pieces);
    size_at_pieces_ = histogram_.size();
    return true;
  }

  // Finds prices for what is left and returns how many packs they prove to be needed for it.
  std::int64_t find_prices() {
    const std::int64_t bound =
        finder_.find(histogram_, std::numeric_limits<std::int64_t>::max(), work_);
    prices_ = finder_.prices();
    renew();
    return bound;
  }

  // Segments that make the most of a room, at most `places` of them. They are left in the
  // histogram.
  const std::vector<std::int64_t>& choose(std::int64_t room, std::int64_t places) {
    if (!fills(room, places)) {
      renew();
      fills(room, places);
    }
    return chosen_;
  }

 private:
  std::int32_t price(std::int64_t length) const {
    return prices_[static_cast<std::size_t>(length)];
  }
  std::int32_t loss(std::int64_t length, std::int64_t room, std::int64_t places) const {
    return fill_.value(room, places) - price(length) - fill_.value(room - length, places - 1);
  }

  // What can be had for each room changes as lengths run out.
  void renew() {
    for (std::int64_t length = 1; length <= histogram_.capacity(); ++length) {
      if (histogram_.count(length) == 0) prices_[static_cast<std::size_t>(length)] = 0;
    }
    fill_.compute(prices_, histogram_.capacity(), max_segments_, work_);
  }

  // Chooses segments for a room; false where they cost less than what was thought to be had.
  bool fills(std::int64_t room, std::int64_t places) {
    chosen_.clear();
    std::int32_t lost = 0;
    for (; places > 0 && room > 0; --places) {
      const std::int64_t length = choose_one(room, places);
      if (length == 0) break;
      lost += loss(length, room, places);
      chosen_.push_back(length);
      histogram_.remove(length);
      room -= length;
    }
    for (const std::int64_t length : chosen_) histogram_.add(length);
    return lost + fill_.value(room, places) <= kTolerance;
  }

  // From a random length on, the first whose loss is within the tolerance; else the least loss.
  std::int64_t choose_one(std::int64_t room, std::int64_t places) {
    const std::int64_t longest = histogram_.largest_at_most(room);
    if (longest == 0) return 0;
    const auto start =
        1 + static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(longest)));
    std::int64_t best = 0;
    std::int32_t least = std::numeric_limits<std::int32_t>::max();
    std::int64_t seen = 0;
    for (std::int64_t length = histogram_.largest_at_most(start), turn = 0; turn < 2; ++turn) {
      const std::int64_t stop = turn == 0 ? 0 : start;
      for (; length > stop; length = histogram_.largest_at_most(length - 1)) {
        ++seen;
        if (price(length) == 0) continue;
        const std::int32_t lost = loss(length, room, places);
        if (lost < least) {
          least = lost;
          best = length;
        }
        if (lost <= kTolerance) break;
      }
      if (least <= kTolerance) break;
      length = longest;
    }
    work_.spend(4 * seen);
    return best;
  }

  LengthHistogram& histogram_;
  std::int64_t max_segments_;
  const Dive& dive_;
  std::int64_t size_at_pieces_;
  PriceFinder finder_;
  Random& random_;
  Work& work_;
  std::vector<std::int32_t> prices_;
  DearestFill fill_;
  std::vector<std::int64_t> chosen_;
};

// Packs what is left until its positions have fallen to `stop`, and a pack at least.
void pack_until(std::int64_t stop, LengthHistogram& histogram, Geometry& geometry, Guide& guide,
                std::int64_t max_segments, const Work& work) {
  do {
    OpenPack pack(histogram, geometry, max_segments);
    pack.take(histogram.largest_at_most(histogram.capacity()));
    for (const std::int64_t length : guide.choose(pack.room(), pack.places())) pack.take(length);
    pack.fill_longest_first();  // what has no price still needs a place
    pack.close((pack.max_repeat() + kShareOfScarcest - 1) / kShareOfScarcest);
  } while (histogram.positions() > stop && !work.exhausted());
}

}  // namespace

Geometry price_guided(LengthHistogram histogram, std::int64_t max_segments, const Dive& dive,
                      Random& random, Work& work) {
  Geometry geometry;
  Guide guide(histogram, max_segments, dive, random, work);
  std::int64_t needed = guide.find_prices();
  double step = kStep;
  while (histogram.size() > 0 && !work.exhausted()) {
    if (guide.refine()) needed = guide.find_prices();
    const LengthHistogram histogram_before = histogram;
    Geometry taken;
    const auto positions = static_cast<double>(histogram.positions());
    pack_until(static_cast<std::int64_t>(positions * (1 - step)), histogram, taken, guide,
               max_segments, work);
    const std::int64_t needed_after = taken.num_packs() + guide.find_prices();
    if (needed_after > needed && step > dive.least_step && !work.exhausted()) {
      step /= kStepShrinks;
      histogram = histogram_before;
      needed = guide.find_prices();
      continue;
    }
    geometry.append(taken);
    needed = needed_after - taken.num_packs();
    step = std::min(kStep, step * 2);
  }
  geometry.append(exact_fit_decreasing(std::move(histogram), max_segments, work));
  return geometry;
}

}  // namespace packing
