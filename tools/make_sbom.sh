#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes a CycloneDX bill of materials of what the wheel needs at run time (requirements/runtime.txt).
#
#     tools/make_sbom.sh PYTHON FILE.json
set -euo pipefail
cd "$(dirname "$0")/.."

python=$1
output=$2
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"$python" -m pip --disable-pip-version-check install --quiet --target "$folder" cyclonedx-bom==7.5.0
mkdir -p "$(dirname "$output")"
PYTHONPATH=$folder "$python" -m cyclonedx_py requirements requirements/runtime.txt \
  --pyproject pyproject.toml --output-reproducible --output-format JSON --output-file "$output"
"$python" - "$output" requirements/runtime.txt << 'PROGRAM'
import json
import re
import sys

import megatron_packing

bom = json.load(open(sys.argv[1]))
# cyclonedx_py does not read the version, which pyproject.toml takes from the package.
bom["metadata"]["component"]["version"] = megatron_packing.__version__
with open(sys.argv[1], "w") as file:
    json.dump(bom, file, indent=2)
components = bom["components"]
found = {component["name"].lower() for component in components}
locked = {name.lower() for name in re.findall(r"^([\w.-]+)==", open(sys.argv[2]).read(), re.M)}
if locked - found:
    sys.exit(f"error: the bill of materials lacks {', '.join(sorted(locked - found))}")
print(f"{sys.argv[1]}: {len(components)} components")
PROGRAM
