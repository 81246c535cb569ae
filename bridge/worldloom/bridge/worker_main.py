"""The worker process: one job, from its specification on stdin to events on its old stdout.

It reaches the generator only by the target string of the specification. Events are JSON lines;
artifacts are hashed and linked into the blob store here, so that the front only journals them.
A resumed job tells again of the files that its earlier runs made; the journal knows them by
content. A line `cancel` on stdin asks the job to stop at its next frame; the end of stdin means
that the front is gone, and ends the worker at once.
"""

from __future__ import annotations

import base64
import fcntl
import importlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from worldloom.bridge.blobs import Blobs
from worldloom.scene.errors import EngineFailed, WorldloomError
from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest

HEARTBEAT_S = 2.0
READ_BYTES = 1 << 16
PROGRESS_EVERY_S = 0.25  # At most 4 progress events a second (spec bridge 8.2).


class _Front:
    """The process that started this one: events go to it, and it may ask the job to stop."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._alive_at = time.monotonic()

    def send(self, body: dict[str, Any]) -> None:
        """Write one event, from any thread."""
        with self._lock:
            self._out.write(json.dumps(body) + "\n")
            self._out.flush()

    def cancelled(self) -> bool:
        """Whether the job shall stop; that it asks shows that it is not stuck."""
        self.alive()
        return self._stop.is_set()

    def alive(self) -> None:
        """Note that the job gets on."""
        self._alive_at = time.monotonic()

    def listen(self, lines: Iterator[bytes]) -> None:
        """Wait for `cancel`; end this process, and what it started, when the front is gone."""
        for line in lines:
            if line == b"cancel":
                self._stop.set()
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def beat(self) -> None:
        """Say every two seconds that this process lives, and since when the job is silent."""
        while True:
            time.sleep(HEARTBEAT_S)
            self.send({"type": "heartbeat", "idle_s": time.monotonic() - self._alive_at})


def main() -> int:
    """Run the job on stdin; 0 also when it failed in an orderly way."""
    front = _Front(_private_stdout())
    lines = _lines()
    specification = json.loads(next(lines))
    if "describe" in specification:
        front.send({"type": "description", "presets": _load(specification["describe"])()})
        return 0
    threading.Thread(target=front.listen, args=(lines,), daemon=True).start()
    threading.Thread(target=front.beat, daemon=True).start()
    try:
        with _alone(Path(specification["work"])):
            manifest = _run(specification, front)
        front.send({"type": "done", "world_id": getattr(manifest, "world_id", "")})
    except Exception as error:  # noqa: BLE001 - the last line of defence reports what happened
        front.send(_last_word(error))
    return 0


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Wait until no other worker writes to this work folder, and keep others out.

    A worker may outlive the server that started it by a moment.
    """
    with (work.parent / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _last_word(error: Exception) -> dict[str, Any]:
    """What the front hears of a failure; out of memory counts as a lost worker: it may pass."""
    if isinstance(error, WorldloomError):
        return {"type": "error", "code": error.code, "text": str(error), "field": error.field}
    import traceback

    traceback.print_exception(error)
    # torch's CUDA error has this name; the worker does not know torch.
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return {"type": "lost", "text": "it ran out of memory; use quality draft"}
    text = f"the engine failed: {type(error).__name__}: {error}"
    text += ". worker.log in the server's store has the details"
    return {"type": "error", "code": EngineFailed.code, "text": text, "field": None}


def _run(specification: dict[str, Any], front: _Front) -> Any:
    request = WorldRequest.from_bytes(specification["request"].encode())
    blobs = Blobs(Path(specification["store"]) / "blobs", Limits())
    make_world = _load(specification["target"])
    options = {} if specification["kind"] == "generate" else {"kind": specification["kind"]}
    return make_world(
        request,
        inputs={role: Path(path) for role, path in specification["inputs"].items()},
        work=Path(specification["work"]),
        resume=bool(specification["resume"]),
        emit=_emitter(front, blobs),
        cancelled=front.cancelled,
        **options,
    )


def _emitter(front: _Front, blobs: Blobs) -> Callable[[object], None]:
    last: dict[str, float] = {}

    def emit(event: object) -> None:
        front.alive()
        if isinstance(event, Progress):
            now = time.monotonic()
            finished = event.done >= event.total
            if now - last.get(event.stage, -1.0) < PROGRESS_EVERY_S and not finished:
                return
            last[event.stage] = now
            front.send({"type": "progress", **asdict(event)})
        elif isinstance(event, Artifact):
            digest, size = blobs.adopt(event.file)
            front.send(
                {
                    "type": "artifact", "chunk": event.chunk, "kind": event.kind,
                    "path": event.path_in_world, "sha256": digest, "bytes": size,
                    "supersedes": event.supersedes or "",
                }
            )  # fmt: skip
        elif isinstance(event, Log):
            front.send({"type": "log", **asdict(event)})
        elif isinstance(event, Preview):
            jpeg = base64.b64encode(event.jpeg).decode()
            front.send({"type": "preview", "frame": event.frame, "jpeg": jpeg})
        else:
            raise EngineFailed(f"the engine emitted a {type(event).__name__}, which is no event")

    return emit


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _lines() -> Iterator[bytes]:
    """Lines of stdin. Not sys.stdin: a thread that waits in it would block the end of Python."""
    rest = b""
    while block := os.read(0, READ_BYTES):
        *lines, rest = (rest + block).split(b"\n")
        yield from lines


def _private_stdout() -> TextIO:
    """Keep stdout for events alone: whatever a library prints goes to the log on stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


if __name__ == "__main__":
    sys.exit(main())
