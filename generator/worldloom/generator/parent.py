"""An earlier job's world as the start of this one: for extensions and reverts.

The parent's immutable files and checkpoints are linked, not copied, where the disk allows it; the
parent itself is never changed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from worldloom.generator.checkpoint import drop_after, load_checkpoint
from worldloom.generator.publish import Publisher
from worldloom.scene.errors import EngineFailed
from worldloom.scene.worldfolder import open_world


@dataclass(frozen=True)
class Parent:
    """What a job needs to know of the world that it starts from."""

    world_id: str
    parents: tuple[str, ...]
    revision: int
    """The revision that this job starts from."""
    last_c2w: object
    """Pose of the last camera, [4 4]; an extension's path is relative to it."""
    last_frame: int
    """Number of the last frame."""


def adopt_parent(
    inputs: Mapping[str, Path], publisher: Publisher, kind: str, *, resume: bool
) -> Parent | None:
    """Make the parent's state the state of this job's work folder; None for a fresh world.

    `extend` starts from the parent's last revision and `revert` from the one before it.

    Raises:
        EngineFailed: The parent's checkpoints are no longer there.
    """
    if kind not in ("extend", "revert"):
        return None
    source = inputs.get("parent")
    growth = load_checkpoint(source) if source is not None else None
    if source is None or growth is None:
        raise EngineFailed(
            f"cannot {kind} this world: its checkpoint is no longer on the server. Generate it "
            "again with the same request, then repeat"
        )
    if kind == "revert":
        if growth.revision == 0:
            raise EngineFailed("this world has only its first revision; nothing can be reverted")
        growth = load_checkpoint(source, growth.revision - 1)
        if growth is None:
            raise EngineFailed("the revision before the last is no longer on the server")
    work = publisher.world.parent
    if not (resume and (work / "checkpoint").exists()):
        _link_tree(source / "checkpoint", work / "checkpoint")
        drop_after(work, growth.revision)
    for entry in growth.files:
        publisher.adopt(entry, source / "world" / entry.path)
    manifest = open_world(source / "world")
    return Parent(
        world_id=manifest.world_id,
        parents=manifest.parents,
        revision=growth.revision,
        last_c2w=growth.cameras.c2w[-1],
        last_frame=int(growth.cameras.frame_id[-1]),
    )


def _link_tree(source: Path, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(source, part, copy_function=_link_or_copy)
    part.replace(target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
