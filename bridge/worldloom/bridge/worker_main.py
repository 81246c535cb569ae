"""The worker process: one job, from its specification on stdin to events on its old stdout.

It reaches the generator only by the target string of the specification. Events are JSON lines;
artifacts are hashed and linked into the blob store here, so that the front only journals them.
A line `cancel` on stdin, or its end, asks the job to stop at its next frame.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from worldloom.bridge.blobs import Blobs
from worldloom.scene.errors import EngineFailed, WorldloomError
from worldloom.scene.events import Artifact, Log, Preview, Progress
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest

HEARTBEAT_S = 2.0
PROGRESS_EVERY_S = 0.25  # At most 4 progress events a second (spec bridge 8.2).


class _Line:
    """Writes events, one JSON object a line, from any thread."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lock = threading.Lock()

    def send(self, body: dict[str, Any]) -> None:
        with self._lock:
            self._out.write(json.dumps(body) + "\n")
            self._out.flush()


def main() -> int:
    """Run the job on stdin; 0 also when it failed in an orderly way."""
    line = _Line(_private_stdout())
    specification = json.loads(sys.stdin.readline())
    if "describe" in specification:
        line.send({"type": "description", "presets": _load(specification["describe"])()})
        return 0
    stop = threading.Event()
    threading.Thread(target=_listen, args=(stop,), daemon=True).start()
    threading.Thread(target=_beat, args=(line,), daemon=True).start()
    try:
        manifest = _run(specification, line, stop.is_set)
        line.send({"type": "done", "world_id": getattr(manifest, "world_id", "")})
    except WorldloomError as error:
        line.send({"type": "error", "code": error.code, "text": str(error), "field": error.field})
    except MemoryError:
        line.send(_failure("the engine ran out of memory; use quality draft or a smaller photo"))
    except Exception as error:  # noqa: BLE001 - the last line of defence reports what happened
        import traceback

        traceback.print_exc()
        text = f"the engine failed: {type(error).__name__}: {error}"
        line.send(_failure(f"{text}. The server's log has the details"))
    return 0


def _run(specification: dict[str, Any], line: _Line, cancelled: Callable[[], bool]) -> Any:
    request = WorldRequest.from_bytes(specification["request"].encode())
    blobs = Blobs(Path(specification["store"]) / "blobs", Limits())
    make_world = _load(specification["target"])
    options = {} if specification["kind"] == "generate" else {"kind": specification["kind"]}
    return make_world(
        request,
        inputs={role: Path(path) for role, path in specification["inputs"].items()},
        work=Path(specification["work"]),
        resume=bool(specification["resume"]),
        emit=_emitter(line, blobs),
        cancelled=cancelled,
        **options,
    )


def _emitter(line: _Line, blobs: Blobs) -> Callable[[object], None]:
    last: dict[str, float] = {}

    def emit(event: object) -> None:
        if isinstance(event, Progress):
            now = time.monotonic()
            finished = event.done >= event.total
            if now - last.get(event.stage, -1.0) < PROGRESS_EVERY_S and not finished:
                return
            last[event.stage] = now
            line.send({"type": "progress", **asdict(event)})
        elif isinstance(event, Artifact):
            digest, size = blobs.adopt(event.file)
            line.send(
                {
                    "type": "artifact", "chunk": event.chunk, "kind": event.kind,
                    "path": event.path_in_world, "sha256": digest, "bytes": size,
                    "supersedes": event.supersedes or "",
                }
            )  # fmt: skip
        elif isinstance(event, Log):
            line.send({"type": "log", **asdict(event)})
        elif isinstance(event, Preview):
            jpeg = base64.b64encode(event.jpeg).decode()
            line.send({"type": "preview", "frame": event.frame, "jpeg": jpeg})
        else:
            raise EngineFailed(f"the engine emitted a {type(event).__name__}, which is no event")

    return emit


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def _private_stdout() -> TextIO:
    """Keep stdout for events alone: whatever a library prints goes to the log on stderr."""
    private = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return private


def _listen(stop: threading.Event) -> None:
    # Both a `cancel` line and the end of stdin (the front is gone) stop the job.
    sys.stdin.readline()
    stop.set()


def _beat(line: _Line) -> None:
    while True:
        time.sleep(HEARTBEAT_S)
        line.send({"type": "heartbeat"})


def _failure(text: str) -> dict[str, Any]:
    return {"type": "error", "code": EngineFailed.code, "text": text, "field": None}


if __name__ == "__main__":
    sys.exit(main())
