"""The seam between jobs and what runs them: a pool lends workers, and a worker runs one job.

`pool.LocalPool` has processes on this machine, `workers_ray.RayPool` has actors of a Ray cluster.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Protocol

from worldloom.bridge.worker_process import Patience, Specification, start_process
from worldloom.scene.errors import EngineFailed

__all__ = ["DESCRIBE", "MAKE_WORLD", "Patience", "Pool", "Specification", "Worker",
           "describe_engines"]  # fmt: skip

LOGGER = logging.getLogger(__name__)

DESCRIBE_S = 60.0  # A generator that cannot list its presets in this time is broken [s].
MAKE_WORLD = "worldloom.generator.pipeline:make_world"
DESCRIBE = "worldloom.generator.engines:describe"


class Worker(Protocol):
    """Something that runs one job and tells what happens; here, or on another machine."""

    async def start(self) -> str:
        """Get ready to run; why that is not possible now, or nothing."""
        ...

    def events(self) -> AsyncIterator[dict[str, Any]]:
        """Event dictionaries of the job up to its last: `done`, `error`, or `lost`."""
        ...

    async def stop(self) -> None:
        """Ask it to stop at its next checkpoint, and make sure that it does."""
        ...

    async def close(self) -> None:
        """Give it back to its pool; whatever it still does is ended."""
        ...


class Pool(Protocol):
    """Lends workers, and looks after the processes behind them."""

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time."""
        ...

    def free(self) -> int:
        """How many more jobs may start now; 0 while nothing can be started."""
        ...

    def problem(self) -> str:
        """Why no worker can be had although none is busy; empty when all is well."""
        ...

    def take(self, specification: Specification) -> Worker:
        """A worker for a job. Only when `free` says so."""
        ...

    def on_change(self, call: Callable[[], None]) -> None:
        """Say whom to call when `free` may have grown."""
        ...

    async def close(self) -> None:
        """End all processes."""
        ...


async def describe_engines(log: Path, target: str = DESCRIBE) -> list[dict[str, Any]]:
    """The engine presets, asked from a short-lived worker: the front never loads the generator.

    Raises:
        EngineFailed: The generator cannot be loaded, or takes too long.
    """
    try:
        process = await start_process(log)
    except OSError as error:
        raise EngineFailed(f"no worker process can be started ({error})") from error
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
            process.kill()
    raise EngineFailed(
        f"the generator {target} cannot list its presets; {log} says why. Is it installed here?"
    )
