"""A job's artifacts -> a world folder on this side, revision by revision.

Immutable files are placed as they come. The files of a revision wait in `.incoming` until its
manifest arrives, which is the last of them; then the revision becomes current at once. A folder
that was left half-way is completed by following the same job again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, Happening, JobInfo, ServerInfo, StateChange
from worldloom.bridge.status import rebuild_error
from worldloom.scene.errors import CorruptData, EngineFailed
from worldloom.scene.manifest import FILE_KINDS, IMMUTABLE_KINDS, Manifest
from worldloom.scene.worldfile import render_world_usda
from worldloom.scene.worldfolder import (
    MANIFEST,
    WORLD,
    check_files,
    open_world,
    write_revision,
)

INCOMING = ".incoming"


def follow(
    client: WorldsClient,
    job: JobInfo,
    folder: Path,
    *,
    on_event: Callable[[Happening], None] | None = None,
) -> Manifest:
    """Bring the world of a job into `folder` while it is made; its last manifest.

    Raises:
        WorldloomError: The job's own error when it fails or is cancelled; what came is kept.
        ServerUnreachable: The server went away; what came is kept.
        StorageFull: No space is left; what came is kept.
    """
    info = client.server_info()
    for event in client.watch(job.name):
        if isinstance(event, ArtifactRef):
            take(client, event, folder, info=info)
        if on_event is not None:
            on_event(event)
        if isinstance(event, StateChange) and event.state in ("failed", "cancelled"):
            text = event.error_text or f"job {job.name} is {event.state}"
            raise rebuild_error(
                event.error_code or EngineFailed.code, text, field=event.error_field or None
            )
    shutil.rmtree(folder / INCOMING, ignore_errors=True)
    return open_world(folder)


def take(
    client: WorldsClient, ref: ArtifactRef, folder: Path, *, info: ServerInfo | None = None
) -> None:
    """Fetch one artifact and put it where it belongs.

    Raises:
        CorruptData: A manifest names files that did not come.
    """
    _check_path(ref)
    if ref.kind in IMMUTABLE_KINDS:
        client.fetch(ref, folder / ref.path, info=info)
    elif ref.kind == "manifest":
        waiting = folder / INCOMING / f"{ref.chunk:04d}"
        client.fetch(ref, waiting / MANIFEST)
        complete_revision(folder, waiting, ref.chunk)
    elif ref.kind in FILE_KINDS:
        client.fetch(ref, folder / INCOMING / f"{ref.chunk:04d}" / ref.path)
    else:
        client.fetch(ref, folder / ref.path)


def complete_revision(folder: Path, waiting: Path, revision: int) -> None:
    """Make the files in `waiting` the current revision of the world.

    Raises:
        CorruptData: Files that the manifest names are missing.
    """
    data = (waiting / MANIFEST).read_bytes()
    manifest = Manifest.from_bytes(data)
    if _current(folder) >= revision:
        # An earlier run of the same command completed it already.
        return
    files = {MANIFEST: data, WORLD: render_world_usda(manifest)}
    for entry in manifest.files:
        if entry.kind not in IMMUTABLE_KINDS:
            files[entry.path] = (waiting / entry.path).read_bytes()
    immutable = [entry for entry in manifest.files if entry.kind in IMMUTABLE_KINDS]
    from dataclasses import replace

    missing = check_files(folder, replace(manifest, files=tuple(immutable)), hashes=False)
    if missing:
        raise CorruptData(f"revision {revision} is incomplete: {missing[0]}; run the command again")
    write_revision(folder, files, revision=revision)
    shutil.rmtree(waiting)


def _current(folder: Path) -> int:
    """Revision that the folder holds; -1 when there is none."""
    return open_world(folder).chunks if (folder / MANIFEST).is_file() else -1


def _check_path(ref: ArtifactRef) -> None:
    """Refuse a server that wants to write outside the world folder."""
    bad = {"", ".", ".."} & set(ref.path.split("/"))
    if bad or ref.path.startswith("/") or "\\" in ref.path or "\0" in ref.path:
        raise CorruptData(f"the server sent a file for {ref.path[:80]!r}, outside the world")
