"""Finished pieces -> files of the world, named by content, told to whoever watches the job."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfile import render_world_usda
from worldloom.scene.worldfolder import (
    MANIFEST,
    REVISIONS,
    WORLD,
    file_sha256,
    put_immutable,
    storage_errors,
    sync_folder,
    write_revision,
)

Emit = Callable[[Progress | Artifact | Log | Preview], None]
Extent = tuple[tuple[float, float, float], tuple[float, float, float]]

REVISION_KINDS = {
    "cameras.npz": "cameras",
    "cameras.usda": "cameras_usd",
    "scale.json": "scale",
    "depth/keyframes.npz": "depth",
    "splats.ply": "ply",
    "splats.spz": "spz",
    "mesh.glb": "glb",
    "grid.vdb": "vdb",
}
"""Files of a revision by name; they are rewritten whole, unlike the files named by content."""


class Publisher:
    """Writes one job's world folder and emits an Artifact for each file after it is safe."""

    def __init__(self, work: Path, emit: Emit) -> None:
        self.world = work / "world"
        self.scratch = work / "scratch"
        self._emit = emit
        with storage_errors(work):
            self.world.mkdir(parents=True, exist_ok=True)
            self.scratch.mkdir(parents=True, exist_ok=True)

    def immutable(
        self,
        kind: str,
        write: Callable[[Path], None],
        *,
        suffix: str = ".usdc",
        chunk: int,
        tile: int | None = None,
        count: int = 0,
        extent: Extent | None = None,
        supersedes: str | None = None,
    ) -> FileEntry:
        """Let `write` make a file, name it by its content, and tell of it.

        Raises:
            StorageFull: No space is left.
            StorageUnwritable: The work folder cannot be written.
        """
        part = self.scratch / f"{kind}{suffix}"
        part.unlink(missing_ok=True)
        folder = "splats" if kind == "points" else kind
        with storage_errors(part):
            write(part)
            digest = file_sha256(part)
            target = self.world / folder / f"{digest}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            size = part.stat().st_size
            part.replace(target)
            sync_folder(target.parent)
        path = f"{folder}/{target.name}"
        replaced = None if supersedes == path else supersedes
        entry = FileEntry(path, digest, size, kind, chunk, tile, count, extent, replaced)
        self._emit(Artifact(chunk, kind, path, target, replaced))
        return entry

    def preview(self, write: Callable[[Path], None], *, chunk: int) -> None:
        """Tell of a layer that is worth a look until the chunk itself comes; no manifest names it.

        Raises:
            StorageFull: No space is left.
            StorageUnwritable: The work folder cannot be written.
        """
        part = self.scratch / "preview.usdc"
        part.unlink(missing_ok=True)
        with storage_errors(part):
            write(part)
            target = self.scratch / f"{file_sha256(part)}.usdc"
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            part.replace(target)
        self._emit(Artifact(chunk, "preview_splats", f"preview/{target.name}", target))

    def announce(self, files: Iterable[FileEntry], revision: int) -> None:
        """Tell again of files that an earlier run made: whoever watches this run needs them."""
        for entry in files:
            path = self.world / entry.path
            self._emit(Artifact(entry.chunk or 0, entry.kind, entry.path, path, entry.supersedes))
        kept = self.world / REVISIONS / f"{revision:04d}"
        for name, kind in REVISION_KINDS.items():
            if (kept / name).is_file():
                self._emit(Artifact(revision, kind, name, kept / name))
        if (kept / MANIFEST).is_file():
            self._emit(Artifact(revision, "manifest", MANIFEST, kept / MANIFEST))

    def adopt(self, entry: FileEntry, source: Path) -> None:
        """Take over an immutable file of another world, and tell of it.

        Raises:
            StorageFull: No space is left.
        """
        target = put_immutable(self.world, entry.path, source)
        self._emit(Artifact(entry.chunk or 0, entry.kind, entry.path, target, entry.supersedes))

    def revision(
        self, manifest: Manifest, files: Mapping[str, bytes], *, revision: int
    ) -> Manifest:
        """Complete a revision: its rewritten files, then the manifest that names everything.

        Returns the manifest with the entries of `files` added.
        """
        chunk = max(0, revision)
        entries = [
            FileEntry(
                name, hashlib.sha256(data).hexdigest(), len(data), REVISION_KINDS[name], chunk
            )
            for name, data in sorted(files.items())
        ]
        whole = replace(manifest, files=(*manifest.files, *entries))
        data = {**files, WORLD: render_world_usda(whole), MANIFEST: whole.to_bytes()}
        write_revision(self.world, data, revision=revision)
        kept = self.world / REVISIONS / f"{revision:04d}"
        for entry in entries:
            self._emit(Artifact(chunk, entry.kind, entry.path, kept / entry.path))
        self._emit(Artifact(chunk, "manifest", MANIFEST, kept / MANIFEST))
        return whole


def extent_of(box: object) -> Extent:
    """A box [2 3] in metres as plain rounded floats, for manifests."""
    low, high = np.asarray(box, float).round(4).tolist()
    return tuple(low), tuple(high)
