#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the core with clang and libc++, with warnings as errors, and compares its plans with those of
# the core that the environment has. Sorting and random numbers must not depend on the C++ library.
#
#     tools/check_clang.sh .venv-3.12/bin/python
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/$1
if ! command -v clang++ > /dev/null; then
  echo "error: clang++ was not found; install clang, libc++-dev and libc++abi-dev" >&2
  exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/source"
cp -r setup.py pyproject.toml README.md LICENSE NOTICE csrc megatron_packing "$work/source"
rm -rf "$work"/source/megatron_packing/*.so
(
  cd "$work/source"
  CC="clang -stdlib=libc++" CXX="clang++ -stdlib=libc++" MEGATRON_PACKING_WERROR=1 \
    "$python" setup.py --quiet build_ext --inplace
)
core=$(echo "$work"/source/megatron_packing/_core.*.so)
if [[ $(ldd "$core") != *libc++* ]]; then  # grep -q would end before ldd, which then fails
  echo "error: $core was not linked with libc++" >&2
  exit 1
fi

# -P keeps the script's folder off the path.
"$python" -P tests/portability/plan_hashes.py > "$work/gcc" &
PYTHONPATH=$work/source "$python" -P tests/portability/plan_hashes.py > "$work/clang"
wait $!
if ! diff "$work/gcc" "$work/clang"; then
  echo "error: the plans of clang and libc++ differ from those of the environment's core" >&2
  exit 1
fi
echo "$(wc -l < "$work/clang") plans of $(clang++ --version | head -n 1) with libc++ are those of the environment"
