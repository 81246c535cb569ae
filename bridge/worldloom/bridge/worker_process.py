"""One spawned worker process: jobs in on its stdin, events out, watched by pipe and heartbeat.

The process says `hello` when it is up and `ready` when it can take the next job. One that had a
failure ends by itself; one that is silent or stuck is killed.
"""

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
from typing import Any

LOGGER = logging.getLogger(__name__)

LAST_WORDS = ("done", "error", "lost")
SILENT = ("heartbeat", "hello", "taken", "ready")  # Lines between the two processes alone.
LINE_LIMIT = 4 << 20  # Longest event line; a preview is far below [bytes].
HELLO_S = 60.0  # A process that has not even begun after this is broken [s].
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
    stop_s: float = 10.0
    """From the request to stop until SIGTERM."""
    insist_s: float = 10.0
    """From SIGTERM until SIGKILL, and for a worker that said its last word until it is ready
    again or gone."""


@dataclass(frozen=True)
class Specification:
    """What a worker needs to know of its job."""

    target: str
    """`module:function` of make_world."""
    engine: str
    """Preset; a process stays warm for jobs of the same one."""
    request: str
    """Canonical request JSON."""
    kind: str
    inputs: dict[str, str]
    """Path of each input by role."""
    work: str
    store: str
    resume: bool

    def line(self, run: int) -> bytes:
        """The specification as a line of the worker's input.

        Args:
            run: Number of the job within its process.
        """
        return json.dumps({"run": run, **asdict(self)}).encode() + b"\n"


class WorkerProcess:
    """A process of ours that runs jobs one after the other."""

    def __init__(self, process: asyncio.subprocess.Process, patience: Patience) -> None:
        self._process, self._patience = process, patience
        self._run = 0
        self._over = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._why = ""
        self.engine = ""
        """Preset of its jobs so far."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not ended, as far as is known."""
        return self._process.returncode is None

    @property
    def jobs(self) -> int:
        """How many jobs it was given."""
        return self._run

    @property
    def why_gone(self) -> str:
        """Why it ended."""
        return self._why or _death(self._process.returncode)

    def tell_idle_death(self) -> None:
        """Log that it was lost without a job of its own."""
        LOGGER.warning("worker %d is lost while idle: %s", self.pid, self.why_gone)

    async def greet(self) -> bool:
        """Wait until it is up; False when it is broken."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HELLO_S):
                body = await self._next()
                return body is not None and body["type"] == "hello"
        return False

    async def run(self, specification: Specification) -> AsyncIterator[dict[str, Any]]:
        """Give it a job and yield what it says up to its last word; `lost` if it died before."""
        self._run += 1
        self._over.clear()
        self._stopping = None
        self.engine = specification.engine
        self._write(specification.line(self._run))
        taken = False
        while (body := await self._next()) is not None:
            # A thread that an earlier job left behind may still talk of it.
            if body.pop("run", 0) != self._run:
                continue
            taken = taken or body["type"] == "taken"
            if body["type"] in LAST_WORDS:
                self._over.set()
                yield body
                return
            if body["type"] not in SILENT:
                yield body
        await self._reap()
        self._over.set()
        yield {"type": "lost", "text": self.why_gone, "taken": taken}

    async def settle(self) -> bool:
        """After a job's last word: whether it is ready for another one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience.insist_s):
                while (body := await self._next()) is not None:
                    if body["type"] == "ready" and body.get("run") == self._run:
                        return True
        await self._reap()
        if self._process.returncode != 0:
            self.tell_idle_death()
        return False

    async def rest(self) -> None:
        """Listen to it while it has no job; returns when it is gone."""
        while await self._next() is not None:
            pass
        await self._reap()

    async def stop(self) -> None:
        """Ask the job to stop; SIGTERM and SIGKILL if it does not. Returns when it has stopped."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)

    async def end(self) -> None:
        """See the process off: nobody listens to it any more."""
        if self._stopping is not None:
            self._stopping.cancel()
        await self._reap()

    async def _stop(self) -> None:
        self._write(b"cancel %d\n" % self._run)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._over.wait(), self._patience.stop_s)
        if not self._over.is_set():
            LOGGER.warning("worker %d does not stop by itself", self.pid)
            self._why = "it did not stop when asked to"
            self._signal(signal.SIGTERM)
            if not await self._gone(self._patience.insist_s):
                self._signal(signal.SIGKILL)

    async def _next(self) -> dict[str, Any] | None:
        """The next line of the worker; None when it ended or had to be killed."""
        try:
            async with asyncio.timeout(self._patience.silence_s):
                line = await self._process.stdout.readline()
        except TimeoutError:
            return self._kill(f"it was silent for {self._patience.silence_s:g} s")
        except ValueError:
            return self._kill(f"it sent a line of more than {LINE_LIMIT} bytes")
        if not line.endswith(b"\n"):
            return None
        try:
            body = json.loads(line)
        except ValueError:
            return self._kill(f"it sent {line[:40]!r}, which is no event")
        if body.get("idle_s", 0.0) > self._patience.stall_s:
            return self._kill(f"it made no progress for {self._patience.stall_s:g} s")
        return body

    def _kill(self, why: str) -> None:
        LOGGER.error("worker %d is killed: %s", self.pid, why)
        self._why = why
        self._signal(signal.SIGKILL)

    def _write(self, line: bytes) -> None:
        stdin = self._process.stdin
        if not stdin.is_closing():
            stdin.write(line)

    async def _reap(self) -> None:
        """Take its input away, then its life if that is not enough, and what it had started."""
        self._process.stdin.close()
        # What it still says must be read: a full pipe would hide its end.
        drain = asyncio.create_task(self._drain())
        if not await self._gone(self._patience.insist_s):
            self._signal(signal.SIGKILL)
            if not await self._gone(self._patience.insist_s):
                LOGGER.error("worker %d cannot be killed; the kernel holds it", self.pid)
        self._signal(signal.SIGKILL)
        drain.cancel()

    async def _drain(self) -> None:
        while await self._process.stdout.read(LINE_LIMIT):
            pass

    async def _gone(self, within_s: float) -> bool:
        """Whether the process ends within a time."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._process.wait()), within_s)
        return self._process.returncode is not None

    def _signal(self, number: signal.Signals) -> None:
        """Signal the worker and what it started: it leads a process group of its own."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)


async def start_process(log: Path, *, device: str = "") -> asyncio.subprocess.Process:
    """Spawn a worker process with a clean environment; its chatter goes to `log`.

    Args:
        log: What it prints is added to this file.
        device: The GPU that it may see, as CUDA_VISIBLE_DEVICES says it; empty for the same ones
            as this process.

    Raises:
        OSError: The operating system refuses.
    """
    environment = {key: os.environ[key] for key in KEPT_ENVIRONMENT if key in os.environ}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1"}
    environment |= {k: v for k, v in os.environ.items() if k.startswith("WORLDLOOM_")}
    if device:
        # By bus address, as the kernel driver counts them, and not by speed.
        environment |= {"CUDA_VISIBLE_DEVICES": device, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    with log.open("ab") as errors:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "worldloom.bridge.worker_main",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=errors,
            env=environment, limit=LINE_LIMIT, start_new_session=True,
        )  # fmt: skip


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        return f"it was killed by signal {-code}"
    return f"it exited with {code}"
