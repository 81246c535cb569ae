"""The worker process: jobs, one after the other, from stdin to events on its old stdout.

It reaches the generator only by the target string of a specification. Events are JSON lines with
the number of their job; artifacts are hashed and linked into the blob store here, so that the
front only journals them. A resumed job tells again of the files that its earlier runs made; the
journal knows them by content. A line `cancel N` on stdin asks job N to stop at its next frame; the
end of stdin means that the front is gone, and ends the worker at once.

What the engine loaded stays for the next job; everything else that a job changed is undone. After
a failure the process ends: nobody knows what state it is in.
"""

from __future__ import annotations

import base64
import ctypes
import fcntl
import importlib
import io
import json
import os
import queue
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
from worldloom.bridge.pack_child import pack_layer
from worldloom.bridge.workplace import Workplace
from worldloom.scene.errors import EngineFailed, InvalidRequest, JobCancelled, WorldloomError
from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest

HEARTBEAT_S = 2.0
READ_BYTES = 1 << 16
PROGRESS_EVERY_S = 0.25  # At most 4 progress events a second (spec bridge 8.2).
PR_SET_PDEATHSIG = 1  # From <linux/prctl.h>.
HARMLESS = (InvalidRequest, JobCancelled)
"""Errors that say nothing against the process: the next job may have it."""
PASSING = {
    "MemoryError": "it ran out of memory; use quality draft",
    "OutOfMemoryError": "the GPU ran out of memory; use quality draft",
    "AcceleratorError": "the GPU failed",
}
"""Errors that another process may not meet, by name, since this one does not know torch's."""


Send = Callable[[dict[str, Any]], None]


class _Front:
    """The process that started this one: jobs come from it, events go to it."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._cancelled = 0
        self._busy = False
        self._alive_at = time.monotonic()

    def send(self, body: dict[str, Any]) -> None:
        """Write one line, from any thread."""
        with self._lock:
            self._out.write(json.dumps(body) + "\n")
            self._out.flush()

    def next_job(self) -> dict[str, Any]:
        """Wait for a specification."""
        self._busy = False
        specification = self._jobs.get()
        self.alive()
        self._busy = True
        return specification

    def cancelled(self, run: int) -> bool:
        """Whether a job shall stop; that it asks shows that it is not stuck."""
        self.alive()
        return self._cancelled == run

    def alive(self) -> None:
        """Note that the job gets on."""
        self._alive_at = time.monotonic()

    def listen(self, lines: Iterator[bytes]) -> None:
        """Take jobs and `cancel`; end this process, and what it started, when the front is gone."""
        for line in lines:
            if line.startswith(b"cancel "):
                self._cancelled = int(line.split()[1])
            else:
                self._jobs.put(json.loads(line))
        if os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    def beat(self) -> None:
        """Say every two seconds that this process lives, and since when the job is silent."""
        while True:
            time.sleep(HEARTBEAT_S)
            idle_s = time.monotonic() - self._alive_at if self._busy else 0.0
            self.send({"type": "heartbeat", "idle_s": idle_s})


def main() -> int:
    """Run the jobs on stdin; 0 also when the last one failed in an orderly way."""
    _end_with_parent()
    front = _Front(_private_stdout())
    lines = _lines()
    front.send({"type": "hello"})
    first = next(lines, None)
    if first is None:
        return 0
    specification = json.loads(first)
    if "describe" in specification:
        front.send({"type": "description", "presets": _load(specification["describe"])()})
        return 0
    if "pack" in specification:
        front.send(pack_layer(_load(specification["pack"]), specification))
        return 0
    threading.Thread(target=front.listen, args=(_chain(first, lines),), daemon=True).start()
    threading.Thread(target=front.beat, daemon=True).start()
    workplace = Workplace.now()
    fit = True
    while fit:
        specification = front.next_job()
        fit = _serve(specification, front)
        if left := workplace.restore():
            sys.stderr.write(f"this process is not used again: {left}\n")
            sys.stderr.flush()
            os._exit(0)  # An orderly end would wait for what is left.
        if fit:
            front.send({"type": "ready", "run": specification["run"]})
    return 0


def _serve(specification: dict[str, Any], front: _Front) -> bool:
    """Run one job; whether the process is as good as before."""
    run = specification["run"]

    def send(body: dict[str, Any]) -> None:
        # A thread that outlives its job keeps that job's number, and nobody listens to it.
        front.send({**body, "run": run})

    send({"type": "taken"})
    try:
        with _alone(Path(specification["work"])):
            manifest = _run(specification, front, send)
        send({"type": "done", "world_id": getattr(manifest, "world_id", "")})
    except HARMLESS as error:
        send(_last_word(error))
    except Exception as error:  # noqa: BLE001 - the last line of defence reports what happened
        send(_last_word(error))
        return False
    return True


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Wait until no other worker writes to this work folder, and keep others out.

    A worker may outlive the server that started it by a moment.
    """
    with (work.parent / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _last_word(error: Exception) -> dict[str, Any]:
    """What the front hears of a failure; a lack of memory counts as a lost worker: it may pass."""
    if why := _passing(error):
        _print_error(error)
        return {"type": "lost", "text": why}
    if isinstance(error, WorldloomError):
        return {"type": "error", "code": error.code, "text": str(error), "field": error.field}
    _print_error(error)
    text = f"the engine failed: {type(error).__name__}: {error}"
    text += ". worker.log in the server's store has the details"
    return {"type": "error", "code": EngineFailed.code, "text": text, "field": None}


def _passing(error: BaseException | None) -> str:
    """Why an error, or one that it was raised from, may not come again in another process."""
    while error is not None:
        for kind in type(error).__mro__:
            if kind.__name__ in PASSING:
                return PASSING[kind.__name__]
        error = error.__cause__
    return ""


def _print_error(error: Exception) -> None:
    import traceback

    traceback.print_exception(error)


def _run(specification: dict[str, Any], front: _Front, send: Send) -> Any:
    request = WorldRequest.from_bytes(specification["request"].encode())
    blobs = Blobs(Path(specification["store"]) / "blobs", Limits())
    make_world = _load(specification["target"])
    options = {} if specification["kind"] == "generate" else {"kind": specification["kind"]}
    return make_world(
        request,
        inputs={role: Path(path) for role, path in specification["inputs"].items()},
        work=Path(specification["work"]),
        resume=bool(specification["resume"]),
        emit=_emitter(front, send, blobs),
        cancelled=lambda: front.cancelled(specification["run"]),
        **options,
    )


def _emitter(front: _Front, send: Send, blobs: Blobs) -> Callable[[object], None]:
    last: dict[str, float] = {}

    def emit(event: object) -> None:
        front.alive()
        if isinstance(event, Progress):
            now = time.monotonic()
            finished = event.done >= event.total
            if now - last.get(event.stage, -1.0) < PROGRESS_EVERY_S and not finished:
                return
            last[event.stage] = now
            send({"type": "progress", **asdict(event)})
        elif isinstance(event, Artifact):
            digest, size = blobs.adopt(event.file)
            send(
                {
                    "type": "artifact", "chunk": event.chunk, "kind": event.kind,
                    "path": event.path_in_world, "sha256": digest, "bytes": size,
                    "supersedes": event.supersedes or "",
                }
            )  # fmt: skip
        elif isinstance(event, Log):
            send({"type": "log", **asdict(event)})
        elif isinstance(event, Preview):
            jpeg = base64.b64encode(event.jpeg).decode()
            send({"type": "preview", "frame": event.frame, "jpeg": jpeg})
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


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _end_with_parent() -> None:
    """Have the kernel kill this process with its parent.

    The end of stdin does the same, but compiled code that holds the interpreter would not see it.
    """
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Chatter(io.FileIO):
    """What libraries print: a log that is full or gone stops no job."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _private_stdout() -> TextIO:
    """Keep stdout for events alone: whatever a library prints goes to the log on stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    raw = _Chatter(2, "w", closefd=False)
    chatter = io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)
    sys.stdout = sys.stderr = chatter
    return private


if __name__ == "__main__":
    sys.exit(main())
