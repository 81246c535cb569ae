"""Inside a short-lived worker: a splat layer -> compressed PLY, vetted and within limits."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldloom.scene.errors import CorruptData, WorldloomError
from worldloom.scene.limits import GIB
from worldloom.scene.packed_ply import save_packed
from worldloom.scene.splats import Splats
from worldloom.scene.trust import vet_layer_file

MEMORY = 4 * GIB
"""Address space of the child [bytes]; a layer of 250,000 splats needs a tenth."""
CPU_S = 60
"""CPU time of the child [s]."""


def pack_layer(read: Callable[[Path], Splats], question: dict[str, Any]) -> dict[str, Any]:
    """Write the splats of a layer; the answer says what became of it.

    The layer may be anybody's upload: it is vetted before it is read.

    Args:
        read: Reads a layer file.
        question: `source` and `output`, two paths.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    source = Path(question["source"])
    try:
        if problems := vet_layer_file(source):
            raise CorruptData(problems[0])
        save_packed(read(source), Path(question["output"]))
    except (WorldloomError, MemoryError) as error:
        return {"type": "error", "text": str(error) or "it needs too much memory"}
    return {"type": "packed"}
