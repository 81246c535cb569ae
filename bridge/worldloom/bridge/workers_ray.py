"""Actors of a Ray cluster, one a GPU: Ray places and restarts them, our journal stays the truth.

An actor runs a local pool of one process on its node, so heartbeats, stops and warm weights are
those of one machine. Files go through the store where the node sees it at the same path, and
through Ray where it does not. Ray never repeats a job by itself: whether a lost one goes on is
decided where it is journalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from worldloom.bridge.gpu_host import MARK, SHARED, GpuHost
from worldloom.bridge.pool import Recycling
from worldloom.bridge.ray_files import Courier
from worldloom.bridge.setbacks import Setbacks
from worldloom.bridge.worker_process import LAST_WORDS, Patience, Specification
from worldloom.scene.errors import ServerRefused

LOGGER = logging.getLogger(__name__)

CALLS = 8  # Calls that an actor answers at the same time: a job, and what is asked meanwhile.
CONNECT_S = 5.0  # For the head of the cluster to answer [s].
AWAY_S = 0.2  # Between two looks at an actor that restarts [s].


class _Place:
    """Room for one actor."""

    def __init__(self) -> None:
        self.actor: Any = None
        self.own = ""
        """Folder of the actor on its node, where that does not see the store."""
        self.engine = ""
        self.work = ""
        """Folder of its last job: what a lost run left may still be on this node."""
        self.busy = False
        self.used_at = 0.0
        self.leave: asyncio.TimerHandle | None = None


class RayPool:
    """Workers on a Ray cluster."""

    def __init__(
        self, store: Path, places: int, patience: Patience | None, recycling: Recycling | None
    ) -> None:
        """Make room for actors; they start when they are needed.

        Args:
            store: Folder that nodes see, or not.
            places: Most actors.
            patience: How long a worker may take.
            recycling: When processes are replaced, and when an idle actor gives its GPU back.
        """
        self._store = store.resolve()
        self._mark = _mark_of(self._store)
        for folder in SHARED:
            (self._store / folder).mkdir(exist_ok=True)
            (self._store / folder / MARK).write_text(self._mark)
        self._places = [_Place() for _ in range(places)]
        self._patience, self._recycling = patience, recycling or Recycling()
        self._setbacks = Setbacks()
        self._changed: Callable[[], None] = lambda: None

    @classmethod
    async def connect(
        cls,
        address: str,
        store: Path,
        *,
        workers: int = 0,
        patience: Patience | None = None,
        recycling: Recycling | None = None,
    ) -> RayPool:
        """Join a cluster.

        Args:
            address: HOST:PORT of its head as `ray start` prints it, or `auto`.
            store: Folder of the store.
            workers: Most jobs at the same time; more than the cluster has GPUs let Ray ask its
                autoscaler for more. 0 takes as many as it has now.
            patience: See `LocalPool`.
            recycling: See `LocalPool`.

        Raises:
            ServerRefused: There is no such cluster, or Ray is not installed.
        """
        try:
            import ray
        except ImportError as error:
            raise ServerRefused(
                "--ray needs Ray in this environment: pip install 'worldloom[ray]'"
            ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            _check_listening(address)
            with _own_signals():
                ray.init(
                    address, namespace=f"worldloom-{secrets.token_hex(4)}", log_to_driver=False,
                    configure_logging=False,
                )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            raise ServerRefused(
                f"no Ray cluster can be joined at {address} ({error}). Start one on this machine "
                "with: ray start --head"
            ) from error
        gpus = int(ray.cluster_resources().get("GPU", 0))
        LOGGER.info("the Ray cluster at %s has %d GPUs", address, gpus)
        return cls(store, workers or max(1, gpus), patience, recycling)

    @property
    def slots(self) -> int:
        """How many jobs can run at the same time."""
        return len(self._places)

    def free(self) -> int:
        """How many more jobs may start now."""
        return 0 if self._setbacks.pausing else sum(not place.busy for place in self._places)

    def problem(self) -> str:
        """Why no actor can be used, when several in a row could not."""
        return self._setbacks.problem("actors")

    def on_change(self, call: Callable[[], None]) -> None:
        """Say whom to call when `free` may have grown."""
        self._changed = call

    def take(self, specification: Specification) -> RayWorker:
        """A worker for a job, warm if possible."""
        place = min(
            (place for place in self._places if not place.busy),
            key=lambda p: (
                p.work != specification.work, p.engine != specification.engine,
                p.actor is None, p.used_at,
            ),
        )  # fmt: skip
        place.busy, place.work = True, specification.work
        if place.leave is not None:
            place.leave.cancel()
        return RayWorker(self, place, _absolute(specification))

    async def close(self) -> None:
        """End all actors; Ray would end them with this process."""
        for place in self._places:
            self.dismiss(place)

    async def man(self, place: _Place) -> str:
        """Wait until Ray has placed the actor of a place; why it cannot be used, or nothing."""
        if place.actor is None:
            place.actor = self._new_actor()
        told = await _answer(place.actor)
        own = metadata.version("worldloom")
        place.own = "" if told["sees"] else told["own"]
        why = ""
        if told["version"] != own:
            why = f"node {told['node']} has worldloom {told['version']}, the server {own}"
        if why:
            LOGGER.error("an actor cannot be used: %s", why)
            self.dismiss(place)
            self._setbacks.failed(why, lambda: self._changed())
        else:
            self._setbacks.succeeded()
        return why

    def give_back(self, place: _Place) -> None:
        """Take a place back; an actor that is idle for long gives its GPU back."""
        place.busy, place.used_at = False, time.monotonic()
        loop = asyncio.get_running_loop()
        place.leave = loop.call_later(self._recycling.idle_s, self.dismiss, place)
        self._changed()

    def dismiss(self, place: _Place) -> None:
        """End the actor of a place."""
        import ray

        actor, place.actor, place.engine = place.actor, None, ""
        if place.leave is not None:
            place.leave.cancel()
        if actor is not None:
            ray.kill(actor, no_restart=True)

    def _new_actor(self) -> Any:
        import ray

        host = ray.remote(GpuHost).options(
            num_gpus=1, num_cpus=0, max_restarts=-1, max_task_retries=0, max_concurrency=CALLS
        )
        return host.remote(str(self._store), self._mark, self._patience, self._recycling)


class RayWorker:
    """One job on an actor."""

    def __init__(self, pool: RayPool, place: _Place, specification: Specification) -> None:
        self._pool, self._place, self._specification = pool, place, specification
        self._courier: Courier | None = None
        self._starting: asyncio.Task[str] | None = None
        self._running = False
        self._stopped = False

    async def start(self) -> str:
        """Wait for a GPU of the cluster; why there is no use in waiting, or nothing."""
        self._starting = asyncio.create_task(self._start())
        await asyncio.wait([self._starting])
        if self._starting.cancelled():
            return "it was stopped while it waited for a GPU of the cluster"
        return self._starting.result()

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Run the job; `lost` when the actor or its node died."""
        from ray.exceptions import RayError

        if self._stopped:
            yield {"type": "error", "code": "cancelled", "text": "stopped before it began"}
            return
        self._running = True
        run = self._place.actor.run.options(num_returns="streaming")
        try:
            async for reference in run.remote(self._specification):
                for body in await reference:
                    self._running = body["type"] not in LAST_WORDS
                    await self._fetch(body)
                    yield body
        except RayError as error:
            self._running = False
            yield {"type": "lost", "text": f"its actor was lost ({type(error).__name__})"}

    async def _start(self) -> str:
        from ray.exceptions import RayError

        try:
            why = await self._pool.man(self._place)
            if not why and self._place.own:
                self._courier = Courier(self._place.actor, self._specification, self._place.own)
                self._specification = await self._courier.deliver()
        except RayError as error:
            why = f"its actor was lost before it began ({type(error).__name__})"
        self._place.engine = self._specification.engine
        return why

    async def _fetch(self, body: dict[str, Any]) -> None:
        """Bring back what an event speaks of, where the node does not see the store."""
        if self._courier is not None and body["type"] == "artifact":
            await self._courier.fetch_blob(body["sha256"], body["bytes"])
        elif self._courier is not None and body["type"] in LAST_WORDS:
            await self._courier.fetch_work()

    async def stop(self) -> None:
        """Ask the job to stop, and make sure that it does."""
        self._stopped = True
        if self._starting is not None:
            self._starting.cancel()
        if self._running:
            await self._quietly_stop()

    async def close(self) -> None:
        """Give the actor back to the pool; a job that nobody listens to any more is stopped."""
        if self._running:
            await self._quietly_stop()
        self._pool.give_back(self._place)

    async def _quietly_stop(self) -> None:
        """Stop the job, unless its actor is gone: then it has stopped already."""
        from ray.exceptions import RayError

        with contextlib.suppress(RayError):
            await self._place.actor.stop.remote()


async def _answer(actor: Any) -> dict[str, Any]:
    """What an actor says of itself, as soon as it runs; it may be waiting, or restarting."""
    from ray.exceptions import ActorUnavailableError

    while True:
        try:
            return await actor.hello.remote()
        except ActorUnavailableError:
            await asyncio.sleep(AWAY_S)


def _mark_of(store: Path) -> str:
    """The mark of a store; it stays, so that a restarted server finds what nodes had made."""
    file = store / SHARED[-1] / MARK
    if file.is_file() and re.fullmatch("[0-9a-f]{32}", file.read_text()):
        return file.read_text()
    return secrets.token_hex(16)


def _absolute(specification: Specification) -> Specification:
    """The same job for processes with another working folder."""
    return replace(
        specification, work=str(Path(specification.work).resolve()),
        store=str(Path(specification.store).resolve()),
        inputs={role: str(Path(path).resolve()) for role, path in specification.inputs.items()},
    )  # fmt: skip


def _check_listening(address: str) -> None:
    """Try the head's port first: Ray itself tries for minutes.

    Raises:
        OSError: Nothing listens there.
        ValueError: It is no address.
    """
    if address != "auto":
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), CONNECT_S).close()


@contextlib.contextmanager
def _own_signals() -> Any:
    """Keep the handlers of this process, whatever a library sets meanwhile."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
