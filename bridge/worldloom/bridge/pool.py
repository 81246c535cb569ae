"""Worker processes of this machine: one a GPU, warm between jobs of the same engine.

A process keeps what its engine loaded, so the next job of that engine begins at once. It is ended
and replaced after a failure, after many jobs, for a job of another engine, and when it was idle
for long. No job is given to a process that died while it was idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloom.bridge.setbacks import Setbacks
from worldloom.bridge.worker_process import (
    Patience,
    Specification,
    WorkerProcess,
    start_process,
)
from worldloom.bridge.workers import Pool

LOGGER = logging.getLogger(__name__)

NO_PROCESS = "no worker process can be started"


@dataclass(frozen=True)
class Recycling:
    """When a healthy process is replaced all the same."""

    jobs: int = 100
    """After so many jobs: what leaks in libraries stays small."""
    idle_s: float = 900.0
    """After this time without a job: its memory is free for others [s]."""


class _Slot:
    """Room for one process."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.process: WorkerProcess | None = None
        self.rest: asyncio.Task[None] | None = None
        self.busy = False
        self.used_at = 0.0


class LocalPool:
    """Processes on this machine."""

    def __init__(
        self,
        devices: Sequence[str],
        log: Path,
        *,
        patience: Patience | None = None,
        recycling: Recycling | None = None,
    ) -> None:
        """Make room; processes start when they are needed.

        Args:
            devices: For each process the GPU that it may see; empty for all of them.
            log: Receives what processes print.
            patience: How long they may take.
            recycling: When they are replaced.
        """
        self._slots = [_Slot(device) for device in devices]
        self._log = log
        self._patience = patience or Patience()
        self._recycling = recycling or Recycling()
        self._changed: Callable[[], None] = lambda: None
        self._setbacks = Setbacks()

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time."""
        return len(self._slots)

    def free(self) -> int:
        """How many more jobs may start now."""
        if self._setbacks.pausing:
            return 0
        return sum(not slot.busy for slot in self._slots)

    def problem(self) -> str:
        """Why no process can be started, when that was tried several times in a row."""
        return self._setbacks.problem("worker processes")

    def on_change(self, call: Callable[[], None]) -> None:
        """Say whom to call when `free` may have grown."""
        self._changed = call

    def take(self, specification: Specification) -> LocalWorker:
        """A worker for a job, warm if possible."""
        slot = min((s for s in self._slots if not s.busy), key=lambda s: _cost(s, specification))
        slot.busy = True
        return LocalWorker(self, slot, specification)

    async def close(self) -> None:
        """End all processes."""
        await asyncio.gather(*(self._empty(slot) for slot in self._slots))

    def pids(self) -> list[int]:
        """Process ids of all processes that are up."""
        return [s.process.pid for s in self._slots if s.process is not None and s.process.alive]

    async def process_for(
        self, slot: _Slot, engine: str, *, fresh: bool = False
    ) -> WorkerProcess | None:
        """The process of a slot, or a new one; None when none can be started."""
        process = await self._woken(slot)
        used = process is not None and process.jobs > 0
        if process is not None and (
            fresh
            or not process.alive
            or (used and process.engine != engine)
            or process.jobs >= self._recycling.jobs
        ):
            await self._empty(slot)
        if slot.process is None:
            slot.process = await self._start(slot.device)
        return slot.process

    async def give_back(self, slot: _Slot, *, fit: bool) -> None:
        """Take a slot back; its process stays if it is fit for more."""
        try:
            if not fit or slot.process is None:
                await self._empty(slot)
            else:
                slot.rest = asyncio.create_task(self._rest(slot))
        finally:
            slot.used_at = time.monotonic()
            slot.busy = False
            self._changed()

    async def _start(self, device: str) -> WorkerProcess | None:
        try:
            process = WorkerProcess(
                await start_process(self._log, device=device), self._patience
            )
            if await process.greet():
                self._setbacks.succeeded()
                return process
            await process.end()
            why = f"{process.why_gone} at once; {self._log} may say why"
        except OSError as error:
            why = str(error)
        LOGGER.error("%s: %s", NO_PROCESS, why)
        self._setbacks.failed(why, lambda: self._changed())
        return None

    async def _rest(self, slot: _Slot) -> None:
        """Watch an idle process until it is needed, dies, or was idle for too long."""
        process = slot.process
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._recycling.idle_s):
                await process.rest()
        if process.alive:
            LOGGER.info("worker %d was idle for %g s", process.pid, self._recycling.idle_s)
        else:
            process.tell_idle_death()
        await process.end()
        if slot.process is process:
            slot.process = None

    async def _woken(self, slot: _Slot) -> WorkerProcess | None:
        """The process of a slot, which nobody else listens to any more."""
        rest, slot.rest = slot.rest, None
        if rest is not None:
            if slot.process is not None and slot.process.alive:
                rest.cancel()
            await asyncio.wait([rest])
        return slot.process

    async def _empty(self, slot: _Slot) -> None:
        process = await self._woken(slot)
        slot.process = None
        if process is not None:
            await process.end()


class LocalWorker:
    """One job on a process of the pool."""

    def __init__(self, pool: LocalPool, slot: _Slot, specification: Specification) -> None:
        self._pool, self._slot, self._specification = pool, slot, specification
        self._process: WorkerProcess | None = None
        self._stopped = False
        self._began = False
        self._fit = True

    async def start(self, *, fresh: bool = False) -> str:
        """Have a process ready; why there is none, or nothing."""
        engine = self._specification.engine
        self._process = await self._pool.process_for(self._slot, engine, fresh=fresh)
        return "" if self._process is not None else NO_PROCESS

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Run the job. If an idle process dies before it hears of the job, a fresh one gets it."""
        for fresh in (False, True):
            if fresh:
                self._process.tell_idle_death()
                await self.start(fresh=True)
            if self._stopped or self._process is None:
                yield _unbegun(stopped=self._stopped)
                return
            warm, unheard = self._process.jobs > 0, False
            self._began, self._fit = True, False
            async with aclosing(self._process.run(self._specification)) as events:
                async for body in events:
                    unheard = warm and not body.get("taken", True)
                    if not unheard:
                        self._fit = body["type"] in ("done", "error")
                        yield body
            if not unheard:
                return

    async def stop(self) -> None:
        """Ask the job to stop, and make sure that it does."""
        self._stopped = True
        if self._process is not None and self._began:
            await self._process.stop()

    async def close(self) -> None:
        """Give the process back to the pool."""
        fit = self._fit and (not self._began or await self._process.settle())
        await self._pool.give_back(self._slot, fit=fit)


def _unbegun(*, stopped: bool) -> dict[str, Any]:
    """The only event of a job that no process heard of."""
    if stopped:
        return {"type": "error", "code": "cancelled", "text": "stopped before it began"}
    return {"type": "lost", "text": NO_PROCESS}


def _cost(slot: _Slot, specification: Specification) -> tuple[int, float]:
    """How much is lost when a job goes to this slot; the least recently used first."""
    process = slot.process
    if process is None or not process.alive:
        return 1, slot.used_at
    if process.engine == specification.engine:
        return 0, slot.used_at
    return 2, slot.used_at


def local_devices(gpus: int, *, visible: str | None, workers: int = 0) -> tuple[str, ...]:
    """Which GPU each process of a local pool may see.

    Args:
        gpus: How many GPUs this machine has.
        visible: CUDA_VISIBLE_DEVICES of this process, if it is set.
        workers: Processes wanted; 0 for one a GPU, and one without any. More than there are GPUs
            share them.
    """
    names = [str(number) for number in range(gpus)]
    if visible is not None:
        names = [name.strip() for name in visible.split(",") if name.strip()][:gpus]
    count = workers or max(1, len(names))
    if not names:
        return ("",) * count
    return tuple(names[number % len(names)] for number in range(count))


async def open_pool(
    store: Path,
    *,
    gpus: int = 0,
    workers: int = 0,
    ray: str = "",
    patience: Patience | None = None,
    recycling: Recycling | None = None,
) -> Pool:
    """The pool that runs the jobs of a store.

    Args:
        store: Folder of the store.
        gpus: How many GPUs this machine has.
        workers: Jobs at the same time; 0 for one a GPU.
        ray: Address of a Ray cluster; empty for processes of this machine.
        patience: How long a worker may take.
        recycling: When a healthy process is replaced.

    Raises:
        ServerRefused: The cluster cannot be used.
    """
    log = store / "worker.log"
    if ray:
        from worldloom.bridge.workers_ray import RayPool

        return await RayPool.connect(
            ray, store, workers=workers, patience=patience, recycling=recycling
        )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = local_devices(gpus, visible=visible, workers=workers)
    return LocalPool(devices, log, patience=patience, recycling=recycling)
