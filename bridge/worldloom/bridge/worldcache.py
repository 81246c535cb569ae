"""A job's artifacts -> a world folder on this side, revision by revision.

Immutable files are placed as they come. The files of a revision wait in `.incoming` until its
manifest arrives, which is the last of them; then the revision becomes current at once. A folder
that was left half-way is completed by following the same job again.

The server is not trusted: its files go to the places that a world has and to no other, its layers
are vetted where OpenUSD is at hand, and the root of the world is written here.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, Happening, JobInfo, ServerInfo, StateChange
from worldloom.bridge.status import rebuild_error
from worldloom.bridge.transfer import is_whole
from worldloom.scene.errors import CorruptData, EngineFailed, InvalidRequest, WorldloomError
from worldloom.scene.limits import MIB
from worldloom.scene.manifest import IMMUTABLE_KINDS, Manifest
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
NAMED = re.compile(r"(?P<kind>[a-z_]+)/(?P<sha256>[0-9a-f]{64})\.(?:usdc|usda|mp4)")
"""Places of immutable files."""
REWRITTEN = re.compile(r"(?:[a-z0-9_]+/)?[a-z0-9_]+\.(?:json|npz|npy|usda|ply|spz|glb|vdb)")
"""Places of files that each revision writes anew."""
LAYERS = (".usda", ".usdc")
PASSING_KINDS = ("preview_splats",)
"""Artifacts that are worth a look while a world grows, and are no part of it."""
MANIFEST_BYTES = 64 * MIB
MOST_FILES = 100_000
"""Most files of one job; the longest path has 100 chunks of some dozen files."""
Vet = Callable[[Path], list[str]]
"""A layer file -> what in it is not plain geometry, one line each."""
FRESH_KINDS = ("seed", "generate")
"""Jobs whose request is the first one of their world, so that its hash is the world's id."""


def follow(
    client: WorldsClient,
    job: JobInfo,
    folder: Path,
    *,
    on_event: Callable[[Happening], None] | None = None,
    so_far: bool = False,
) -> Manifest:
    """Bring the world of a job into `folder` while it is made; its last manifest.

    Args:
        client: The connection.
        job: Whose world.
        folder: The world folder.
        on_event: Told of everything that happens, files after they are there.
        so_far: Bring what the world has now, and do not wait for the rest.

    Raises:
        NotFound: The job has made nothing so far.
        WorldloomError: The job's own error when it fails or is cancelled; what came is kept.
        InvalidRequest: The folder holds another world.
        CorruptData: The server sends what no world holds; that is not kept.
        ServerUnreachable: The server went away; what came is kept.
        StorageFull: No space is left; what came is kept.
    """
    info, vet, files = client.server_info(), layer_vet(), 0
    until = client.job(job.name).last_seq if so_far else None
    if job.kind in FRESH_KINDS:
        _refuse_other_world(folder, job.request_hash)
    for event in client.watch(job.name):
        if isinstance(event, ArtifactRef):
            files += 1
            if files > MOST_FILES:
                raise CorruptData(
                    f"the server sends more than {MOST_FILES} files for one job; no world has that"
                )
            take(client, event, folder, info=info, vet=vet)
        if on_event is not None:
            on_event(event)
        if until is not None and getattr(event, "seq", 0) >= until:
            break
        if isinstance(event, StateChange) and event.state in ("failed", "cancelled"):
            raise job_error(job.name, event)
    if until is None:
        shutil.rmtree(folder / INCOMING, ignore_errors=True)
    return open_world(folder)


def layer_vet() -> Vet | None:
    """The check of layers, where OpenUSD is at hand; whoever opens them without it checks too."""
    if importlib.util.find_spec("pxr") is None:
        return None
    from worldloom.scene.trust import vet_layer_file

    return vet_layer_file


def job_error(name: str, end: StateChange) -> WorldloomError:
    """The error that a job ended with, as its own class."""
    text = end.error_text or f"job {name} is {end.state}"
    return rebuild_error(end.error_code or EngineFailed.code, text, field=end.error_field or None)


def take(
    client: WorldsClient,
    ref: ArtifactRef,
    folder: Path,
    *,
    info: ServerInfo | None = None,
    vet: Vet | None = None,
) -> None:
    """Fetch one artifact and put it where it belongs.

    Args:
        client: The connection.
        ref: Which artifact.
        folder: The world folder.
        info: The server, to link instead of copying where it is on this host.
        vet: Check of layer files; None checks none.

    Raises:
        CorruptData: It does not belong into a world, or a manifest names files that did not come.
    """
    _check_path(ref.path)
    if ref.kind in PASSING_KINDS:
        return
    waiting = folder / INCOMING / f"{ref.chunk:04d}"
    if ref.kind == "manifest":
        _check_size(ref)
        client.fetch(ref, waiting / MANIFEST)
        complete_revision(folder, waiting, ref.chunk)
        return
    _check_place(ref.kind, ref.path, ref.sha256)
    if ref.kind == "run":
        client.fetch(ref, folder / ref.path)
    elif NAMED.fullmatch(ref.path):
        _vetted(client.fetch(ref, folder / ref.path, info=info), ref, vet)
    else:
        file = waiting / ref.path
        _reuse(ref, folder / REVISIONS / f"{ref.chunk:04d}" / ref.path, file)
        _vetted(client.fetch(ref, file), ref, vet)


def complete_revision(folder: Path, waiting: Path, revision: int) -> None:
    """Make the files in `waiting` the current revision of the world.

    Raises:
        CorruptData: Files that the manifest names are missing, or do not belong into a world.
        InvalidRequest: The folder holds another world.
    """
    data = (waiting / MANIFEST).read_bytes()
    try:
        manifest = Manifest.from_bytes(data)
    except RecursionError as error:
        raise CorruptData("manifest.json is nested too deeply; no world has that") from error
    for entry in manifest.files:
        _check_place(entry.kind, entry.path, entry.sha256)
    if _is_news(folder, manifest):
        immutable = tuple(e for e in manifest.files if NAMED.fullmatch(e.path))
        rewritten = tuple(e for e in manifest.files if not NAMED.fullmatch(e.path))
        missing = check_files(folder, replace(manifest, files=immutable), hashes=False)
        missing += check_files(waiting, replace(manifest, files=rewritten), hashes=False)
        if missing:
            raise CorruptData(
                f"revision {revision} is incomplete: {missing[0]}; run the command again"
            )
        files: dict[str, bytes | Path] = {e.path: waiting / e.path for e in rewritten}
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


def _check_path(path: str) -> None:
    """Refuse a server that wants to write outside the world folder, or among our own records."""
    parts = path.split("/")
    bad = any(part in ("", ".", "..") for part in parts) or parts[0].startswith(".")
    if bad or "\\" in path or "\0" in path:
        raise CorruptData(f"the server sent a file for {path[:80]!r}, outside the world")


def _check_place(kind: str, path: str, sha256: str) -> None:
    """Refuse a file where no file of its kind lies: above all, a root that is not ours."""
    named = NAMED.fullmatch(path)
    if named is not None:
        right = named["sha256"] == sha256
    else:
        right = kind not in IMMUTABLE_KINDS and REWRITTEN.fullmatch(path) is not None
    if not right or path in (MANIFEST, WORLD) or (kind == "run") != (path == "run.json"):
        raise CorruptData(
            f"the server sent a file of kind {kind[:40]!r} for {path[:100]!r}; none lies there in "
            "a world"
        )


def _check_size(ref: ArtifactRef) -> None:
    if ref.bytes > MANIFEST_BYTES:
        raise CorruptData(
            f"the server sent a manifest of {ref.bytes} bytes; {MANIFEST_BYTES} are possible"
        )


def _vetted(file: Path, ref: ArtifactRef, vet: Vet | None) -> None:
    """Throw a layer away that holds more than geometry."""
    if vet is None or file.suffix not in LAYERS:
        return
    try:
        problems = vet(file)
    except CorruptData:
        file.unlink()
        raise
    if problems:
        file.unlink()
        raise CorruptData(
            f"{ref.path} holds more than geometry ({problems[0]}); it was thrown away. The server "
            "is not to be trusted"
        )
