#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds Transformer Engine's extension for torch where there is no GPU and no CUDA toolkit.
#
#     benchmarks/gpu/build_extension.sh SOURCE.tar.gz FOLDER
#
# Takes about 14 CPU minutes. The wheel fits the Python that runs this, and the torch named below,
# which must be that of the machine with the GPU. CUDA's headers come from packages.
set -euo pipefail
torch=${TORCH:-torch==2.11.0}
cuda=${CUDA:-13.0}
python=${PYTHON:-python3}
source=$(realpath "$1") folder=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
install=("$work/venv/bin/python" -m pip install --quiet)
"${install[@]}" "$torch" setuptools wheel ninja pybind11 numpy pydantic packaging einops
"${install[@]}" "nvidia-cuda-nvcc==$cuda.*" "nvidia-cuda-crt==$cuda.*" "nvidia-nvvm==$cuda.*" \
  "nvidia-cuda-cccl==$cuda.*"
nvidia=$("$work/venv/bin/python" -c "import nvidia; print(list(nvidia.__path__)[0])")
export CUDA_HOME=$nvidia/cu${cuda%%.*}
export PATH=$CUDA_HOME/bin:$PATH
export CPLUS_INCLUDE_PATH=$nvidia/cudnn/include:$nvidia/nccl/include:$CUDA_HOME/include
export LIBRARY_PATH=$CUDA_HOME/lib:$nvidia/nccl/lib
export NVTE_PYTORCH_FORCE_BUILD=TRUE MAX_JOBS=${MAX_JOBS:-$(nproc)}
version=$(basename "$source" .tar.gz)
"${install[@]}" --no-deps "transformer-engine-cu${cuda%%.*}==${version##*-}"
tar -xzf "$source" -C "$work"
"$work/venv/bin/python" -m pip wheel --quiet --no-deps --no-build-isolation \
  --wheel-dir "$folder" "$work/$version"
