"""A look at a world over a slow link: its splats as compressed PLY, a third of the bytes.

Lossy, and no world: no collider, no layers, nothing that a robot could use. `follow` brings those.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, JobInfo
from worldloom.bridge.worldcache import MANIFEST_BYTES
from worldloom.scene.errors import CorruptData, NotFound
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfolder import write_whole

FOLDER = "look"
INDEX = "look.json"
SCHEMA = "worldloom.look/1"


@dataclass(frozen=True)
class Look:
    """What came."""

    folder: Path
    files: tuple[Path, ...]
    splats: int
    bytes: int
    """Size of the files together."""
    exact_bytes: int
    """Size of the layers that they stand for."""


def fetch_look(
    client: WorldsClient,
    job: JobInfo,
    folder: Path,
    *,
    on_file: Callable[[int, int], None] | None = None,
) -> Look:
    """Bring the splats that a job's world has now into `folder`/look, packed.

    Each file there is named after its layer; `look.json` says which is which, and where a chunk
    was moved (`move`, a similarity that the viewer has to apply).

    Args:
        client: The connection.
        job: Whose world.
        folder: The world folder, or any other.
        on_file: Told how many of how many files are there.

    Raises:
        NotFound: The job has made no revision so far.
        InvalidRequest: The server cannot pack.
        ServerUnreachable: The server went away; what came is kept.
    """
    target = folder / FOLDER
    manifest = _newest_manifest(client, job, target)
    entries = manifest.live("splats")
    files = []
    for number, entry in enumerate(entries, 1):
        ref = ArtifactRef(entry.chunk or 0, entry.kind, entry.path, entry.sha256, entry.bytes)
        file = target / f"{entry.sha256}.compressed.ply"
        files.append(client.fetch_packed(ref, file))
        if on_file is not None:
            on_file(number, len(entries))
    write_whole(target / INDEX, _index(manifest, entries))
    return Look(
        target, tuple(files), sum(e.count for e in entries),
        sum(file.stat().st_size for file in files), sum(e.bytes for e in entries),
    )  # fmt: skip


def _newest_manifest(client: WorldsClient, job: JobInfo, target: Path) -> Manifest:
    """The manifest of the newest revision that a job has told of."""
    newest, last = None, client.job(job.name).last_seq
    for event in client.watch(job.name):
        if isinstance(event, ArtifactRef) and event.kind == "manifest":
            newest = event
        if getattr(event, "seq", 0) >= last:
            break
    if newest is None:
        raise NotFound(f"job {job.name} has made nothing so far; try again later")
    if newest.bytes > MANIFEST_BYTES:
        raise CorruptData(f"the server sent a manifest of {newest.bytes} bytes")
    file = client.fetch(newest, target / "manifest.part.json")
    manifest = Manifest.from_bytes(file.read_bytes())
    file.unlink()
    return manifest


def _index(manifest: Manifest, entries: list[FileEntry]) -> bytes:
    files = [
        {
            "file": f"{e.sha256}.compressed.ply", "layer": e.path, "chunk": e.chunk,
            "tile": e.tile, "splats": e.count, "move": e.move,
        }
        for e in entries
    ]  # fmt: skip
    told = {
        "schema": SCHEMA, "world_id": manifest.world_id, "chunks": manifest.chunks, "lossy": True,
        "notices": list(manifest.notices), "files": files,
    }  # fmt: skip
    return json.dumps(told, indent=1).encode() + b"\n"
