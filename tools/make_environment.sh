#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes the virtual environment .venv-VERSION with this checkout installed in it.
#
#     tools/make_environment.sh 3.12
#
# The packages of requirements/pythonVERSION.txt are installed once for all checkouts, in a cache
# folder named by the file's hash; .venv-VERSION sees them and adds only this project.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1
lock=requirements/python$version.txt
venv=$PWD/.venv-$version

find_python() {
  local candidate
  for candidate in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if "$candidate" -c "import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" \
      > /dev/null 2>&1; then
      "$candidate" -c "import sys; print(sys.executable)"
      return
    fi
  done
  echo "error: no Python $version was found on the PATH or among pyenv's versions;" \
    "install it (pyenv install $version, or the packages python$version and python$version-venv)" >&2
  exit 1
}

if ! command -v "${CXX:-g++}" > /dev/null; then
  echo "error: no C++ compiler was found (${CXX:-g++}); install g++" >&2
  exit 1
fi

cache=${MEGATRON_PACKING_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/megatron-packing}
packages=$cache/python$version-$(sha256sum "$lock" | cut -c1-16)
mkdir -p "$cache"
exec 9> "$packages.lock"
flock 9  # another checkout may be installing the same packages
if [ ! -e "$packages/complete" ]; then
  python=$(find_python)
  echo "using $python; installing $(grep -c '==' "$lock") packages to $packages (minutes, once)"
  rm -rf "$packages"
  "$python" -m venv "$packages"
  "$packages/bin/python" -m pip install --quiet --quiet --disable-pip-version-check \
    --no-deps --requirement "$lock"
  touch "$packages/complete"
fi
exec 9>&-

# What decides whether the checkout must be built again.
state=$packages:$(find setup.py pyproject.toml csrc -type f | LC_ALL=C sort | xargs cat | sha256sum)
if [ "$(cat "$venv/state" 2> /dev/null)" != "$state" ]; then
  rm -rf "$venv"
  "$packages/bin/python" -m venv --without-pip "$venv"
  site=$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))")
  "$packages/bin/python" -c "import sysconfig; print(sysconfig.get_path('purelib'))" \
    > "$site/packages.pth"
  if [ -e "$packages/bin/ruff" ]; then
    ln -s "$packages/bin/ruff" "$venv/bin/ruff"  # a program, not a module
  fi
  "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-deps \
    --no-build-isolation --editable .
  echo "$state" > "$venv/state"
  echo "using $("$venv/bin/python" -c "import sys; print('Python', sys.version.split()[0])") in $venv"
fi
