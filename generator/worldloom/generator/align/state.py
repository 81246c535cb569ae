"""What is known of how keyframes fit together, as arrays for a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.align.match import Matches
from worldloom.generator.align.solve import Correction
from worldloom.scene.cameras import npz_bytes
from worldloom.scene.worldfolder import write_whole


@dataclass(frozen=True)
class Placement:
    """Corrections of all keyframes: those of now, and those with which splats were made."""

    now: Correction
    lifted: Correction
    chunk: NDArray[np.int64]
    """Chunk that each keyframe came with, [n]."""
    gains: NDArray[np.float64]
    """Factor of each keyframe's colours, [n 3]."""
    matches: tuple[Matches, ...] = ()
    """Patches that frames share, by pair."""


def save_placement(placement: Placement, file: Path) -> None:
    """Write a placement.

    Raises:
        StorageFull: No space is left.
    """
    arrays = {
        "now_c2w": placement.now.c2w,
        "now_knots": placement.now.knots,
        "lifted_c2w": placement.lifted.c2w,
        "lifted_knots": placement.lifted.knots,
        "chunk": placement.chunk,
        "gains": placement.gains,
        "match_pairs": np.array([(m.host, m.target, len(m.z)) for m in placement.matches]),
    }
    for name in _match_arrays():
        parts = [getattr(m, name) for m in placement.matches]
        arrays[f"match_{name}"] = np.concatenate(parts) if parts else np.zeros(0)
    write_whole(file, npz_bytes(arrays))


def load_placement(file: Path) -> Placement | None:
    """Read a placement back; None when none was kept."""
    if not file.is_file():
        return None
    with np.load(file, allow_pickle=False) as data:
        pairs = data["match_pairs"].reshape(-1, 3).astype(int)
        ends = np.cumsum(pairs[:, 2])[:-1]
        columns = [np.split(data[f"match_{name}"], ends) for name in _match_arrays()]
        matches = tuple(
            Matches(int(pair[0]), int(pair[1]), *(column[k] for column in columns))
            for k, pair in enumerate(pairs)
        )
        return Placement(
            Correction(data["now_c2w"], data["now_knots"]),
            Correction(data["lifted_c2w"], data["lifted_knots"]),
            data["chunk"],
            data["gains"],
            matches,
        )


def _match_arrays() -> Sequence[str]:
    return [f.name for f in fields(Matches) if f.name not in ("host", "target")]
