"""A job's artifacts -> a world folder on this side, revision by revision.

Immutable files are placed as they come. The files of a revision wait in `.incoming` until its
manifest arrives, which is the last of them; then the revision becomes current at once. A folder
that was left half-way is completed by following the same job again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, Happening, JobInfo, ServerInfo, StateChange
from worldloom.bridge.status import rebuild_error
from worldloom.bridge.transfer import is_whole
from worldloom.scene.errors import CorruptData, EngineFailed, InvalidRequest, WorldloomError
from worldloom.scene.manifest import FILE_KINDS, IMMUTABLE_KINDS, Manifest
from worldloom.scene.worldfile import render_world_usda
from worldloom.scene.worldfolder import (
    MANIFEST,
    REVISIONS,
    WORLD,
    check_files,
    open_world,
    write_revision,
)

INCOMING = ".incoming"
FRESH_KINDS = ("seed", "generate")
"""Jobs whose request is the first one of their world, so that its hash is the world's id."""


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
        InvalidRequest: The folder holds another world.
        ServerUnreachable: The server went away; what came is kept.
        StorageFull: No space is left; what came is kept.
    """
    info = client.server_info()
    if job.kind in FRESH_KINDS:
        _refuse_other_world(folder, job.request_hash)
    for event in client.watch(job.name):
        if isinstance(event, ArtifactRef):
            take(client, event, folder, info=info)
        if on_event is not None:
            on_event(event)
        if isinstance(event, StateChange) and event.state in ("failed", "cancelled"):
            raise job_error(job.name, event)
    shutil.rmtree(folder / INCOMING, ignore_errors=True)
    return open_world(folder)


def job_error(name: str, end: StateChange) -> WorldloomError:
    """The error that a job ended with, as its own class."""
    text = end.error_text or f"job {name} is {end.state}"
    return rebuild_error(end.error_code or EngineFailed.code, text, field=end.error_field or None)


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
        waiting = folder / INCOMING / f"{ref.chunk:04d}" / ref.path
        _reuse(ref, folder / REVISIONS / f"{ref.chunk:04d}" / ref.path, waiting)
        client.fetch(ref, waiting)
    else:
        client.fetch(ref, folder / ref.path)


def complete_revision(folder: Path, waiting: Path, revision: int) -> None:
    """Make the files in `waiting` the current revision of the world.

    Raises:
        CorruptData: Files that the manifest names are missing.
        InvalidRequest: The folder holds another world.
    """
    data = (waiting / MANIFEST).read_bytes()
    manifest = Manifest.from_bytes(data)
    if _is_news(folder, manifest):
        immutable = tuple(e for e in manifest.files if e.kind in IMMUTABLE_KINDS)
        rewritten = tuple(e for e in manifest.files if e.kind not in IMMUTABLE_KINDS)
        missing = check_files(folder, replace(manifest, files=immutable), hashes=False)
        missing += check_files(waiting, replace(manifest, files=rewritten), hashes=False)
        if missing:
            raise CorruptData(
                f"revision {revision} is incomplete: {missing[0]}; run the command again"
            )
        files = {entry.path: (waiting / entry.path).read_bytes() for entry in rewritten}
        files |= {MANIFEST: data, WORLD: render_world_usda(manifest)}
        write_revision(folder, files, revision=revision)
    shutil.rmtree(waiting)


def _is_news(folder: Path, manifest: Manifest) -> bool:
    """Whether a revision comes after what the folder holds; jobs are followed from their start."""
    _refuse_other_world(folder, manifest.world_id)
    if not (folder / MANIFEST).is_file():
        return True
    current = open_world(folder)
    if len(manifest.parents) != len(current.parents):
        # Every extension and every revert adds a parent, so the longer line is the younger.
        return len(manifest.parents) > len(current.parents)
    here = {entry.path for entry in current.files}
    made = {entry.path for entry in manifest.files if entry.kind in IMMUTABLE_KINDS}
    return manifest.chunks > current.chunks or not made <= here


def _refuse_other_world(folder: Path, world_id: str) -> None:
    if (folder / MANIFEST).is_file() and (found := open_world(folder).world_id) != world_id:
        raise InvalidRequest(
            f"{folder} holds world {found[:12]}, which another request made; this one makes world "
            f"{world_id[:12]}. Choose another folder, or move the old world away",
            field="out",
        )


def _reuse(ref: ArtifactRef, kept: Path, waiting: Path) -> None:
    """Take a file of an earlier run of the same command instead of fetching it again."""
    if is_whole(ref, kept) and not waiting.exists():
        waiting.parent.mkdir(parents=True, exist_ok=True)
        os.link(kept, waiting)


def _check_path(ref: ArtifactRef) -> None:
    """Refuse a server that wants to write outside the world folder, or among our own records."""
    parts = ref.path.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or parts[0].startswith(".")
    if bad or "\\" in ref.path or "\0" in ref.path:
        raise CorruptData(f"the server sent a file for {ref.path[:80]!r}, outside the world")
