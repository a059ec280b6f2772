#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests in two processes and prints the share of the package's lines that they ran. Lines
# that only subprocesses run do not count. So those of examples and benchmarks, which start scripts,
# are left to make test-scripts.
#
#     tools/measure_coverage.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
with_ranks=(tests/{megatron,bridge,te,hybrid}) # half of the time
others=("${with_ranks[@]}" tests/{examples,benchmarks})
rm -f .coverage .coverage.*
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
"$python" -m coverage run --parallel-mode -m pytest "${with_ranks[@]}" > "$log" 2>&1 &
"$python" -m coverage run --parallel-mode -m pytest "${others[@]/#/--ignore=}" || status=$?
wait $! || status=$?
tail -n 200 "$log"
"$python" -m coverage combine --quiet
"$python" -m coverage report
exit "$status"
