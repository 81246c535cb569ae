"""The calls of service Worlds: check, ask journal or blobs, reply."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import shutil
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import grpc

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import KINDS, Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.messages import PROTOCOL, JobInfo, event_message, job_message
from worldloom.bridge.scheduler import Scheduler, new_job_name
from worldloom.bridge.status import status_of
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    ServerBusy,
    ServerUnreachable,
    StorageFull,
    WorldloomError,
)
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import WorldRequest

LOGGER = logging.getLogger(__name__)
HEARTBEAT_S = 10.0  # A watcher hears at least this often from the server (spec bridge 8.2).
PAGE = 50  # Jobs of one ListJobs page.
REQUEST_ID_CHARS = 128


@dataclass(frozen=True)
class Context:
    """What the calls share."""

    journal: Journal
    blobs: Blobs
    scheduler: Scheduler
    limits: Limits
    store: Path
    nonce: str
    presets: asyncio.Task[list[dict[str, Any]]]
    default_engine: str


def owner_of(_: grpc.aio.ServicerContext) -> str:
    """Whose call this is. Without tokens every caller on loopback is the same one."""
    return "local"


def _guarded(call: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Turn our errors into gRPC statuses; log whatever else happens and say so."""

    @functools.wraps(call)
    async def guarded(self: Any, request: Any, context: grpc.aio.ServicerContext) -> Any:
        try:
            return await call(self, request, context)
        except WorldloomError as error:
            code, trailing = status_of(error)
            await context.abort(code, str(error), trailing)

    return guarded


class WorldsService(rpc.WorldsServicer):
    """Service Worlds of one store."""

    def __init__(self, shared: Context) -> None:
        self._shared = shared
        self._watching: dict[str, int] = {}

    @_guarded
    async def GetServer(self, request: pb.GetServerRequest, context: Any) -> pb.Server:
        """Versions, presets, limits."""
        shared = self._shared
        presets = await asyncio.shield(shared.presets)
        return pb.Server(
            version=metadata.version("worldloom"), protocol_min=PROTOCOL, protocol_max=PROTOCOL,
            presets_json=json.dumps(presets), limits_json=json.dumps(shared.limits.to_json()),
            store=str(shared.store), nonce=shared.nonce, default_engine=shared.default_engine,
        )  # fmt: skip

    @_guarded
    async def StatBlob(self, request: pb.BlobRef, context: Any) -> pb.BlobStat:
        """How much of a blob this owner has uploaded."""
        return await self._stat(owner_of(context), request.sha256)

    @_guarded
    async def WriteBlob(self, request: AsyncIterator[pb.Part], context: Any) -> pb.BlobStat:
        """Take an upload."""
        shared, owner = self._shared, owner_of(context)
        upload = None
        async for part in request:
            if upload is None:
                self._check_space()
                begin = shared.blobs.begin
                upload = await self._io(begin, owner, part.sha256, part.total, part.offset)
            if zlib.crc32(part.data) != part.crc32:
                raise CorruptData(
                    f"the part at byte {part.offset} was damaged on the way (its checksum "
                    "differs); send it again"
                )
            upload = await self._io(shared.blobs.append, owner, upload, part.data)
        if upload is not None and upload.offset == upload.total:
            await self._io(shared.blobs.commit_upload, owner, upload)
            await self._io(shared.journal.own_blob, owner, upload.sha256)
        return await self._stat(owner, "" if upload is None else upload.sha256)

    async def ReadBlob(self, request: pb.ReadBlobRequest, context: Any) -> AsyncIterator[pb.Part]:
        """Send a blob from an offset on."""
        shared, owner = self._shared, owner_of(context)
        try:
            if not await self._io(shared.journal.owns_blob, owner, request.sha256):
                raise NotFound(f"there is no blob {request.sha256[:16]}...")
            total = await self._io(shared.blobs.size, request.sha256)
            end = min(total, request.offset + request.length) if request.length else total
            offset = request.offset
            while offset < end:
                size = min(shared.limits.part_bytes, end - offset)
                data = await self._io(shared.blobs.read, request.sha256, offset, size)
                yield pb.Part(offset=offset, data=data, crc32=zlib.crc32(data), total=total)
                offset += len(data)
        except WorldloomError as error:
            await self._abort(context, error)

    @_guarded
    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        """Queue a job, or give the one that this request already is."""
        shared, owner = self._shared, owner_of(context)
        world = await self._checked(request, owner)
        content = _content_hash(request.kind, request.parent_world, world)
        same = await self._io(
            shared.journal.find_same, owner, world.hash(), request.kind, request.parent_world
        )
        if same is not None:
            if request.request_id:
                alias = shared.journal.alias
                await self._io(alias, owner, request.request_id, content, same.name)
            return await self._job(same)
        job, new = await self._io(
            shared.journal.create, self._new_job(request, world, owner), request.request_id, content
        )
        if new:
            shared.scheduler.wake()
        return await self._job(job)

    @_guarded
    async def GetJob(self, request: pb.JobRef, context: Any) -> pb.Job:
        """One job."""
        job = await self._io(self._shared.journal.get, request.name, owner_of(context))
        return await self._job(job)

    @_guarded
    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """Jobs of this owner, newest first."""
        jobs = (await self._io(self._shared.journal.jobs, owner_of(context)))[::-1]
        start = int(request.page_token) if request.page_token.isdigit() else 0
        size = min(request.page_size or PAGE, PAGE)
        page = [await self._job(job) for job in jobs[start : start + size]]
        more = str(start + size) if start + size < len(jobs) else ""
        return pb.ListJobsResponse(jobs=page, next_page_token=more)

    @_guarded
    async def CancelJob(self, request: pb.JobRef, context: Any) -> pb.Job:
        """Ask a job to stop."""
        return await self._job(
            await self._shared.scheduler.cancel(request.name, owner_of(context))
        )

    @_guarded
    async def DeleteJob(self, request: pb.JobRef, context: Any) -> pb.DeleteJobResponse:
        """Forget an ended job and what only it needed."""
        shared = self._shared
        owner = owner_of(context)
        job = await self._io(shared.journal.get, request.name, owner)
        gone = await self._io(shared.journal.delete, request.name, owner)
        for sha256 in gone:
            await self._io(shared.blobs.remove, sha256)
        others = await self._io(shared.journal.jobs, owner)
        if all(other.work_name != job.work_name for other in others):
            folder = shared.scheduler.work_folder(job).parent
            await self._io(shutil.rmtree, folder, ignore_errors=True)
        return pb.DeleteJobResponse()

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.Event]:
        """Replay events after a number, then follow the job until it has ended."""
        owner = owner_of(context)
        try:
            await self._io(self._shared.journal.get, request.name, owner)
            if self._watching.get(owner, 0) >= self._shared.limits.watch_per_owner:
                raise ServerBusy(
                    f"{self._shared.limits.watch_per_owner} watchers are connected already; "
                    "close some",
                    retry_after_ms=2000,
                )
            self._watching[owner] = self._watching.get(owner, 0) + 1
            try:
                async for event in self._follow(request.name, request.after_seq):
                    yield event
            finally:
                self._watching[owner] -= 1
        except WorldloomError as error:
            await self._abort(context, error)

    async def _follow(self, name: str, after: int) -> AsyncIterator[pb.Event]:
        journal, scheduler = self._shared.journal, self._shared.scheduler
        queue = scheduler.subscribe(name)
        try:
            while True:
                # Read the state before the events: an end between the two is seen next time.
                ended = (await self._io(journal.get, name)).ended
                for entry in await self._io(journal.events, name, after):
                    after = entry.seq
                    yield event_message(entry.seq, entry.at_unix_s, entry.body)
                if ended:
                    return
                if scheduler.draining:
                    raise ServerUnreachable("the server is shutting down; watch again later")
                async for event in self._live(queue):
                    yield event
        finally:
            scheduler.unsubscribe(name, queue)

    async def _live(self, queue: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[pb.Event]:
        """Ephemeral events until the journal has something new."""
        while True:
            try:
                body = await asyncio.wait_for(queue.get(), HEARTBEAT_S)
            except TimeoutError:
                yield event_message(0, time.time(), {"type": "heartbeat"})
                return
            if body is None:
                return
            yield event_message(0, time.time(), body)

    async def _checked(self, request: pb.CreateJobRequest, owner: str) -> WorldRequest:
        """The request of a job, refused unless it can be made here and now."""
        shared = self._shared
        if shared.scheduler.draining:
            raise ServerUnreachable("the server is shutting down; send the job again later")
        if request.kind not in KINDS:
            raise InvalidRequest(
                f"unknown job kind {request.kind[:40]!r}; use {', '.join(KINDS)}", field="kind"
            )
        if len(request.request_id) > REQUEST_ID_CHARS:
            raise InvalidRequest(
                f"request id has {len(request.request_id)} characters; {REQUEST_ID_CHARS} are "
                "possible",
                field="request_id",
            )
        world = WorldRequest.from_bytes(request.request_json.encode())
        names = tuple(preset["name"] for preset in await asyncio.shield(shared.presets))
        world.check(shared.limits, names)
        for ref in world.inputs():
            if not await self._io(shared.journal.owns_blob, owner, ref.sha256):
                raise NotFound(
                    f"the {ref.role} {ref.sha256[:16]}... has not been uploaded; upload it first",
                    field=ref.role,
                )
        if request.kind in ("extend", "revert"):
            await self._io(shared.journal.get, request.parent_world, owner)
        await self._check_queue(owner)
        self._check_space()
        return world

    async def _check_queue(self, owner: str) -> None:
        limits = self._shared.limits
        waiting = await self._io(self._shared.journal.jobs, states=("queued",))
        mine = sum(job.owner == owner for job in waiting)
        if len(waiting) >= limits.queue_total or mine >= limits.queue_per_owner:
            raise ServerBusy(
                f"{len(waiting)} jobs are waiting, {mine} of them yours; the limits are "
                f"{limits.queue_total} and {limits.queue_per_owner}. Try again later",
                retry_after_ms=30_000,
            )

    def _check_space(self) -> None:
        free = shutil.disk_usage(self._shared.store).free
        floor = self._shared.limits.free_space_floor
        if free < floor:
            raise StorageFull(
                f"the server has {free // MIB} MiB left; it keeps {floor // MIB} MiB free. Delete "
                "old jobs, or ask its owner"
            )

    def _new_job(self, request: pb.CreateJobRequest, world: WorldRequest, owner: str) -> Job:
        return Job(
            name=new_job_name(world.hash()), owner=owner, kind=request.kind, engine=world.engine,
            request_hash=world.hash(), request_json=world.canonical().decode(),
            parent=request.parent_world, created_unix_s=time.time(),
        )  # fmt: skip

    async def _job(self, job: Job) -> pb.Job:
        last = await self._io(self._shared.journal.last_seq, job.name)
        shared = {n: getattr(job, n) for n in JobInfo.__dataclass_fields__ if n != "last_seq"}
        return job_message(JobInfo(**shared, last_seq=last))

    async def _stat(self, owner: str, sha256: str) -> pb.BlobStat:
        shared = self._shared
        if not sha256:
            raise InvalidRequest("the upload was empty; its first part must name the blob")
        shared.blobs.path(sha256)
        if await self._io(shared.journal.owns_blob, owner, sha256):
            size = await self._io(shared.blobs.size, sha256)
            return pb.BlobStat(sha256=sha256, bytes=size, committed=True)
        offset = await self._io(shared.blobs.offset, owner, sha256)
        return pb.BlobStat(sha256=sha256, bytes=offset, committed=False)

    async def _io(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._shared.scheduler.io(function, *args, **kwargs)

    async def _abort(self, context: Any, error: WorldloomError) -> None:
        code, trailing = status_of(error)
        await context.abort(code, str(error), trailing)


def _content_hash(kind: str, parent: str, world: WorldRequest) -> str:
    return hashlib.sha256(f"{kind}\n{parent}\n{world.hash()}".encode()).hexdigest()
