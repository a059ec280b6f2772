#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the core's tests on cores that are built with GCC's sanitizers: once with those of addresses
# and undefined behavior, once with that of threads.
#
#     tools/sanitize.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/$1
copies=$(mktemp -d)
trap 'rm -rf "$copies"' EXIT

# Newer kernels map libraries into the sanitizers' memory unless addresses are not randomized; some
# containers do not let a process ask for that.
fixed_addresses=(setarch --addr-no-randomize)
"${fixed_addresses[@]}" true 2> /dev/null || fixed_addresses=()

# run_tests SANITIZERS LIBRARIES [ARGUMENT OF PYTEST ...]
run_tests() {
  local kinds=$1 libraries= library copy=$copies/$1
  mkdir "$copy"
  cp -r setup.py pyproject.toml README.md LICENSE NOTICE csrc megatron_packing tests "$copy"
  cd "$copy"
  for library in $2; do
    libraries+=$("${CXX:-g++}" -print-file-name="lib$library.so"):
  done
  echo "sanitizers: $kinds"
  rm -rf build megatron_packing/*.so
  MEGATRON_PACKING_SANITIZE=$kinds "$python" setup.py --quiet build_ext --inplace
  # Python itself frees little at its end: leaks are not looked for. Python and numpy are not
  # compiled for the thread sanitizer, which watches the core alone.
  # Properties are tried with few examples: instrumented code is many times slower.
  HYPOTHESIS_PROFILE=sanitized \
    LD_PRELOAD=$libraries PYTHONPATH=$copy \
    ASAN_OPTIONS=detect_leaks=0 \
    TSAN_OPTIONS=halt_on_error=1:ignore_noninstrumented_modules=1:log_path="$copy/report" \
    "${fixed_addresses[@]}" "$python" -m pytest -q -p no:cacheprovider \
    tests/core tests/planning/test_{plan,optimal}.py tests/stream/test_order.py "${@:3}" && return
  cat "$copy"/report* >&2 || true
  return 1
}

# Both at the same time.
log=$copies/log
status=0
(run_tests address,undefined "asan ubsan" -m "not long_plan") > "$log" 2>&1 &
(run_tests thread tsan -m "not long_plan and not one_thread") || status=$?
wait $! || status=$?
cat "$log"
exit "$status"
