"""The calls of service Worlds: check, ask journal or blobs, reply."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from worldloom.bridge.admission import (
    Context,
    check_quota,
    check_room,
    check_space,
    checked_request,
    content_hash,
    engine_key,
)
from worldloom.bridge.blobs import Blobs, Upload
from worldloom.bridge.gate import caller
from worldloom.bridge.jobs import Job
from worldloom.bridge.messages import PACKED, PROTOCOL, VERSION, JobInfo, job_message
from worldloom.bridge.packing import Packing
from worldloom.bridge.scheduler import new_job_name
from worldloom.bridge.store import empty_trash, forget_job, page_start, page_token
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.watching import Watching
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    WrongOffset,
)
from worldloom.scene.request import WorldRequest

FEATURES = ("link", "resume", PACKED)
"""What this server can do beyond the first version of the protocol; clients show it."""
PAGE = 50  # Jobs of one ListJobs page.


class WorldsService(rpc.WorldsServicer):
    """Service Worlds of one store."""

    def __init__(self, shared: Context) -> None:
        self._shared = shared
        self._lanes = shared.lanes
        self._watching = Watching(
            shared.journal, shared.scheduler, shared.lanes, heartbeat_s=shared.heartbeat_s
        )
        self._packing = Packing(shared.blobs, shared.store, target=shared.read_splats)
        # Between the look at the queue and the new job in it nobody else may come.
        self._admission = asyncio.Lock()

    async def GetServer(self, request: pb.GetServerRequest, context: Any) -> pb.Server:
        """Versions, presets, limits."""
        shared = self._shared
        depth = await self._io(shared.journal.depth)
        licences = {p["name"]: p["licences"] for p in shared.presets if p.get("licences")}
        return pb.Server(
            version=VERSION, protocol_min=PROTOCOL, protocol_max=PROTOCOL,
            presets_json=json.dumps(shared.presets), default_engine=shared.default_engine,
            limits_json=json.dumps(shared.limits.to_json()), gpus=shared.gpus,
            store=str(shared.store), nonce=shared.nonce,
            queued=depth["queued"], running=depth["running"], features=FEATURES,
            licenses_json=json.dumps(licences),
        )  # fmt: skip

    async def StatBlob(self, request: pb.BlobRef, context: Any) -> pb.BlobStat:
        """How much of a blob this owner has uploaded."""
        return await self._stat(caller(), request.sha256)

    async def WriteBlob(self, request: AsyncIterator[pb.Part], context: Any) -> pb.BlobStat:
        """Take an upload."""
        with self._lanes.enter("write", caller()):
            return await self._take_upload(request, caller())

    async def _take_upload(self, parts: AsyncIterator[pb.Part], owner: str) -> pb.BlobStat:
        shared = self._shared
        upload: Upload | None = None
        async for part in parts:
            await self._lanes.pace(owner, len(part.data))
            async with self._lanes.turn("write"):
                if upload is None:
                    begin = shared.blobs.begin
                    upload = await self._bulk(begin, owner, part.sha256, part.total, part.offset)
                    check_space(shared, part.total - part.offset)
                    await check_quota(shared, owner, part.total - part.offset)
                upload = await self._bulk(_append, shared.blobs, owner, upload, part)
            shared.meter.moved_bytes("up", len(part.data))
        if upload is None:
            raise InvalidRequest("the upload was empty; its first part must name the blob")
        if upload.offset == upload.total:
            async with self._lanes.turn("write"):
                await self._bulk(shared.blobs.commit_upload, owner, upload)
            await self._io(shared.journal.own_blob, owner, upload.sha256, upload.total)
        return await self._stat(owner, upload.sha256)

    async def ReadBlob(self, request: pb.ReadBlobRequest, context: Any) -> AsyncIterator[pb.Part]:
        """Send a blob from an offset on."""
        with self._lanes.enter("read", caller()):
            async with aclosing(self._send(request, caller())) as parts:
                async for part in parts:
                    yield part

    async def _send(self, request: pb.ReadBlobRequest, owner: str) -> AsyncIterator[pb.Part]:
        shared, offset = self._shared, request.offset
        if not await self._io(shared.journal.owns_blob, owner, request.sha256):
            raise NotFound(f"there is no blob {request.sha256[:16]!r}...")
        file, digest, total = await self._readable(request)
        if offset > total:
            raise InvalidRequest(f"the blob ends at byte {total}; it cannot be read from {offset}")
        end = min(total, offset + request.length) if request.length else total
        while offset < end:
            size = min(shared.limits.part_bytes, end - offset)
            await self._lanes.pace(owner, size)
            async with self._lanes.turn("read"):
                part = await self._bulk(_read, file, offset, size, total)
            if offset == request.offset:
                part.sha256 = digest
            yield part
            shared.meter.moved_bytes("down", size)
            offset += size

    async def _readable(self, request: pb.ReadBlobRequest) -> tuple[Path, str, int]:
        """The file to send, its own sha256 where it is an encoded one, and its size."""
        blobs, sha256 = self._shared.blobs, request.sha256
        if not request.encoding:
            return blobs.path(sha256), "", await self._bulk(blobs.size, sha256)
        if request.encoding != PACKED:
            raise InvalidRequest(
                f"unknown encoding {request.encoding[:40]!r}; use {PACKED}, or none",
                field="encoding",
            )
        packed = await self._packing.packed(sha256, self._bulk)
        return packed.file, packed.sha256, packed.bytes

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        """Queue a job, or give the one that this request already is."""
        with self._lanes.enter("create", caller()):
            self._lanes.allow_job(caller())
            async with self._lanes.turn("create"):
                return await self._create(request, caller())

    async def _create(self, request: pb.CreateJobRequest, owner: str) -> pb.Job:
        shared = self._shared
        world = await checked_request(shared, request, owner)
        wanted = await self._bulk(self._new_job, request, world, owner)
        content = content_hash(wanted)
        async with self._admission:
            job = await self._io(shared.journal.find, wanted, request.request_id, content)
            if job is None:
                await check_room(shared, owner, priority=request.priority)
                create = shared.journal.create
                job, _ = await self._io(create, wanted, request.request_id, content)
                shared.scheduler.wake()
        return await self._job(job)

    async def GetJob(self, request: pb.JobRef, context: Any) -> pb.Job:
        """One job."""
        job = await self._io(self._shared.journal.get, request.name, caller())
        return await self._job(job)

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        """Jobs of this owner, newest first."""
        size = min(request.page_size or PAGE, PAGE)
        before = page_start(request.page_token)
        page = self._shared.journal.page
        found, more = await self._io(page, caller(), size, before=before)
        return pb.ListJobsResponse(
            jobs=[_message(job, last) for job, last in found],
            next_page_token="" if more is None else page_token(more),
        )

    async def CancelJob(self, request: pb.JobRef, context: Any) -> pb.Job:
        """Ask a job to stop."""
        return await self._job(
            await self._shared.scheduler.cancel(request.name, caller())
        )

    async def DeleteJob(self, request: pb.JobRef, context: Any) -> pb.DeleteJobResponse:
        """Forget an ended job and what only it needed."""
        shared = self._shared
        owner = caller()
        await self._io(
            forget_job, shared.store, shared.journal, shared.blobs, request.name, owner
        )
        await self._bulk(empty_trash, shared.store)
        return pb.DeleteJobResponse()

    async def WatchJob(
        self, request: pb.WatchJobRequest, context: Any
    ) -> AsyncIterator[pb.Event]:
        """Replay events after a number, then follow the job until it has ended."""
        await self._io(self._shared.journal.get, request.name, caller())
        with self._lanes.enter("watch", caller()):
            events = self._watching.follow(request.name, request.after_seq)
            async with aclosing(events):
                async for event in events:
                    yield event

    def _new_job(self, request: pb.CreateJobRequest, world: WorldRequest, owner: str) -> Job:
        text = world.canonical()
        digest = hashlib.sha256(text).hexdigest()  # The same as `world.hash()`, made once.
        return Job(
            name=new_job_name(digest), owner=owner, kind=request.kind, engine=world.engine,
            request_hash=digest, request_json=text.decode(),
            parent=request.parent_world, created_unix_s=time.time(), priority=request.priority,
            engine_key=engine_key(world.engine, self._shared.presets),
        )  # fmt: skip

    async def _job(self, job: Job) -> pb.Job:
        return _message(job, await self._io(self._shared.journal.last_seq, job.name))

    async def _stat(self, owner: str, sha256: str) -> pb.BlobStat:
        shared = self._shared
        owned = await self._io(shared.journal.owns_blob, owner, sha256)
        if owned and await self._bulk(shared.blobs.has, sha256):
            size = await self._bulk(shared.blobs.size, sha256)
            return pb.BlobStat(sha256=sha256, bytes=size, committed=True)
        offset = await self._bulk(shared.blobs.offset, owner, sha256)
        return pb.BlobStat(sha256=sha256, bytes=offset, committed=False)

    async def _io(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._shared.scheduler.io(function, *args, **kwargs)

    async def _bulk(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await self._shared.scheduler.bulk(function, *args, **kwargs)


def _message(job: Job, last_seq: int) -> pb.Job:
    shared = {n: getattr(job, n) for n in JobInfo.__dataclass_fields__ if n != "last_seq"}
    return job_message(JobInfo(**shared, last_seq=last_seq))


def _read(file: Path, offset: int, size: int, total: int) -> pb.Part:
    """One part of a blob; its checksum is work for a thread, not for the event loop."""
    try:
        with file.open("rb") as source:
            source.seek(offset)
            data = source.read(size)
    except FileNotFoundError as error:
        raise NotFound(f"there is no blob {file.name[:16]}... any more") from error
    if len(data) != size:
        raise CorruptData(f"blob {file.name[:16]}... ends at byte {offset + len(data)} of {total}")
    return pb.Part(offset=offset, data=data, crc32=zlib.crc32(data), total=total)


def _append(blobs: Blobs, owner: str, upload: Upload, part: pb.Part) -> Upload:
    """Add a part to an upload if it is undamaged and comes next."""
    if part.offset != upload.offset:
        raise WrongOffset(
            f"a part starts at byte {part.offset}, but byte {upload.offset} comes next",
            offset=upload.offset,
        )
    if zlib.crc32(part.data) != part.crc32:
        raise CorruptData(
            f"the part at byte {part.offset} was damaged on the way (its checksum differs); "
            "send it again"
        )
    return blobs.append(owner, upload, part.data)
