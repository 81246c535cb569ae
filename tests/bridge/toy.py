"""A toy generator for the bridge's tests: deterministic files, and faults on request.

The prompt of frame 0 is a JSON object of faults: die_at, die_once, hang_at, hang_once, fail_at,
break_at, out_of_memory_at (chunk numbers), slow (seconds a chunk), deaf (never looks whether it is
cancelled). Its first log line tells its process id, so that a test can kill it.
"""

import hashlib
import json
import os
import signal
import sys
import time

from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfolder import open_world, write_revision, write_whole


def describe():
    return [{"name": "toy", "licences": {"toy weights": "MIT"}}, {"name": "preview"}]


def make_world(request, *, inputs, work, resume, emit, cancelled, kind="generate"):
    faults = json.loads(request.prompts.get(0) or "{}")
    chunks = (request.path.frames - 1) // 80
    emit(Log("info", f"pid {os.getpid()} kind {kind} inputs {','.join(sorted(inputs))}"))
    world_id, parents = request.hash(), ()
    if "parent" in inputs:
        parent = open_world(inputs["parent"] / "world")
        world_id, parents = parent.world_id, (*parent.parents, request.hash())
    entries = []
    for chunk in range(1, chunks + 1):
        data = splat_layer(request, chunk)
        digest = hashlib.sha256(data).hexdigest()
        path = f"splats/{digest}.usda"
        entries.append(FileEntry(path, digest, len(data), "splats", chunk, 0, 1))
        file = work / "world" / path
        depth = hashlib.sha256(data).digest() * 1000
        rewritten = FileEntry(
            "depth/keyframes.npz", hashlib.sha256(depth).hexdigest(), len(depth), "depth", chunk
        )
        kept = work / "world" / ".revisions" / f"{chunk:04d}"
        manifest = Manifest(
            world_id, request.to_json(), {"preset": "toy", "weights": []}, {}, chunk,
            1 + 80 * chunk, (*entries, rewritten), parents=parents, complete=chunk == chunks,
        )  # fmt: skip
        if not (resume and (work / f"done-{chunk}").exists()):
            misbehave(faults, chunk, work, cancelled)
            for at, name in faults.get("mischief", []):
                if at == chunk and first_time(faults.get("once"), work):
                    import mischief

                    mischief.play(name, emit)
            sys.stdout.write("libraries chatter on stdout\n")
            write_whole(file, data)
            emit(Progress("generate", 80 * chunk, 80 * chunks, "frames", 1.0))
            emit(Preview(chunk, b"jpeg"))
            files = {"depth/keyframes.npz": depth, "manifest.json": manifest.to_bytes()}
            write_revision(work / "world", files, revision=chunk)
        # What an earlier run made is told again: this run may have another watcher.
        emit(Artifact(chunk, "splats", path, file))
        emit(Artifact(chunk, "depth", "depth/keyframes.npz", kept / "depth/keyframes.npz"))
        emit(Artifact(chunk, "manifest", "manifest.json", kept / "manifest.json"))
        write_whole(work / f"done-{chunk}", b"")
    return manifest


def splat_layer(request, chunk):
    """The bytes depend on the request and the chunk alone, as those of a real engine do.

    They are a layer of USD that holds nothing but a comment.
    """
    mark = hashlib.sha256(request.canonical() + bytes([chunk])).hexdigest()
    return b"#usda 1.0\n# " + mark.encode() * 20_000 + b"\n"


def misbehave(faults, chunk, work, cancelled):
    end = time.monotonic() + faults.get("slow", 0)
    while time.monotonic() < end:
        if not faults.get("deaf") and cancelled():
            raise JobCancelled(f"cancelled in chunk {chunk} of the toy; finished chunks are kept")
        time.sleep(0.01)
    if faults.get("die_at") == chunk and first_time(faults.get("die_once"), work):
        os.kill(os.getpid(), signal.SIGKILL)
    if faults.get("hang_at") == chunk and first_time(faults.get("hang_once"), work):
        time.sleep(3600)
    if faults.get("fail_at") == chunk:
        raise EngineFailed("the toy fails as it was told; value 1, limit 0, ask it not to")
    if faults.get("break_at") == chunk:
        raise ZeroDivisionError("a mistake in the engine")
    if faults.get("out_of_memory_at") == chunk:
        raise MemoryError


def first_time(once, work):
    """Whether a fault shall happen: always, or only in the first run."""
    mark = work / "misbehaved"
    again = mark.exists()
    mark.touch()
    return not (once and again)
