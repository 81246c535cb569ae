"""Queued jobs -> running workers -> journalled events, and everyone who watches."""

from __future__ import annotations

import asyncio
import base64
import logging
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.fairshare import FairShare
from worldloom.bridge.joblogs import about_job
from worldloom.bridge.jobs import TERMINAL, Job, JobState, retry_allowed
from worldloom.bridge.journal import CANCELLED, Journal
from worldloom.bridge.metrics import Meter
from worldloom.bridge.space import Space
from worldloom.bridge.workers import MAKE_WORLD, Pool, Specification, Worker
from worldloom.scene.errors import CorruptData, EngineFailed, StorageFull, WorldloomError
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import storage_errors

LOGGER = logging.getLogger(__name__)
FEED_LENGTH = 64  # Ephemeral events that a slow watcher may lag behind before he loses some.
BULK_THREADS = 4  # Blob reads, writes and hashes at the same time.
SETTLE_S = 5.0  # From the end of the last worker until its job's state is journalled [s].
SPACE_S = 1.0  # Between two looks at a disk that is too full [s].


class Scheduler:
    """Runs jobs on the workers of a pool and feeds their watchers."""

    def __init__(
        self,
        journal: Journal,
        blobs: Blobs,
        store: Path,
        *,
        pool: Pool,
        target: str = MAKE_WORLD,
        share: FairShare | None = None,
        meter: Meter | None = None,
        space: Space | None = None,
    ) -> None:
        """Begin without any job.

        Args:
            journal: Where jobs are and their states go.
            blobs: What jobs read.
            store: Folder of both.
            pool: Lends workers.
            target: `module:function` of make_world.
            share: Chooses the next job.
            meter: Counts what happens.
            space: The disk that jobs fill; none begins while it is too full.
        """
        self._journal, self._blobs, self._store = journal, blobs, store
        self._pool, self._target, self._share = pool, target, share or FairShare()
        self._meter = meter or Meter()
        self._space = space or Space(store, 0)
        self._wake = asyncio.Event()
        self._jobs: dict[str, Job] = {}
        self._workers: dict[str, Worker] = {}
        self._feeds: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = defaultdict(set)
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()
        # SQLite commits and blob hashes wait for the disk: neither may hold up the event loop,
        # and a long hash may not hold up the journal.
        self._record = ThreadPoolExecutor(1, "journal")
        self._bulk = ThreadPoolExecutor(BULK_THREADS, "blobs")

    async def io(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a blocking call of the journal off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._record, lambda: function(*args, **kwargs))

    async def bulk(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a blocking call of the blob store off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._bulk, lambda: function(*args, **kwargs))

    def wake(self) -> None:
        """Look at the queue again."""
        self._wake.set()

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    def problem(self) -> str:
        """Why no worker can be had for any job, if that is so: this server is of no use then."""
        return self._pool.problem()

    async def run(self) -> None:
        """Start queued jobs as workers come free, until `drain`."""
        self._pool.on_change(self.wake)
        while not self._draining:
            self._wake.clear()
            if not self._space.enough():
                LOGGER.warning("the disk is too full: no job begins before there is room again")
                await self._until(self._space.enough)
            try:
                waiting = await self._waiting()
            except (StorageFull, CorruptData) as error:
                LOGGER.error("no job can begin: %s", error)
                self._look_again(SPACE_S)
                waiting = []
            while waiting and self._room() and not self._draining:
                job = self._share.choose(waiting, self._jobs.values(), self._pool.slots)
                if job is None:
                    break
                waiting.remove(job)
                self._begin(job)
            await self._wake.wait()

    async def _waiting(self) -> list[Job]:
        """Jobs that wait, those too whose end could not be written to a full disk."""
        for job in await self.io(self._journal.jobs, states=("running",)):
            if job.name not in self._jobs:
                await self._requeue(job)
        waiting = await self.io(self._journal.jobs, states=("queued",))
        waiting = [job for job in waiting if job.name not in self._jobs]
        may_begin = [job for job in waiting if self._space.open_to(job.name)]
        if len(may_begin) < len(waiting):
            self._look_again(SPACE_S)
        return may_begin

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that nobody tells of; not longer than until `drain`."""
        while not (self._draining or condition()):
            await asyncio.sleep(SPACE_S)

    def _look_again(self, after_s: float) -> None:
        asyncio.get_running_loop().call_later(after_s, self.wake)

    async def drain(self) -> None:
        """Let running jobs stop at their checkpoint; they continue after a restart."""
        self._draining = True
        self.wake()
        await asyncio.gather(*(worker.stop() for worker in self._workers.values()))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SETTLE_S)
        await self._pool.close()
        for name in list(self._feeds):
            self.publish(name, None)

    async def cancel(self, name: str, owner: str) -> Job:
        """Ask a job to stop."""
        job = await self.io(self._journal.request_cancel, name, owner)
        self.publish(name, None)
        worker = self._workers.get(name)
        if worker is not None:
            self._keep(asyncio.create_task(worker.stop()))
        return job

    def subscribe(self, name: str) -> asyncio.Queue[dict[str, Any] | None]:
        """A queue of what happens to a job: ephemeral events, and None for `read the journal`."""
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(FEED_LENGTH)
        self._feeds[name].add(queue)
        return queue

    def unsubscribe(self, name: str, queue: asyncio.Queue[dict[str, Any] | None]) -> None:
        """Forget a watcher."""
        self._feeds[name].discard(queue)
        if not self._feeds[name]:
            del self._feeds[name]

    def publish(self, name: str, body: dict[str, Any] | None) -> None:
        """Tell the watchers of a job; one that lags too far behind loses ephemeral events."""
        for queue in self._feeds.get(name, ()):
            if queue.full():
                while not queue.empty():
                    queue.get_nowait()
                # Among the lost ones may have been a `read the journal`.
                queue.put_nowait(None)
            queue.put_nowait(body)

    def _room(self) -> bool:
        """Whether a worker is left for another job; some jobs are about to take theirs."""
        return self._pool.free() > len(self._jobs) - len(self._workers)

    def _begin(self, job: Job) -> None:
        self._jobs[job.name] = job
        self._keep(asyncio.create_task(self._drive(job)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it ends: the event loop itself does not."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _specification(self, job: Job) -> Specification:
        request = WorldRequest.from_bytes(job.request_json.encode())
        inputs = {}
        for ref in request.inputs():
            inputs[ref.role] = str(self._blobs.path(ref.sha256))
        if job.parent:
            inputs["parent"] = str(self.work_folder(self._journal.get(job.parent)))
        work = self.work_folder(job)
        with storage_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        return Specification(
            target=self._target, engine=job.engine, request=job.request_json, kind=job.kind,
            inputs=inputs, work=str(work), store=str(self._store), resume=True,
        )  # fmt: skip

    def work_folder(self, job: Job) -> Path:
        """Folder of a job's own files."""
        return self._store / "jobs" / job.work_name / "work"

    async def _drive(self, job: Job) -> None:
        """Run a job to its end; whatever happens frees its worker and is told to its owner."""
        about_job(job.name)
        try:
            await self._run_job(job)
        except StorageFull as error:
            await self._wait_for_room(job, error)
        except WorldloomError as error:
            LOGGER.warning("job %s cannot go on: %s", job.name, error)
            await self._fail(job, error)
        except Exception as error:
            # No fault of ours may leave a job running for ever.
            LOGGER.exception("job %s cannot go on", job.name)
            text = f"the server failed: {type(error).__name__}: {error}. Its log has the details"
            await self._fail(job, EngineFailed(text))
        finally:
            self._jobs.pop(job.name, None)
            self.publish(job.name, None)
            self.wake()

    async def _run_job(self, job: Job) -> None:
        """Use workers, one after the other, until the job has ended or waits again."""
        failures: Counter[int] = Counter()
        chunk = 0
        specification = await self.io(self._specification, job)
        while True:
            lost = ""
            async with self._worker(job, specification) as worker:
                if not await self._ready(job, worker):
                    return
                async with aclosing(worker.events()) as events:
                    async for body in events:
                        if body["type"] == "artifact":
                            chunk = max(chunk, int(body["chunk"]))
                        if body["type"] == "lost":
                            lost = body["text"]
                        elif await self._take(job, body):
                            return
            failures[chunk] += 1
            LOGGER.warning("job %s lost its worker at chunk %d: %s", job.name, chunk, lost)
            if await self._over(job):
                return
            if not retry_allowed(failures[chunk]):
                raise EngineFailed(
                    f"the worker was lost {failures[chunk]} times at chunk {chunk}: {lost}. "
                    f"Chunk {chunk + 1} could not be made; finished chunks are kept, and "
                    "worker.log in the server's store may say more"
                )

    @asynccontextmanager
    async def _worker(self, job: Job, specification: Specification) -> AsyncIterator[Worker]:
        """A worker of the pool; whoever cancels or drains meanwhile finds it."""
        worker = self._pool.take(specification)
        self._workers[job.name] = worker
        try:
            yield worker
        finally:
            del self._workers[job.name]
            await worker.close()

    async def _ready(self, job: Job, worker: Worker) -> bool:
        """Whether the job runs now; it waits on where no worker can be started."""
        # Whoever cancels or drains from here on finds the worker; before, the journal tells.
        if await self._over(job):
            return False
        if why := await worker.start():
            LOGGER.warning("job %s waits on: %s", job.name, why)
            await self._requeue(job)
            return False
        if await self._over(job):
            return False
        current = await self.io(self._journal.get, job.name)
        if current.state == "queued":
            await self._move(job, "running")
        return True

    async def _take(self, job: Job, body: dict[str, Any]) -> bool:
        """Handle one event of a worker; whether it was the last."""
        kind = body["type"]
        if kind in ("artifact", "log"):
            await self.io(self._journal.append, job.name, body)
            self.publish(job.name, None)
        elif kind == "progress":
            self.publish(job.name, body)
        elif kind == "preview":
            self.publish(job.name, {**body, "jpeg": base64.b64decode(body["jpeg"])})
        elif kind == "done":
            await self._move(job, "done")
            return True
        elif kind == "error":
            return await self._take_error(job, body)
        return False

    async def _take_error(self, job: Job, body: dict[str, Any]) -> bool:
        current = await self.io(self._journal.get, job.name)
        if body["code"] == "cancelled" and not current.cancel_requested:
            # Stopped because the server ends: the job waits for the next start.
            await self._requeue(job)
            return True
        if body["code"] == StorageFull.code:
            raise StorageFull(body["text"])
        state: JobState = "cancelled" if body["code"] == "cancelled" else "failed"
        details = {"code": body["code"], "text": body["text"], "field": body.get("field") or ""}
        await self._move(job, state, **details)
        return True

    async def _wait_for_room(self, job: Job, error: StorageFull) -> None:
        """Let a job that found the disk full wait; it goes on at its checkpoint."""
        LOGGER.warning("job %s waits for room on the disk: %s", job.name, error)
        self._space.refused(job.name)
        try:
            await self._requeue(job)
            text = f"the job waits for room on the server's disk: {error}"
            await self._take(job, {"type": "log", "level": "warning", "text": text})
        except StorageFull:
            LOGGER.warning("the journal is full too; job %s is looked at again later", job.name)

    async def _over(self, job: Job) -> bool:
        """Before and between workers: whether this job was cancelled, or waits for a restart."""
        current = await self.io(self._journal.get, job.name)
        if current.ended:
            return True
        if current.cancel_requested:
            await self._move(job, "cancelled", code="cancelled", text=CANCELLED)
        elif self._draining:
            await self._requeue(job)
        return current.cancel_requested or self._draining

    async def _requeue(self, job: Job) -> None:
        current = await self.io(self._journal.get, job.name)
        if current.state == "running":
            await self._move(job, "queued")

    async def _move(self, job: Job, state: JobState, **details: str) -> None:
        await self.io(self._journal.move, job.name, state, **details)
        # Both times are of a clock that may have been set meanwhile.
        waited_s = max(0.0, time.time() - job.created_unix_s) if state == "running" else None
        self._meter.moved(state, waited_s)
        if state in TERMINAL:
            self._space.forget(job.name)
        self.publish(job.name, None)

    async def _fail(self, job: Job, error: WorldloomError) -> None:
        current = await self.io(self._journal.get, job.name)
        if not current.ended:
            details = {"code": error.code, "text": str(error), "field": error.field or ""}
            await self._move(job, "failed", **details)


def new_job_name(request_hash: str) -> str:
    """A fresh name; sorted by time for people, unique by its random tail."""
    return f"{int(time.time()):x}-{request_hash[:8]}-{secrets.token_hex(4)}"
