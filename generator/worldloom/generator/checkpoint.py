"""One revision's state to disk and back, whole or not at all: the same bytes after a resume.

`checkpoint/<k>/` holds the keyframes that chunk k added, and what is known so far. The big running
sums (surface volume, covered voxels) are kept for the newest two revisions only, so that a job can
be killed at any moment, resumed from k, or reverted to k - 1.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from worldloom.generator.align.state import Placement, load_placement, save_placement
from worldloom.generator.placement import replay
from worldloom.generator.records import to_bytes
from worldloom.generator.splats.lift import Covered
from worldloom.generator.surface.levels import LevelVolume
from worldloom.generator.video.frame import Frame, levels_to_float
from worldloom.scene.cameras import Cameras, npz_bytes
from worldloom.scene.errors import CorruptData
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfolder import write_whole

STATE, KEYFRAMES, VOLUME, COVERED, CAMERAS, PLACEMENT, MODEL = (
    "state.json", "keyframes.npz", "volume.npz", "covered.npz", "cameras.npz", "placement.npz",
    "model",
)  # fmt: skip
KEPT_SUMS = 2
"""Revisions whose running sums stay on disk: the newest, and one to revert to."""


@dataclass
class Growth:
    """Everything that one chunk hands to the next."""

    volume: LevelVolume
    covered: Covered
    cameras: Cameras
    """Cameras of all frames so far."""
    generated: list[Frame]
    """Keyframes so far as the frame model gave them, oldest first: the content of the memory."""
    keyframes: list[Frame]
    """The same after they were made to agree: what splats and surface are made of."""
    files: list[FileEntry]
    """Immutable files so far."""
    tiles: dict[str, int]
    """Number of each collider tile by its place `i,j`."""
    revision: int = 0
    """Chunks finished; 0 = only the photo."""
    weights: tuple[dict[str, Any], ...] = ()
    """Weights behind the frames so far."""
    refined: bool = False
    """Whether the splats were fitted to the keyframes after the last chunk."""
    placement: Placement | None = None
    """How the keyframes were made to agree; None where they are taken as they come."""


def save_checkpoint(work: Path, growth: Growth, new: list[Frame]) -> None:
    """Write `checkpoint/<revision>`; its state file comes last and makes it valid.

    What the frame model carries is in `model_folder` already.

    Args:
        work: Folder of the job.
        growth: What is known so far.
        new: Keyframes of this revision, as generated; none where they are on disk already.

    Raises:
        StorageFull: No space is left; older checkpoints are untouched.
    """
    folder = work / "checkpoint" / f"{growth.revision:04d}"
    if new:
        write_whole(folder / KEYFRAMES, npz_bytes(_frames_to_arrays(new)))
    write_whole(folder / CAMERAS, growth.cameras.to_npz())
    growth.volume.save(folder / VOLUME)
    growth.covered.save(folder / COVERED)
    if growth.placement is not None:
        save_placement(growth.placement, folder / PLACEMENT)
    state = {
        "revision": growth.revision,
        "files": [asdict(entry) for entry in growth.files],
        "tiles": growth.tiles,
        "weights": list(growth.weights),
        "refined": growth.refined,
    }
    write_whole(folder / STATE, json.dumps(state, sort_keys=True).encode())
    for old in _revisions(work)[:-KEPT_SUMS]:
        for name in (VOLUME, COVERED, PLACEMENT):
            (work / "checkpoint" / f"{old:04d}" / name).unlink(missing_ok=True)
        shutil.rmtree(model_folder(work, old), ignore_errors=True)


def model_folder(work: Path, revision: int) -> Path:
    """Where the frame model keeps what it carries after `revision`."""
    return work / "checkpoint" / f"{revision:04d}" / MODEL


def load_checkpoint(work: Path, revision: int | None = None) -> Growth | None:
    """The newest whole checkpoint under `work`, or the given one; None when there is none.

    Raises:
        CorruptData: A checkpoint that claims to be whole cannot be read.
    """
    known = _revisions(work)
    if not known or (revision is not None and revision not in known):
        return None
    newest = known[-1] if revision is None else revision
    folder = work / "checkpoint" / f"{newest:04d}"
    try:
        state = json.loads((folder / STATE).read_text())
        generated: list[Frame] = []
        for k in range(newest + 1):
            part = work / "checkpoint" / f"{k:04d}" / KEYFRAMES
            with np.load(part, allow_pickle=False) as arrays:
                generated += _frames_from_arrays(dict(arrays))
        placement = load_placement(folder / PLACEMENT)
        return Growth(
            volume=LevelVolume.load(folder / VOLUME),
            covered=Covered.load(folder / COVERED),
            cameras=Cameras.load(folder / CAMERAS),
            generated=generated,
            keyframes=replay(generated, placement),
            files=list(_entries(state["files"])),
            tiles={str(key): int(value) for key, value in state["tiles"].items()},
            revision=newest,
            weights=tuple(state["weights"]),
            placement=placement,
            refined=bool(state["refined"]),
        )
    except (OSError, EOFError, BadZipFile, KeyError, ValueError) as error:
        raise CorruptData(
            f"checkpoint {folder.name} of this job cannot be read ({error}); delete the job and "
            "send it again"
        ) from error


def drop_after(work: Path, revision: int) -> None:
    """Forget all checkpoints after `revision`."""
    for k in _revisions(work):
        if k > revision:
            shutil.rmtree(work / "checkpoint" / f"{k:04d}")


def _revisions(work: Path) -> list[int]:
    """Numbers of whole checkpoints, rising, without gaps from 0."""
    found = {int(p.parent.name) for p in (work / "checkpoint").glob(f"[0-9]*/{STATE}")}
    return [k for k in sorted(found) if set(range(k)) <= found]


def _entries(items: list[dict[str, Any]]) -> tuple[FileEntry, ...]:
    whole = Manifest("", {}, {}, {}, 0, 0).to_json() | {"files": items}
    return Manifest.from_bytes(json.dumps(whole).encode()).files


def _frames_to_arrays(frames: list[Frame]) -> dict[str, np.ndarray]:
    fields = ("frame_id", "depth", "origin", "c2w", "K")
    arrays = {name: np.stack([np.asarray(getattr(f, name)) for f in frames]) for name in fields}
    # Keyframes lie on 8-bit levels, so bytes hold them exactly at a quarter of the size.
    return arrays | {"rgb": np.stack([to_bytes(frame.rgb) for frame in frames])}


def _frames_from_arrays(arrays: dict[str, np.ndarray]) -> list[Frame]:
    return [
        Frame(
            frame_id=int(arrays["frame_id"][i]),
            rgb=levels_to_float(arrays["rgb"][i]),
            depth=arrays["depth"][i],
            origin=arrays["origin"][i],
            c2w=arrays["c2w"][i],
            K=arrays["K"][i],
        )
        for i in range(len(arrays["frame_id"]))
    ]
