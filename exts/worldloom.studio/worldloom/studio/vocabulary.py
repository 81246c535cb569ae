"""Finds `worldloom.scene`, which the studio shares with server and command line.

Kit puts only the extension's own folder on the path. The shared package is either installed into
Kit's Python or lies in the clone around the extension; paths are appended, never prepended, so
that nothing of the host is hidden.
"""

from __future__ import annotations

import importlib
import sys
from importlib.util import find_spec
from pathlib import Path

HOW_TO_GET_IT = (
    "worldloom.scene was not found. Keep the extension inside a clone of the worldloom repository, "
    "or run:  <isaac sim>/python.sh -m pip install worldloom"
)


def find_vocabulary() -> str | None:
    """Make `worldloom.scene` importable; what to do when it is nowhere, else None."""
    if find_spec("worldloom.scene") is not None:
        return None
    for folder in Path(__file__).resolve().parents:
        candidate = folder / "bridge"
        if (candidate / "worldloom" / "scene" / "__init__.py").is_file():
            sys.path.append(str(candidate))
            importlib.invalidate_caches()
            return None
    return HOW_TO_GET_IT
