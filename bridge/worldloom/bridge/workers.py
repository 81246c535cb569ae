"""Jobs -> worker processes: one spawned process a job, watched by its pipe and its heartbeat."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from worldloom.scene.errors import EngineFailed

LOGGER = logging.getLogger(__name__)

LAST_WORDS = ("done", "error", "lost")
LINE_LIMIT = 4 << 20  # Longest event line; a preview is far below [bytes].
DESCRIBE_S = 60.0  # A generator that cannot list its presets in this time is broken [s].
MAKE_WORLD = "worldloom.generator.pipeline:make_world"
DESCRIBE = "worldloom.generator.engines:describe"
KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "XDG_CACHE_HOME", "LD_LIBRARY_PATH",
                    "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "VIRTUAL_ENV", "NUMBA_CACHE_DIR",
                    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS")  # fmt: skip


@dataclass(frozen=True)
class Patience:
    """How long a worker may take before it is helped along."""

    silence_s: float = 120.0
    """Without any line: not even the heartbeat thread runs. Compiled code may hold the interpreter
    for a while, so this is far above the heartbeat's 2 s."""
    stall_s: float = 1800.0
    """Without an event or a look at `cancelled`: the job hangs. The slowest engine is silent for
    some minutes while it decodes a chunk."""
    stop_s: float = 15.0
    """From the request to stop until SIGTERM."""
    insist_s: float = 3.0
    """From SIGTERM until SIGKILL, and for a worker that said its last word until it is gone."""


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
        return json.dumps(asdict(self)).encode() + b"\n"


class Worker(Protocol):
    """Something that runs one job and tells what happens; local, or on another machine."""

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Event dictionaries until the worker is gone; `lost` when it ended without a word."""
        ...

    async def stop(self) -> None:
        """Ask it to stop at its next checkpoint, and make sure that it does."""
        ...


class LocalWorker:
    """A worker process on this machine."""

    def __init__(
        self, specification: Specification, log: Path, *, patience: Patience | None = None
    ) -> None:
        self._specification = specification
        self._log = log
        self._patience = patience or Patience()
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self._why = ""

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Start the process and yield what it says; it is gone when this ends or is closed."""
        self._process = process = await start_worker(self._log)
        said_all = False
        try:
            self._write(self._specification.line())
            if self._stopping:
                self._write(b"cancel\n")
            while (body := await self._next(process)) is not None:
                said_all = said_all or body["type"] in LAST_WORDS
                if body["type"] != "heartbeat":
                    yield body
        finally:
            await self._reap(process)
        if not said_all:
            yield {"type": "lost", "text": self._why or _death(process.returncode)}

    async def stop(self) -> None:
        """Ask the process to stop; SIGTERM and SIGKILL if it does not."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._write(b"cancel\n")
        if not await _gone(process, self._patience.stop_s):
            LOGGER.warning("worker %d does not stop by itself", process.pid)
            self._why = "it did not stop when asked to"
            _signal(process, signal.SIGTERM)
        if not await _gone(process, self._patience.insist_s):
            _signal(process, signal.SIGKILL)

    async def _next(self, process: asyncio.subprocess.Process) -> dict[str, Any] | None:
        """The next line of the worker; None when it ended or had to be killed."""
        try:
            line = await asyncio.wait_for(process.stdout.readline(), self._patience.silence_s)
        except TimeoutError:
            return self._kill(f"it was silent for {self._patience.silence_s:g} s")
        except ValueError:
            return self._kill(f"it sent a line of more than {LINE_LIMIT} bytes")
        if not line.endswith(b"\n"):
            return None
        body = json.loads(line)
        if body.get("idle_s", 0.0) > self._patience.stall_s:
            return self._kill(f"it made no progress for {self._patience.stall_s:g} s")
        return body

    def _kill(self, why: str) -> None:
        LOGGER.error("worker %d is killed: %s", self._process.pid, why)
        self._why = why
        _signal(self._process, signal.SIGKILL)

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        if not stdin.is_closing():
            stdin.write(line)

    async def _reap(self, process: asyncio.subprocess.Process) -> None:
        """See the process off: nobody listens to it any more."""
        process.stdin.close()
        if not await _gone(process, self._patience.insist_s):
            _signal(process, signal.SIGKILL)
            await process.wait()


async def start_worker(log: Path) -> asyncio.subprocess.Process:
    """Spawn a worker process with a clean environment; its chatter goes to `log`.

    Raises:
        EngineFailed: The operating system refuses.
    """
    environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("WORLDLOOM_")}
    try:
        with log.open("ab") as errors:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worldloom.bridge.worker_main",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
                env=environment, limit=LINE_LIMIT, start_new_session=True,
            )  # fmt: skip
    except OSError as error:
        raise EngineFailed(f"no worker process can be started ({error})") from error


async def describe_engines(log: Path, target: str = DESCRIBE) -> list[dict[str, Any]]:
    """The engine presets, asked from a short-lived worker: the front never loads the generator.

    Raises:
        EngineFailed: The generator cannot be loaded, or takes too long.
    """
    process = await start_worker(log)
    question = json.dumps({"describe": target}).encode() + b"\n"
    try:
        out, _ = await asyncio.wait_for(process.communicate(question), DESCRIBE_S)
        for line in out.splitlines():
            body = json.loads(line)
            if body["type"] == "description":
                return body["presets"]
    except TimeoutError:
        LOGGER.error("the presets did not come within %g s", DESCRIBE_S)
    finally:
        if process.returncode is None:
            _signal(process, signal.SIGKILL)
    raise EngineFailed(
        f"the generator {target} cannot list its presets; {log} says why. Is it installed here?"
    )


async def _gone(process: asyncio.subprocess.Process, within_s: float) -> bool:
    """Whether the process ends within a time."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(process.wait()), within_s)
    return process.returncode is not None


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal the worker and what it started: it leads a process group of its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def _death(code: int) -> str:
    if code < 0:
        return f"it was killed by signal {-code}"
    return f"it exited with {code}"
