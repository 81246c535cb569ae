"""A toy generator for the bridge's tests: deterministic files, and faults on request.

The prompt of frame 0 is a JSON object of faults: die_at, hang_at, fail_at (chunk numbers) and
slow (seconds a chunk). `die_once` makes `die_at` happen only in the first run.
"""

import hashlib
import json
import os
import signal
import time

from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.worldfolder import write_revision, write_whole


def describe():
    return [{"name": "toy"}, {"name": "preview"}]


def make_world(request, *, inputs, work, resume, emit, cancelled, kind="generate"):
    faults = json.loads(request.prompts.get(0) or "{}")
    chunks = (request.path.frames - 1) // 80
    done = sorted(work.glob("done-*")) if resume else []
    emit(Log("info", f"inputs: {sorted(inputs)}; {len(done)} chunks are there already"))
    entries = []
    for chunk in range(1, chunks + 1):
        data = hashlib.sha256(request.canonical() + bytes([chunk])).digest() * 4096
        digest = hashlib.sha256(data).hexdigest()
        path = f"splats/{digest}.usdc"
        entries.append(FileEntry(path, digest, len(data), "splats", chunk, 0, 1))
        if (work / f"done-{chunk}").exists():
            continue
        end = time.monotonic() + faults.get("slow", 0)
        while time.monotonic() < end:
            if cancelled():
                raise JobCancelled("cancelled in the toy")
            time.sleep(0.01)
        if faults.get("die_at") == chunk:
            mark = work / "died"
            if not (faults.get("die_once") and mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if faults.get("fail_at") == chunk:
            raise EngineFailed("the toy fails as it was told; value 1, limit 0, ask it not to")
        print("libraries chatter on stdout")
        file = work / "world" / path
        write_whole(file, data)
        emit(Progress("generate", 80 * chunk, 80 * chunks, "frames", 1.0))
        emit(Preview(chunk, b"jpeg"))
        emit(Artifact(chunk, "splats", path, file))
        manifest = Manifest(request.hash(), request.to_json(), {"preset": "toy", "weights": []}, {},
                            chunk, 1 + 80 * chunk, tuple(entries), complete=chunk == chunks)
        write_revision(work / "world", {"manifest.json": manifest.to_bytes()}, revision=chunk)
        kept = work / "world" / ".revisions" / f"{chunk:04d}" / "manifest.json"
        emit(Artifact(chunk, "manifest", "manifest.json", kept))
        write_whole(work / f"done-{chunk}", b"")
    return manifest
