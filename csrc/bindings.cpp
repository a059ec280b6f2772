// SPDX-License-Identifier: Apache-2.0
// The only file that knows Python: contiguous numpy arrays in, numpy arrays out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "balance.hpp"
#include "permutation.hpp"
#include "plan.hpp"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Hands a buffer or a vector to numpy without copying it.
template <template <class...> class Container, class T, class... More>
Array<T> to_array(Container<T, More...>&& values) {
  using Owned = Container<T, More...>;
  auto owner = std::make_unique<Owned>(std::move(values));
  T* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule free(owner.get(), [](void* pointer) { delete static_cast<Owned*>(pointer); });
  owner.release();
  return Array<T>({size}, {static_cast<py::ssize_t>(sizeof(T))}, data, free);
}

// Lets Ctrl-C through and calls a Python function, a few times a second.
class PythonMonitor : public packing::Monitor {
 public:
  explicit PythonMonitor(py::object progress) : progress_(std::move(progress)) {}

  void report(double share) override {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    if (!progress_.is_none()) progress_(share);
  }

 private:
  py::object progress_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

packing::Effort effort_from_name(const std::string& name) {
  if (name == "default") return packing::Effort::kDefault;
  if (name == "high") return packing::Effort::kHigh;
  throw py::value_error("effort is '" + name + "'; use default or high");
}

template <class Length>
py::dict plan_packs(const Array<Length>& lengths, std::int64_t sequence_length,
                    const std::string& strategy, const std::string& effort, std::int64_t alignment,
                    std::int64_t max_documents_per_pack, const std::string& overlong,
                    std::int64_t min_packs, std::int64_t packs_multiple_of, std::uint64_t seed,
                    py::object progress) {
  packing::PlanOptions options;
  options.strategy = strategy;
  options.effort = effort_from_name(effort);
  options.sequence_length = sequence_length;
  options.alignment = alignment;
  options.max_documents_per_pack = max_documents_per_pack;
  options.overlong = packing::overlong_from_name(overlong);
  options.min_packs = min_packs;
  options.packs_multiple_of = packs_multiple_of;
  options.seed = seed;
  const packing::Lengths view(lengths.data(), static_cast<std::int64_t>(lengths.size()));
  PythonMonitor monitor(std::move(progress));
  packing::Plan plan;
  {
    const py::gil_scoped_release release;
    plan = packing::plan_packs(view, options, monitor);
  }
  py::dict result;
  result["lower_bound"] = plan.lower_bound;
  result["num_positions"] = plan.num_positions;
  result["num_positions_lost"] = plan.num_positions_lost;
  result["num_documents_overlong"] = plan.num_documents_overlong;
  result["num_documents_split"] = plan.num_documents_split;
  result["pack_offsets"] = to_array(std::move(plan.pack_offsets));
  if (plan.wide_ids.size() > 0) {
    result["document_ids"] = to_array(std::move(plan.wide_ids));
  } else {
    result["document_ids"] = to_array(std::move(plan.narrow_ids));
  }
  result["segment_starts"] = to_array(std::move(plan.segment_starts));
  result["segment_lengths"] = to_array(std::move(plan.segment_lengths));
  return result;
}

template <class... Lengths>
void bind_plan_packs(py::module_& module) {
  (module.def("plan_packs", &plan_packs<Lengths>, py::arg("lengths").noconvert(),
              py::arg("sequence_length"), py::arg("strategy"), py::arg("effort"),
              py::arg("alignment"), py::arg("max_documents_per_pack"), py::arg("overlong"),
              py::arg("min_packs"), py::arg("packs_multiple_of"), py::arg("seed"),
              py::arg("progress")),
   ...);
}

Array<std::int64_t> balance(const Array<std::int64_t>& costs, std::int64_t num_ranks) {
  if (costs.ndim() != 1) {
    throw py::value_error("costs has " + std::to_string(costs.ndim()) +
                          " dimensions; it must have one");
  }
  std::vector<std::int64_t> order;
  {
    const std::int64_t* data = costs.data();
    const auto size = static_cast<std::int64_t>(costs.size());
    py::gil_scoped_release release;
    order = packing::balance(data, size, num_ranks);
  }
  return to_array(std::move(order));
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Native core: plans packs from lengths. Wrapped by megatron_packing.index.";
  bind_plan_packs<std::uint16_t, std::int32_t, std::int64_t>(module);
  module.def("permute", &packing::permute, py::arg("index"), py::arg("size"), py::arg("key"));
  module.def("epoch_key", &packing::epoch_key, py::arg("seed"), py::arg("epoch"));
  module.def("balance", &balance, py::arg("costs").noconvert(), py::arg("num_ranks"));
}
