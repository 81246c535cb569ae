"""Queued jobs -> running workers -> journalled events, and everyone who watches."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import Job, retry_allowed
from worldloom.bridge.journal import Journal
from worldloom.bridge.workers import MAKE_WORLD, LocalWorker, Specification
from worldloom.scene.errors import EngineFailed, WorldloomError
from worldloom.scene.request import WorldRequest

LOGGER = logging.getLogger(__name__)
FEED_LENGTH = 64  # Ephemeral events that a slow watcher may lag behind before he loses some.


class Scheduler:
    """Runs jobs one after the other on `slots` workers and feeds their watchers."""

    def __init__(
        self, journal: Journal, blobs: Blobs, store: Path, *, slots: int, target: str = MAKE_WORLD
    ) -> None:
        self._journal, self._blobs, self._store = journal, blobs, store
        self._target = target
        self._wake = asyncio.Event()
        self._workers: dict[str, LocalWorker] = {}
        self._feeds: dict[str, set[asyncio.Queue[dict[str, Any] | None]]] = defaultdict(set)
        self._draining = False
        self._slots = slots
        self._tasks: set[asyncio.Task[None]] = set()
        # One thread: SQLite commits wait for the disk, and must not hold up the event loop.
        self._disk = ThreadPoolExecutor(1, "journal")

    async def io(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        """Run a blocking call of the journal or the blob store off the event loop."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._disk, lambda: function(*args, **kwargs))

    def wake(self) -> None:
        """Look at the queue again."""
        self._wake.set()

    @property
    def draining(self) -> bool:
        """Whether the server is about to end."""
        return self._draining

    async def run(self) -> None:
        """Start queued jobs as slots come free, until `drain`."""
        while not self._draining:
            self._wake.clear()
            for job in await self.io(self._journal.jobs, states=("queued",)):
                if len(self._workers) >= self._slots or self._draining:
                    break
                if job.name not in self._workers:
                    self._begin(job)
            await self._wake.wait()

    async def drain(self) -> None:
        """Let running jobs stop at their checkpoint; they continue after a restart."""
        self._draining = True
        self.wake()
        await asyncio.gather(*(worker.stop() for worker in list(self._workers.values())))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=10.0)
        for name in list(self._feeds):
            self.publish(name, None)

    async def cancel(self, name: str, owner: str) -> Job:
        """Ask a job to stop."""
        job = await self.io(self._journal.request_cancel, name, owner)
        self.publish(name, None)
        if name in self._workers:
            task = asyncio.create_task(self._workers[name].stop())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
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
        """Tell the watchers of a job; a full queue loses its oldest ephemeral events."""
        for queue in self._feeds.get(name, ()):
            while queue.full():
                queue.get_nowait()
            queue.put_nowait(body)

    def _begin(self, job: Job) -> None:
        specification = self._specification(job)
        worker = LocalWorker(specification, self._store / "worker.log")
        self._workers[job.name] = worker
        task = asyncio.create_task(self._drive(job, worker))
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
        work.mkdir(parents=True, exist_ok=True)
        return Specification(
            target=self._target, request=job.request_json, kind=job.kind, inputs=inputs,
            work=str(work), store=str(self._store), resume=True,
        )  # fmt: skip

    def work_folder(self, job: Job) -> Path:
        """Folder of a job's own files."""
        return self._store / "jobs" / job.work_name / "work"

    async def _drive(self, job: Job, worker: LocalWorker) -> None:
        """Run a job to its end, over lost workers."""
        failures: dict[int, int] = defaultdict(int)
        chunk = 0
        try:
            await self.io(self._journal.move, job.name, "running")
            self.publish(job.name, None)
            while True:
                async for body in worker.events():
                    if body["type"] == "artifact":
                        chunk = max(chunk, int(body["chunk"]))
                    if body["type"] != "lost":
                        if await self._take(job, body):
                            return
                        continue
                    failures[chunk] += 1
                    LOGGER.warning("job %s: %s at chunk %d", job.name, body["text"], chunk)
                if await self._ended_early(job, failures[chunk], chunk):
                    return
                worker = LocalWorker(self._specification(job), self._store / "worker.log")
                self._workers[job.name] = worker
        except WorldloomError as error:
            LOGGER.exception("job %s cannot go on", job.name)
            await self._fail(job, error)
        finally:
            self._workers.pop(job.name, None)
            self.publish(job.name, None)
            self.wake()

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
            await self.io(self._journal.move, job.name, "done")
            return True
        elif kind == "error":
            return await self._take_error(job, body)
        return False

    async def _take_error(self, job: Job, body: dict[str, Any]) -> bool:
        current = await self.io(self._journal.get, job.name)
        if body["code"] == "cancelled" and not current.cancel_requested:
            # Stopped because the server ends: the job waits for the next start.
            await self.io(self._journal.move, job.name, "queued")
            return True
        state = "cancelled" if body["code"] == "cancelled" else "failed"
        await self.io(
            self._journal.move, job.name, state,
            code=body["code"], text=body["text"], field=body.get("field") or "",
        )  # fmt: skip
        return True

    async def _ended_early(self, job: Job, failures: int, chunk: int) -> bool:
        """After a lost worker: whether this job is over for now."""
        current = await self.io(self._journal.get, job.name)
        if current.cancel_requested:
            text = "cancelled; finished chunks are kept"
            await self.io(self._journal.move, job.name, "cancelled", code="cancelled", text=text)
            return True
        if self._draining:
            await self.io(self._journal.move, job.name, "queued")
            return True
        if retry_allowed(failures):
            return False
        await self._fail(
            job,
            EngineFailed(
                f"the worker died {failures} times at chunk {chunk}; see worker.log in the "
                "server's store. Finished chunks are kept"
            ),
        )
        return True

    async def _fail(self, job: Job, error: WorldloomError) -> None:
        current = await self.io(self._journal.get, job.name)
        if not current.ended:
            await self.io(
                self._journal.move, job.name, "failed",
                code=error.code, text=str(error), field=error.field or "",
            )  # fmt: skip


def new_job_name(owner_hash: str) -> str:
    """A fresh name; sorted by time for people, unique by its random tail."""
    import secrets

    return f"{int(time.time()):x}-{owner_hash[:8]}-{secrets.token_hex(4)}"
