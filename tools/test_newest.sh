#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests of packing in Megatron's trainer with the newest megatron-core of the registry and,
# where the path of a checkout of Megatron-LM is given, with that. For a nightly run: what fails says
# what moved (CONTRIBUTING.md, "Support a new Megatron").
#
#     tools/test_newest.sh .venv-3.12/bin/python [/path/to/Megatron-LM]
#
# TESTS has other tests than those of tests/megatron and tests/thd. A release that the environment has
# already is not tested again. Half an hour for each on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$(realpath --no-symlinks "$1")
checkout=${2:-}
read -r -a tests <<< "${TESTS:-tests/megatron tests/thd}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

version_in() {  # of the megatron-core that a folder puts first
  PYTHONPATH=$1 "$python" -W ignore -c "import megatron.core as c; print(c.__version__)"
}

status=0
test_with() {  # NAME FOLDER
  local from
  from=$(PYTHONPATH=$2 "$python" -W ignore -c "import megatron.core as c; print(*c.__path__)")
  if [[ $from != "$2"/* ]]; then
    echo "error: megatron-core was imported from $from in place of $2" >&2
    exit 1
  fi
  echo "$1, megatron-core $(version_in "$2"):"
  PYTHONPATH=$2 "$python" -m pytest -q -r fE -n "${JOBS:-2}" --dist loadfile "${tests[@]}" ||
    status=$?
}

installed=$("$python" -c "from importlib.metadata import version as v; print(v('megatron-core'))")
"$python" -m pip --disable-pip-version-check download --quiet --no-deps --only-binary :all: \
  --dest "$work" megatron-core
newest=$(basename "$work"/megatron_core-*.whl | cut -d- -f2)
if [ "$newest" = "$installed" ]; then
  echo "the newest release on the registry is megatron-core $newest, which the environment has"
else
  "$python" -m pip --disable-pip-version-check install --quiet --no-deps --target "$work/core" \
    "$work"/megatron_core-*.whl
  test_with "the newest release" "$work/core"
fi

if [ -n "$checkout" ]; then
  checkout=$(realpath "$checkout")
  if [ ! -d "$checkout/megatron/core/datasets" ]; then
    echo "error: $checkout is no checkout of Megatron-LM: it has no megatron/core/datasets" >&2
    exit 1
  fi
  PATH=$(dirname "$python"):$PATH make --silent -C "$checkout/megatron/core/datasets"
  test_with "$checkout" "$checkout"
fi
exit "$status"
