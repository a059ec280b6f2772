#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the core's tests on a core that is built with GCC's sanitizers of addresses and undefined
# behavior.
#
#     tools/sanitize.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/$1
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE NOTICE csrc megatron_packing tests "$copy"
cd "$copy"

run_tests() {
  local kinds=$1 libraries=
  for library in "${@:2}"; do
    libraries+=$("${CXX:-g++}" -print-file-name="lib$library.so"):
  done
  echo "sanitizers: $kinds"
  rm -rf build megatron_packing/*.so
  MEGATRON_PACKING_SANITIZE=$kinds "$python" setup.py --quiet build_ext --inplace
  # Python itself frees little at its end: leaks are not looked for.
  # Without randomized addresses, where newer kernels map libraries into the sanitizers' memory.
  # Properties are tried with few examples: instrumented code is many times slower.
  HYPOTHESIS_PROFILE=sanitized \
    LD_PRELOAD=$libraries PYTHONPATH=$copy \
    ASAN_OPTIONS=detect_leaks=0 \
    setarch --addr-no-randomize "$python" -m pytest -q -p no:cacheprovider \
    tests/core tests/planning/test_plan.py tests/stream/test_order.py
}

run_tests address,undefined asan ubsan
