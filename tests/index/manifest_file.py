# SPDX-License-Identifier: Apache-2.0
"""Changes the manifest of an index."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from megatron_packing.index.manifest import DIGEST, MANIFEST, digest_of


def edit_manifest(
    folder: Path,
    edit: Callable[[dict[str, Any]], object],
    *,
    digest: Literal["right", "kept", "none"] = "right",
) -> None:
    """Change a manifest in place.

    Args:
        folder: The index.
        edit: Changes the fields.
        digest: ``right``: that of the new manifest, as its writer would give it; ``kept``: that
            of the old one, as after an edit by hand; ``none``: as earlier releases wrote it.
    """
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    if digest == "right":
        manifest[DIGEST] = digest_of(manifest)
    elif digest == "none":
        manifest.pop(DIGEST, None)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def set_field(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """An edit that sets one field, such as ``figures.num_packs``."""

    def edit(manifest: dict[str, Any]) -> None:
        *sections, name = where.split(".")
        for section in sections:
            manifest = manifest[section]
        manifest[name] = value

    return edit
