#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds the wheel for ARM64 (Grace hosts) with a cross-compiler, installs it beside Debian's ARM64
# Python, and compares the plans that it makes under qemu with those of this machine.
#
#     tools/check_aarch64.sh .venv-3.11/bin/python [FOLDER]
#
# The Python must be of the version that Debian has; the wheel is put into FOLDER if one is given.
set -euo pipefail
cd "$(dirname "$0")/.."

python=$PWD/$1
wheels=${2:-}
version=$("$python" -c "import sys; print('%d.%d' % sys.version_info[:2])")
for command in aarch64-linux-gnu-g++ qemu-aarch64; do
  if ! command -v "$command" > /dev/null; then
    echo "error: $command was not found; install g++-aarch64-linux-gnu and qemu-user" >&2
    exit 1
  fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Debian's ARM64 packages, unpacked into a folder: this machine's own packages stay as they are.
root=$work/root
apt=$work/apt
mkdir -p "$root" "$apt/state/lists/partial" "$apt/cache/archives/partial"
chmod 755 "$work"  # apt downloads as another user
touch "$apt/status"
apt_get() {
  apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 \
    -o Dir::State="$apt/state" -o Dir::State::status="$apt/status" -o Dir::Cache="$apt/cache" \
    -o APT::Sandbox::User=root -o Binary::apt::APT::Keep-Downloaded-Packages=true "$@"
}
apt_get update
apt_get install --yes --download-only --no-install-recommends \
  "python$version" "libpython$version-dev" > /dev/null
for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done

# The wheel. setuptools asks this machine's Python for the settings of the other's.
mkdir "$work/source" "$work/settings" "$work/site" "$work/wheel"
cp -r setup.py pyproject.toml README.md LICENSE NOTICE csrc megatron_packing "$work/source"
rm -f "$work"/source/megatron_packing/*.so
settings=_sysconfigdata__aarch64-linux-gnu
cp "$root/usr/lib/python$version/$settings.py" "$work/settings"
env _PYTHON_HOST_PLATFORM=linux-aarch64 _PYTHON_SYSCONFIGDATA_NAME="$settings" \
  PYTHONPATH="$work/settings" CC=aarch64-linux-gnu-gcc CXX=aarch64-linux-gnu-g++ \
  LDSHARED="aarch64-linux-gnu-g++ -shared" LDCXXSHARED="aarch64-linux-gnu-g++ -shared" \
  CPPFLAGS="-isystem $root/usr/include/python$version -isystem $root/usr/include" \
  "$python" -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation \
  --wheel-dir "$work/wheel" "$work/source"

numpy=$(grep '^numpy==' "requirements/python$version.txt")
"$python" -m pip --disable-pip-version-check install --quiet --no-deps --target "$work/site" \
  --only-binary :all: --python-version "$version" --platform linux_aarch64 \
  --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
  "$numpy" "$work"/wheel/*.whl

# -P keeps the script's folder off the path.
"$python" -P tests/portability/plan_hashes.py > "$work/here"
env PYTHONHOME="$root/usr" PYTHONPATH="$work/site" PYTHONDONTWRITEBYTECODE=1 \
  qemu-aarch64 -L "$root" \
  -E LD_LIBRARY_PATH="$root/lib/aarch64-linux-gnu:$root/usr/lib/aarch64-linux-gnu:/usr/aarch64-linux-gnu/lib" \
  "$root/usr/bin/python$version" -P tests/portability/plan_hashes.py > "$work/there"
if ! diff "$work/here" "$work/there"; then
  echo "error: the plans of ARM64 differ from those of this machine" >&2
  exit 1
fi
echo "$(wc -l < "$work/here") plans of ARM64 are those of $(uname -m): $(basename "$work"/wheel/*.whl)"
if [ -n "$wheels" ]; then
  mkdir -p "$wheels"
  cp "$work"/wheel/*.whl "$wheels"
fi
