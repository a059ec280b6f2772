#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the planner's tests on a core that is built with the address and undefined-behavior
# sanitizers.
#
#     tools/sanitize.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/$1
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r setup.py pyproject.toml README.md LICENSE NOTICE csrc megatron_packing tests "$copy"
rm -f "$copy"/megatron_packing/*.so
cd "$copy"
MEGATRON_PACKING_SANITIZE=1 "$python" setup.py --quiet build_ext --inplace
libraries=$("${CXX:-g++}" -print-file-name=libasan.so):$("${CXX:-g++}" -print-file-name=libubsan.so)
# Python itself frees little at its end: leaks are not looked for.
LD_PRELOAD=$libraries ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$copy "$python" -m pytest -q \
  tests/planning/test_plan.py tests/stream/test_order.py
