// The only file that knows Python: contiguous numpy arrays in, numpy arrays out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "balance.hpp"
#include "permutation.hpp"
#include "plan.hpp"

namespace py = pybind11;

namespace {

template <class T>
using Array = py::array_t<T, py::array::c_style>;

// Hands a vector to numpy without copying it.
template <class T>
Array<T> to_array(std::vector<T>&& values) {
  auto owner = std::make_unique<std::vector<T>>(std::move(values));
  T* data = owner->data();
  const auto size = static_cast<py::ssize_t>(owner->size());
  py::capsule free(owner.get(),
                   [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
  owner.release();
  return Array<T>({size}, {static_cast<py::ssize_t>(sizeof(T))}, data, free);
}

template <class Length>
py::tuple plan_packs(const Array<Length>& lengths, std::int64_t sequence_length,
                     const std::string& strategy, const std::string& overlong,
                     std::int64_t packs_multiple_of, std::uint64_t seed) {
  if (lengths.ndim() != 1) {
    throw py::value_error("lengths has " + std::to_string(lengths.ndim()) +
                          " dimensions; it must have one");
  }
  packing::PlanOptions options;
  options.strategy = strategy;
  options.sequence_length = sequence_length;
  options.overlong = packing::overlong_from_name(overlong);
  options.packs_multiple_of = packs_multiple_of;
  options.seed = seed;
  packing::Plan plan;
  {
    const Length* data = lengths.data();
    const auto size = static_cast<std::int64_t>(lengths.size());
    py::gil_scoped_release release;
    plan = packing::plan_packs(data, size, options);
  }
  return py::make_tuple(
      to_array(std::move(plan.pack_offsets)), to_array(std::move(plan.document_ids)),
      to_array(std::move(plan.segment_starts)), to_array(std::move(plan.segment_lengths)));
}

template <class... Lengths>
void bind_plan_packs(py::module_& module) {
  (module.def("plan_packs", &plan_packs<Lengths>, py::arg("lengths").noconvert(),
              py::arg("sequence_length"), py::arg("strategy"), py::arg("overlong"),
              py::arg("packs_multiple_of"), py::arg("seed")),
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
  bind_plan_packs<std::int8_t, std::uint8_t, std::int16_t, std::uint16_t, std::int32_t,
                  std::uint32_t, std::int64_t, std::uint64_t>(module);
  module.def("permute", &packing::permute, py::arg("index"), py::arg("size"), py::arg("key"));
  module.def("epoch_key", &packing::epoch_key, py::arg("seed"), py::arg("epoch"));
  module.def("balance", &balance, py::arg("costs").noconvert(), py::arg("num_ranks"));
}
