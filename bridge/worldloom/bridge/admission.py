"""May this job or upload begin? Everything is checked before anything is kept."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import HIGHEST, KINDS, Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.lanes import Lanes
from worldloom.bridge.messages import VERSION
from worldloom.bridge.metrics import Meter
from worldloom.bridge.packing import READ_SPLATS
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import (
    Conflict,
    InvalidRequest,
    NotFound,
    ServerBusy,
    ServerUnreachable,
    StorageFull,
)
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import WorldRequest

REQUEST_ID_CHARS = 128
HEARTBEAT_S = 10.0  # Keeps a quiet watch alive over proxies (spec bridge 8.2).
RETRY_MS = 30_000  # When a full queue is worth another try.
WITH_PARENT = ("extend", "revert")


@dataclass(frozen=True)
class Context:
    """What the calls share."""

    journal: Journal
    blobs: Blobs
    scheduler: Scheduler
    limits: Limits
    store: Path
    nonce: str
    presets: tuple[dict[str, Any], ...]
    """Engine presets as the generator describes them."""
    lanes: Lanes
    meter: Meter
    default_engine: str
    """Preset for requests that name none."""
    gpus: tuple[str, ...] = ()
    read_splats: str = READ_SPLATS
    """`module:function` that reads a splat layer, resolved inside a worker."""
    heartbeat_s: float = HEARTBEAT_S
    """A watcher hears at least this often from the server."""


async def checked_request(shared: Context, call: pb.CreateJobRequest, owner: str) -> WorldRequest:
    """The request of a job, refused unless it can be made here and now.

    Raises:
        InvalidRequest: The request, its kind or its request id is not acceptable.
        NotFound: An input was not uploaded, or the parent is not there.
        Conflict: The parent has not ended.
        ServerUnreachable: The server is shutting down.
    """
    if shared.scheduler.draining:
        raise ServerUnreachable("the server is shutting down; send the job again later")
    _check_form(call)
    # A path of thousands of poses takes its time: the event loop has others to serve.
    world = await shared.scheduler.bulk(_read_request, shared, call.request_json)
    for ref in world.inputs():
        await _check_input(shared, ref.role, ref.sha256, ref.bytes, owner)
    if call.kind in WITH_PARENT:
        parent = await shared.scheduler.io(shared.journal.get, call.parent_world, owner)
        if not parent.ended:
            raise Conflict(
                f"job {parent.name} is {parent.state}; its world can be changed when it has ended"
            )
    return world


def _read_request(shared: Context, text: str) -> WorldRequest:
    world = WorldRequest.from_bytes(text.encode())
    if not world.engine:
        world = replace(world, engine=shared.default_engine)
    world.check(shared.limits, tuple(preset["name"] for preset in shared.presets))
    return world


async def check_room(shared: Context, owner: str, *, priority: int = 0) -> None:
    """Refuse a new job when too many wait or the disk is nearly full.

    Raises:
        ServerBusy: The queue is full; the error says when to try again.
        StorageFull: Too little space is left.
    """
    limits = shared.limits
    everybody, mine = await shared.scheduler.io(shared.journal.waiting, owner)
    if everybody >= limits.queue_total or mine >= limits.queue_per_owner:
        raise ServerBusy(
            f"{everybody} jobs are waiting, {mine} of them yours; the limits are "
            f"{limits.queue_total} and {limits.queue_per_owner}. Try again later",
            retry_after_ms=RETRY_MS,
        )
    waiting = await shared.scheduler.io(shared.journal.jobs, owner, states=("queued",))
    urgent = sum(job.priority > 0 for job in waiting)
    if priority > 0 and urgent >= limits.urgent_per_owner:
        raise ServerBusy(
            f"{urgent} of your jobs wait with a priority above 0, and the limit is "
            f"{limits.urgent_per_owner}. Send this one with priority 0, or try again later",
            field="priority", retry_after_ms=RETRY_MS,
        )  # fmt: skip
    check_space(shared, 0)
    await check_quota(shared, owner, 0)


async def check_quota(shared: Context, owner: str, coming: int) -> None:
    """Refuse what would give an owner more bytes than are meant for him.

    Args:
        shared: Store and limits.
        owner: Whose.
        coming: Bytes that he is about to send.

    Raises:
        StorageFull: It is too much.
    """
    limit = shared.limits.owner_bytes
    if not limit:
        return
    have = await shared.scheduler.io(shared.journal.owners.bytes_of, owner)
    begun = await shared.scheduler.bulk(shared.blobs.partial_bytes, owner)
    if have + begun + coming > limit:
        raise StorageFull(
            f"you have {(have + begun) / MIB:.1f} MiB on this server and {coming / MIB:.1f} MiB "
            f"would come; {limit / MIB:.1f} MiB are yours. Delete old jobs with 'worldloom jobs "
            "delete'"
        )


def check_space(shared: Context, coming: int) -> None:
    """Refuse what would leave too little space on the disk.

    Args:
        shared: Store and limits.
        coming: Bytes that are about to be written.

    Raises:
        StorageFull: The disk is too full.
    """
    free = shutil.disk_usage(shared.store).free
    floor = shared.limits.free_space_floor
    if free - coming < floor:
        raise StorageFull(
            f"the server has {free // MIB} MiB left for {coming // MIB} MiB; it keeps "
            f"{floor // MIB} MiB free. Delete old jobs, or ask its owner"
        )


def engine_key(engine: str, presets: Sequence[dict[str, Any]]) -> str:
    """What makes a world besides the request, as a hash: this version, and the preset."""
    preset = next((item for item in presets if item["name"] == engine), None)
    text = json.dumps([VERSION, preset], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def content_hash(job: Job) -> str:
    """Hash of all that a CreateJob call means; the same request id must mean the same."""
    text = f"{job.kind}\n{job.parent}\n{job.request_hash}"
    return hashlib.sha256(text.encode()).hexdigest()


def _check_form(call: pb.CreateJobRequest) -> None:
    if call.kind not in KINDS:
        raise InvalidRequest(
            f"unknown job kind {call.kind[:40]!r}; use {', '.join(KINDS)}", field="kind"
        )
    if not -HIGHEST <= call.priority <= HIGHEST:
        raise InvalidRequest(
            f"priority is {call.priority}; {-HIGHEST} to {HIGHEST} are possible", field="priority"
        )
    if len(call.request_id) > REQUEST_ID_CHARS:
        raise InvalidRequest(
            f"request id has {len(call.request_id)} characters; {REQUEST_ID_CHARS} are possible",
            field="request_id",
        )
    if bool(call.parent_world) != (call.kind in WITH_PARENT):
        given = repr(call.parent_world[:80]) if call.parent_world else "none"
        raise InvalidRequest(
            f"a job of kind {call.kind} has parent {given}; {' and '.join(WITH_PARENT)} need the "
            "job whose world they change, the others take none",
            field="parent_world",
        )


async def _check_input(shared: Context, role: str, sha256: str, size: int, owner: str) -> None:
    if not await shared.scheduler.io(shared.journal.owns_blob, owner, sha256):
        raise NotFound(
            f"the {role} {sha256[:16]}... has not been uploaded; upload it first", field=role
        )
    found = await shared.scheduler.bulk(shared.blobs.size, sha256)
    if found != size:
        raise InvalidRequest(
            f"the {role} has {found} bytes, the request says {size}; correct the request",
            field=role,
        )
