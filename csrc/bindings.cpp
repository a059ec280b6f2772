// SPDX-License-Identifier: Apache-2.0
// The only file that knows Python: contiguous numpy arrays in, numpy arrays out.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <variant>
#include <vector>

#include "balance.hpp"
#include "base/mapped_file.hpp"
#include "base/setting_error.hpp"
#include "optimal/covering_program.hpp"
#include "permutation.hpp"
#include "plan_packs.hpp"
#include "plan_step.hpp"
#include "strategies/strategy.hpp"
#include "types/settings.hpp"

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

// Reads the settings of a plan from the keyword arguments of a call, which must be all of them.
class SettingsReader {
 public:
  explicit SettingsReader(const py::kwargs& given) : given_(given) {}

  packing::PlanSettings read() {
    packing::PlanSettings settings;
    settings.visit([this](const char* name, auto& field) {
      if (!given_.contains(name)) throw py::type_error(std::string(name) + " is missing");
      ++num_read_;
      set(given_[name], field);
    });
    if (num_read_ != given_.size()) throw py::type_error("there are settings of unknown names");
    return settings;
  }

 private:
  template <class Number>
  static void set(const py::object& given, Number& field) {
    field = given.cast<Number>();
  }
  static void set(const py::object& given, packing::Effort& field) {
    packing::parse(given.cast<std::string>(), field);
  }
  static void set(const py::object& given, packing::Overlong& field) {
    packing::parse(given.cast<std::string>(), field);
  }

  const py::kwargs& given_;
  std::size_t num_read_ = 0;
};

template <class Length>
py::dict plan_packs(const Array<Length>& lengths, py::object progress,
                    const py::kwargs& settings_given) {
  const packing::PlanSettings settings = SettingsReader(settings_given).read();
  const packing::Lengths view(lengths.data(), static_cast<std::int64_t>(lengths.size()));
  PythonMonitor monitor(std::move(progress));
  packing::Plan plan;
  {
    const py::gil_scoped_release release;
    plan = packing::plan_packs(view, settings, monitor);
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
              py::arg("progress")),
   ...);
}

// The table of strategies: (name, cuts_documents, by_length, summary) of each, in its order.
py::list strategies() {
  py::list rows;
  for (const packing::Strategy& strategy : packing::strategies()) {
    const bool by_length = std::holds_alternative<packing::LengthStrategy*>(strategy.pack);
    rows.append(
        py::make_tuple(strategy.name, strategy.cuts_documents, by_length, strategy.summary));
  }
  return rows;
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

// documents, offsets, lower bound, rank and sync of a step; see plan_step.hpp.
py::tuple plan_step(const Array<std::int64_t>& units, const Array<double>& work,
                    const std::optional<Array<std::int64_t>>& groups, std::int64_t budget,
                    std::int64_t num_ranks, std::int64_t multiple_of, std::int64_t max_documents) {
  const auto size = units.size();
  if (units.ndim() != 1 || work.ndim() != 1 || work.size() != size ||
      (groups && (groups->ndim() != 1 || groups->size() != size))) {
    throw py::value_error("lengths, work and groups must have one dimension and be as long");
  }
  packing::StepPlan plan;
  {
    const std::int64_t* group_data = groups ? groups->data() : nullptr;
    const packing::StepSettings settings{budget, num_ranks, multiple_of, max_documents};
    const py::gil_scoped_release release;
    plan = packing::plan_step(units.data(), work.data(), group_data,
                              static_cast<std::int64_t>(size), settings);
  }
  return py::make_tuple(to_array(std::move(plan.documents)), to_array(std::move(plan.offsets)),
                        plan.lower_bound, plan.rank, plan.sync);
}

// Bytes of a file, which stays mapped as long as the array lives and need not stay open.
Array<std::uint8_t> map_file(int descriptor, std::int64_t start, std::int64_t size) {
  if (start < 0 || size < 1) throw py::value_error("a map has at least one byte");
  std::unique_ptr<packing::MappedFile> owner;
  try {
    const py::gil_scoped_release release;
    owner = std::make_unique<packing::MappedFile>(descriptor, start, size);
  } catch (const std::system_error& error) {
    errno = error.code().value();
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  const std::uint8_t* data = owner->data();
  py::capsule unmap(owner.get(),
                    [](void* pointer) { delete static_cast<packing::MappedFile*>(pointer); });
  owner.release();
  Array<std::uint8_t> array({size}, {py::ssize_t{1}}, data, unmap);
  array.attr("flags").attr("writeable") = false;
  return array;
}

void add_column(packing::CoveringProgram& program, const Array<std::int64_t>& rows,
                const Array<double>& values) {
  if (rows.ndim() != 1 || values.ndim() != 1 || rows.size() != values.size()) {
    throw py::value_error("rows and values must be arrays of one dimension and of one length");
  }
  packing::CoveringProgram::Column column;
  for (py::ssize_t entry = 0; entry < rows.size(); ++entry) {
    const std::int64_t row = rows.data()[entry];
    if (row < 0 || row >= static_cast<std::int64_t>(program.rows())) {
      throw py::index_error("row " + std::to_string(row) + " is not in the program");
    }
    column.emplace_back(static_cast<std::size_t>(row), values.data()[entry]);
  }
  program.add_column(column);
}

void start(packing::CoveringProgram& program, const Array<double>& demand) {
  if (demand.ndim() != 1 || demand.size() != static_cast<py::ssize_t>(program.rows())) {
    throw py::value_error("demand must have a number for each row");
  }
  program.start(std::vector<double>(demand.data(), demand.data() + demand.size()));
}

Array<double> solve(packing::CoveringProgram& program) {
  PythonMonitor monitor{py::none()};
  packing::Work work(std::int64_t{1} << 50, monitor);
  return to_array(std::vector<double>(program.solve(work)));
}

}  // namespace

PYBIND11_MODULE(_core, module) {
  module.doc() = "Native core: plans packs from lengths. Wrapped by megatron_packing.index.";
  py::register_exception<packing::SettingError>(module, "SettingError", PyExc_ValueError);
  module.def("strategies", &strategies);
  bind_plan_packs<std::uint16_t, std::int32_t, std::int64_t>(module);
  module.def("permute", &packing::permute, py::arg("index"), py::arg("size"), py::arg("key"));
  module.def("derive_key", &packing::derive_key, py::arg("key"), py::arg("number"));
  module.def("balance", &balance, py::arg("costs").noconvert(), py::arg("num_ranks"));
  module.def("plan_step", &plan_step, py::arg("units").noconvert(), py::arg("work").noconvert(),
             py::arg("groups").noconvert(), py::arg("budget"), py::arg("num_ranks"),
             py::arg("multiple_of"), py::arg("max_documents"));
  module.def("map_file", &map_file, py::arg("descriptor"), py::arg("start"), py::arg("size"));
  // For tests, which compare its optimum with that of another solver.
  py::class_<packing::CoveringProgram>(module, "CoveringProgram")
      .def(py::init<std::size_t>(), py::arg("rows"))
      .def("add_column", &add_column, py::arg("rows"), py::arg("values"))
      .def("start", &start, py::arg("demand"))
      .def("solve", &solve);
}
