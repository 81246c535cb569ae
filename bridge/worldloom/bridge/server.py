"""One store -> a gRPC server on it: lock, journal, scheduler, health, drain."""

from __future__ import annotations

import asyncio
import fcntl
import ipaddress
import json
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from worldloom.bridge.admission import HEARTBEAT_S, Context
from worldloom.bridge.blobs import Blobs
from worldloom.bridge.fairshare import FairShare
from worldloom.bridge.journal import Journal
from worldloom.bridge.pool import Recycling, open_pool
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.service import WorldsService
from worldloom.bridge.store import sweep
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.workers import DESCRIBE, MAKE_WORLD, Patience, Pool, describe_engines
from worldloom.scene.errors import InvalidRequest, ServerRefused
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.worldfolder import make_folder, write_whole

LOGGER = logging.getLogger(__name__)
STREAMS_S = 2.0  # Time that open streams get when the server ends [s]; a drain takes < 30 s.


@dataclass(frozen=True)
class ServerOptions:
    """How to serve."""

    store: Path
    bind: str = "127.0.0.1:0"
    engine: str = "preview"
    """Preset for clients that name none."""
    slots: int = 0
    """Jobs that run at the same time; 0 for one a GPU, and one without any."""
    target: str = MAKE_WORLD
    describe: str = DESCRIBE
    limits: Limits = field(default_factory=Limits)
    patience: Patience = field(default_factory=Patience)
    recycling: Recycling = field(default_factory=Recycling)
    ray: str = ""
    """Address of the Ray cluster whose GPUs run the jobs; empty for this machine."""
    heartbeat_s: float = HEARTBEAT_S


def channel_options(limits: Limits) -> list[tuple[str, int]]:
    """Options of the server side (spec bridge 8.2; the ping name is the one that works)."""
    return [
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.http2.max_frame_size", MIB),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.so_reuseport", 0),
    ]


async def serve(options: ServerOptions, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        options: Store, address and limits.
        ready: Called with the address once calls are answered.

    Raises:
        ServerRefused: The address is taken or not loopback, or another server owns the store.
        InvalidRequest: The address or the default engine is not one.
        EngineFailed: The generator cannot list its presets.
        StorageUnwritable: The store cannot be written.
        CorruptData: The journal of the store cannot be read.
    """
    stop = _stop_on_signals()
    refuse_open_address(options.bind)
    lock = _take_store(options.store)
    blobs = Blobs(options.store / "blobs", options.limits)
    journal = Journal(options.store / "journal.sqlite", whole=blobs.has)
    scheduler = Scheduler(
        journal, blobs, options.store, pool=await _pool(options), target=options.target,
        share=FairShare(running_per_owner=options.limits.running_per_owner),
    )  # fmt: skip
    server = grpc.aio.server(options=channel_options(options.limits))
    address = _bind(server, options.bind)
    shared = await _context(options, journal, blobs, scheduler)
    rpc.add_WorldsServicer_to_server(WorldsService(shared), server)
    leave = await _add_health(server)
    sweep(options.store, journal, blobs)
    for name in journal.requeue_running():
        LOGGER.warning("job %s was running when the server ended; it continues", name)
    await server.start()
    running = asyncio.create_task(scheduler.run())
    record = {"address": address, "pid": os.getpid()}
    write_whole(options.store / "server.json", json.dumps(record).encode())
    ready(address)
    await stop.wait()
    LOGGER.info("draining")
    await leave()
    await scheduler.drain()
    await server.stop(grace=STREAMS_S)
    await running
    journal.close()
    (options.store / "server.json").unlink(missing_ok=True)
    os.close(lock)


async def _pool(options: ServerOptions) -> Pool:
    """Where jobs run."""
    return await open_pool(
        options.store, gpus=len(list_gpus()), workers=options.slots, ray=options.ray,
        patience=options.patience, recycling=options.recycling,
    )  # fmt: skip


async def _context(
    options: ServerOptions, journal: Journal, blobs: Blobs, scheduler: Scheduler
) -> Context:
    """What the calls share; asks the generator for its presets."""
    presets = await describe_engines(options.store / "worker.log", options.describe)
    names = [preset["name"] for preset in presets]
    if options.engine not in names:
        raise InvalidRequest(
            f"unknown engine preset {options.engine!r}; use one of {', '.join(names)}",
            field="engine",
        )
    nonce = secrets.token_hex(16)
    write_whole(options.store / "nonce", nonce.encode())
    return Context(
        journal=journal, blobs=blobs, scheduler=scheduler, limits=options.limits,
        store=options.store.resolve(), nonce=nonce, presets=tuple(presets),
        default_engine=options.engine, gpus=list_gpus(), heartbeat_s=options.heartbeat_s,
    )  # fmt: skip


def list_gpus(folder: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of the GPUs as NVIDIA's kernel driver tells them, without loading any library."""
    found = []
    for file in sorted(folder.glob("*/information")):
        lines = file.read_text("utf-8", "replace").splitlines()
        found += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(found)


def _take_store(store: Path) -> int:
    """Make the store, for its owner alone, and lock it; the open file descriptor of the lock."""
    existed = store.is_dir()
    make_folder(store)
    if not existed:
        store.chmod(0o700)
    return lock_store(store)


def refuse_open_address(bind: str) -> None:
    """Refuse to listen beyond this machine: without TLS and tokens anyone could use it.

    Raises:
        ServerRefused: The address is not loopback.
        InvalidRequest: It is no address.
    """
    host, colon, port = bind.rpartition(":")
    if not (colon and host and port.isdigit() and int(port) < 65536):
        raise InvalidRequest(
            f"{bind!r} is no address to listen on; use HOST:PORT such as 127.0.0.1:0 (0 = any port)"
        )
    if not _is_loopback(host):
        raise ServerRefused(
            f"refusing to listen on {bind}: without TLS and tokens only loopback addresses are "
            "served. Bind 127.0.0.1:PORT and reach it through 'ssh -L PORT:127.0.0.1:PORT HOST'"
        )


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach a host; names other than localhost are not trusted."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def lock_store(store: Path) -> int:
    """Take the store's lock for the life of this process; the open file descriptor.

    Raises:
        ServerRefused: Another server has it.
    """
    handle = os.open(store / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(handle)
        raise ServerRefused(
            f"another server uses the store {store}; stop it, or choose another --store"
        ) from error
    return handle


def _bind(server: grpc.aio.Server, bind: str) -> str:
    try:
        port = server.add_insecure_port(bind)
    except RuntimeError as error:
        port, cause = 0, error
    else:
        cause = None
    if port == 0:
        raise ServerRefused(
            f"cannot listen on {bind}: the port is in use or not allowed. Choose another, or 0 for "
            "any free one"
        ) from cause
    host = bind.rpartition(":")[0]
    return f"{host}:{port}"


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


async def _add_health(server: grpc.aio.Server) -> Callable[[], Awaitable[None]]:
    """Standard health checks; the returned function says that this server is going away."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    serving = health_pb2.HealthCheckResponse.SERVING
    await servicer.set("worldloom.bridge.v1.Worlds", serving)
    return servicer.enter_graceful_shutdown
