"""Jobs -> worker processes: one spawned process a job, watched by its pipe and its heartbeat."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

LOGGER = logging.getLogger(__name__)

SILENCE_S = 120.0
"""A worker that is silent this long is hung: not even its heartbeat thread runs [s]."""
STOP_S = 15.0  # Time that a cancelled worker gets before SIGTERM, and again before SIGKILL [s].
LINE_LIMIT = 4 << 20  # Longest event line; a preview is far below [bytes].
MAKE_WORLD = "worldloom.generator.pipeline:make_world"
DESCRIBE = "worldloom.generator.engines:describe"
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH",
                    "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "VIRTUAL_ENV", "NUMBA_CACHE_DIR",
                    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")  # fmt: skip


@dataclass(frozen=True)
class Specification:
    """What a worker needs to know of its job."""

    target: str
    """`module:function` of make_world."""
    request: str
    """Canonical request JSON."""
    kind: str
    inputs: dict[str, str]
    """Path of each input by role."""
    work: str
    store: str
    resume: bool

    def line(self) -> bytes:
        """The specification as the worker's first line of input."""
        return json.dumps(self.__dict__).encode() + b"\n"


class Worker(Protocol):
    """Something that runs one job and tells what happens; local, or on another machine."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Event dictionaries until the worker ends; `lost` when it ended without a word."""
        ...

    async def stop(self) -> None:
        """Ask it to stop at its next checkpoint, and make sure that it does."""
        ...


class LocalWorker:
    """A worker process on this machine."""

    def __init__(self, specification: Specification, log: Path) -> None:
        self._specification = specification
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Start the process and yield what it says."""
        process = await self._start()
        process.stdin.write(self._specification.line())
        await process.stdin.drain()
        if self._stopping:
            await self.stop()
        ended = False
        while True:
            body = await self._next(process)
            if body is None:
                break
            ended = ended or body["type"] in ("done", "error")
            if body["type"] != "heartbeat":
                yield body
        code = await process.wait()
        if not ended:
            yield {"type": "lost", "text": _death(code)}

    async def stop(self) -> None:
        """Ask the process to stop; SIGTERM and SIGKILL if it does not."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        if not process.stdin.is_closing():
            process.stdin.write(b"cancel\n")
            process.stdin.close()
        for insist in (process.terminate, process.kill):
            try:
                await asyncio.wait_for(asyncio.shield(process.wait()), STOP_S)
                return
            except TimeoutError:
                LOGGER.warning("worker %s does not stop", process.pid)
                if process.returncode is None:
                    insist()

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await start_worker(self._log)
        return self._process

    async def _next(self, process: asyncio.subprocess.Process) -> dict[str, Any] | None:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), SILENCE_S)
        except TimeoutError:
            LOGGER.error("worker %s is silent for %g s; killed", process.pid, SILENCE_S)
            process.kill()
            return None
        return json.loads(line) if line.endswith(b"\n") else None


async def start_worker(log: Path) -> asyncio.subprocess.Process:
    """Spawn a worker process with a clean environment; its chatter goes to `log`."""
    environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("WORLDLOOM_")}
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worldloom.bridge.worker_main",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
            env=environment, limit=LINE_LIMIT, start_new_session=True,
        )  # fmt: skip


async def describe_engines(log: Path, target: str = DESCRIBE) -> list[dict[str, Any]]:
    """The engine presets, asked from a short-lived worker: the front never loads the generator."""
    process = await start_worker(log)
    out, _ = await process.communicate(json.dumps({"describe": target}).encode() + b"\n")
    for line in out.splitlines():
        body = json.loads(line)
        if body["type"] == "description":
            return body["presets"]
    return []


def _death(code: int) -> str:
    if code < 0:
        return f"the worker was killed by signal {-code}"
    return f"the worker exited with {code}"
