// SPDX-License-Identifier: Apache-2.0
// Levels: each has a program of its own for what the levels before have left.
#include "optimal/near_patterns.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "optimal/exact_fit.hpp"
#include "optimal/pattern_dive.hpp"

namespace packing {
namespace {

// Each level goes over the plan so often, with what can be had of each room computed anew.
constexpr int kSweeps = 3;
// A pattern is given up for a sweep after so many vain attempts.
constexpr int kVainAttempts = 4;
// A pack is repeated for at most this share of what is left of its scarcest length.
constexpr std::int64_t kShareOfScarcest = 8;
// What a pack may cost less than one, in packs: more where a level leaves more than this share.
constexpr double kFirstLoss = 1e-5;
constexpr double kMostLoss = 5e-3;
constexpr double kLossGrows = 3;
constexpr double kTooMuchLeft = 0.8;
// The lengths that a dive takes on, and twice as many where levels do not get further.
constexpr std::int64_t kFewLengths = 200;
constexpr double kDiveStep = 0.1;

class Level {
 public:
  Level(LengthHistogram& histogram, std::int64_t max_segments, const PriceFinder::Pieces& pieces,
        double share, Random& random, Work& work)
      : histogram_(histogram),
        max_segments_(max_segments),
        window_(std::max<std::int64_t>(4, histogram.capacity() / (2 * pieces.even))),
        share_(share),
        finder_(histogram, max_segments, pieces),
        random_(random),
        work_(work) {}

  // Finds prices for what is left and returns how many packs they prove to be needed for it.
  std::int64_t find_prices(std::int64_t enough) { return finder_.find(histogram_, enough, work_); }

  // Takes packs that cost up to `loss` less than one.
  void take(std::int32_t loss, Geometry& geometry) {
    std::vector<PriceFinder::Pattern> patterns = finder_.patterns();
    for (PriceFinder::Pattern& pattern : patterns) {
      std::sort(pattern.runs.begin(), pattern.runs.end(),
                [](const Run& a, const Run& b) { return a.length > b.length; });
      pattern.packs *= share_;
    }
    for (int sweep = 1; sweep <= kSweeps && !work_.exhausted(); ++sweep) {
      renew();
      for (PriceFinder::Pattern& pattern : patterns) {
        const double wanted = sweep < kSweeps ? pattern.packs / 2 : pattern.packs;
        auto left = static_cast<std::int64_t>(std::floor(wanted + 0.5));
        for (int vain = 0; left > 0 && vain < kVainAttempts;) {
          const std::int64_t taken = take_near(pattern.runs, (left + 7) / 8, loss, geometry);
          if (taken == 0) ++vain;
          left -= taken;
          pattern.packs -= static_cast<double>(taken);
        }
      }
    }
  }

 private:
  // What can be had for each room changes as lengths run out.
  void renew() {
    prices_ = finder_.prices();
    for (std::int64_t length = 1; length <= histogram_.capacity(); ++length) {
      if (histogram_.count(length) == 0) prices_[static_cast<std::size_t>(length)] = 0;
    }
    fill_.compute(prices_, histogram_.capacity(), max_segments_, work_);
  }

  // Takes up to `most` equal packs of lengths near those of a pattern; returns how many.
  std::int64_t take_near(const std::vector<Run>& pattern, std::int64_t most, std::int32_t loss,
                         Geometry& geometry) {
    std::int64_t room = histogram_.capacity();
    std::int64_t places = max_segments_;
    std::int32_t spare = loss - (kPriceUnit - fill_.value(room, places));
    if (spare < 0) return 0;
    chosen_.clear();
    bool found = true;
    for (std::size_t run = 0; run < pattern.size() && found; ++run) {
      for (std::uint32_t i = 0; i < pattern[run].count && found; ++i) {
        const bool last = run + 1 == pattern.size() && i + 1 == pattern[run].count;
        const std::int64_t length =
            choose_near(pattern[run].length, last ? 0 : window_ / 2, room, places, spare);
        found = length > 0;
        if (!found) break;
        chosen_.push_back(length);
        histogram_.remove(length);
        room -= length;
        --places;
      }
    }
    for (const std::int64_t length : chosen_) histogram_.add(length);
    // What more could be had beside the chosen is lost.
    if (!found || fill_.value(room, places) > spare) return 0;
    OpenPack pack(histogram_, geometry, max_segments_);
    for (const std::int64_t length : chosen_) pack.take(length);
    pack.close(std::min(most, (pack.max_repeat() + kShareOfScarcest - 1) / kShareOfScarcest));
    return geometry.repeats.back();
  }

  // The length nearest to one that is at random up to `spread` beside `target`, of those whose
  // loss can be spared; 0 where the window has none.
  std::int64_t choose_near(std::int64_t target, std::int64_t spread, std::int64_t room,
                           std::int64_t places, std::int32_t& spare) {
    if (spread > 0) {
      target +=
          static_cast<std::int64_t>(random_.below(static_cast<std::uint64_t>(2 * spread + 1)));
      target -= spread;
    }
    const std::int32_t best = fill_.value(room, places);
    const auto try_length = [&](std::int64_t length) {
      if (length < 1 || length > room || histogram_.count(length) == 0) return false;
      const std::int32_t price = prices_[static_cast<std::size_t>(length)];
      if (price == 0) return false;
      const std::int32_t loss = best - price - fill_.value(room - length, places - 1);
      if (loss > spare) return false;
      spare -= loss;
      return true;
    };
    std::int64_t chosen = 0;
    std::int64_t beside = 0;
    for (; beside <= window_ && chosen == 0; ++beside) {
      if (try_length(target + beside)) {
        chosen = target + beside;
      } else if (beside > 0 && try_length(target - beside)) {
        chosen = target - beside;
      }
    }
    work_.spend(4 * beside);
    return chosen;
  }

  LengthHistogram& histogram_;
  std::int64_t max_segments_;
  std::int64_t window_;
  double share_;
  PriceFinder finder_;
  Random& random_;
  Work& work_;
  std::vector<std::int32_t> prices_;
  DearestFill fill_;
  std::vector<std::int64_t> chosen_;
};

}  // namespace

Geometry pack_near_patterns(LengthHistogram histogram, std::int64_t max_segments,
                            std::int64_t num_packs, const PriceFinder::Pieces& pieces, double share,
                            Random& random, Work& work) {
  Geometry geometry;
  std::int64_t lengths = histogram.num_lengths();
  for (double loss = kFirstLoss; lengths > kFewLengths && loss <= kMostLoss;) {
    Level level(histogram, max_segments, pieces, share, random, work);
    const std::int64_t in_question = num_packs - geometry.num_packs();
    if (level.find_prices(in_question) >= in_question || work.exhausted()) return {};
    const auto before = static_cast<double>(histogram.size());
    level.take(static_cast<std::int32_t>(loss * kPriceUnit), geometry);
    lengths = histogram.num_lengths();
    if (static_cast<double>(histogram.size()) > kTooMuchLeft * before) loss *= kLossGrows;
  }
  if (lengths <= 2 * kFewLengths && histogram.size() > 0) {
    PriceFinder finder(histogram, max_segments, {histogram.capacity()});
    geometry.append(dive(std::move(histogram), max_segments, num_packs - geometry.num_packs(),
                         kDiveStep, finder, work));
  } else {
    geometry.append(exact_fit_decreasing(std::move(histogram), max_segments, work));
  }
  if (geometry.num_packs() >= num_packs) return {};
  return geometry;
}

}  // namespace packing
