#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the tests that prove packing with each megatron-core of requirements/older_megatron_cores.txt in
# place of the environment's own: dataset, batches, loss, attention, balance, and packed rows against
# documents alone. Minutes in all.
#
#     tools/test_older_cores.sh .venv-3.12/bin/python
#
# Wheels are unpacked once for all checkouts, in the cache folder of tools/make_environment.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
cache=${MEGATRON_PACKING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/megatron-packing}
layouts=tests/megatron/test_packed_equals_separate.py::test_rows_have_the_same_loss_in_every_layout
alone=test_each_document_of_many_packs_has_the_losses_and_gradients_that_it_has_alone
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

folders=()
while read -r line; do
  [[ $line == megatron-core==* ]] || continue
  [[ $line =~ ==([^ ]+)\ --hash=sha256:([0-9a-f]{16}) ]]
  folder=$cache/megatron-core-${BASH_REMATCH[2]}/${BASH_REMATCH[1]}
  if [ ! -e "$folder/complete" ]; then
    echo "$line" > "$work/requirement.txt"
    rm -rf "$folder"
    "$python" -m pip --disable-pip-version-check install --quiet --no-deps --only-binary :all: \
      --require-hashes --target "$folder" --requirement "$work/requirement.txt"
    touch "$folder/complete"
  fi
  folders+=("$folder")
done < requirements/older_megatron_cores.txt

status=0
for folder in "${folders[@]}"; do
  found=$(PYTHONPATH=$folder "$python" -W ignore -c "import megatron.core as c; print(c.__version__)")
  if [ "$found" != "$(basename "$folder")" ]; then
    echo "error: megatron-core $found was imported in place of that of $folder" >&2
    exit 1
  fi
  echo "megatron-core $found:"
  PYTHONPATH=$folder MEGATRON_CORE_WHEELS=$folder "$python" -m pytest -q -r f \
    "${layouts/%::*/::$alone[40-193-rope-float64-1e-13]}" "${layouts}[layout0-2]" "${layouts}[layout3-2]" \
    tests/megatron/test_dataset.py tests/megatron/test_balance.py tests/megatron/test_versions.py \
    tests/megatron/test_packed_rotation.py tests/megatron/test_attention_limits.py \
    tests/thd || status=$?
done
exit "$status"
