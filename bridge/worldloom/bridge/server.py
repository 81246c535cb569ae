"""One store -> a gRPC server on it: lock, journal, scheduler, health, drain."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.journal import Journal
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.service import Context, WorldsService
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.workers import DESCRIBE, MAKE_WORLD, describe_engines
from worldloom.scene.errors import ServerRefused
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.worldfolder import make_folder, write_whole

LOGGER = logging.getLogger(__name__)
LOOPBACK = ("127.", "localhost", "[::1]", "unix:")
DRAIN_S = 25.0  # A drain ends within this [s] (spec bridge 8.5, fault 16).


@dataclass(frozen=True)
class ServerOptions:
    """How to serve."""

    store: Path
    bind: str = "127.0.0.1:0"
    engine: str = "preview"
    """Preset for clients that name none."""
    slots: int = 1
    """Jobs that run at the same time."""
    target: str = MAKE_WORLD
    describe: str = DESCRIBE
    limits: Limits = field(default_factory=Limits)


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
        StorageUnwritable: The store cannot be written.
    """
    refuse_open_address(options.bind)
    make_folder(options.store)
    lock = lock_store(options.store)
    journal = Journal(options.store / "journal.sqlite")
    blobs = Blobs(options.store / "blobs", options.limits)
    blobs.sweep()
    for name in journal.requeue_running():
        LOGGER.warning("job %s was running when the server ended; it continues", name)
    scheduler = Scheduler(
        journal, blobs, options.store, slots=options.slots, target=options.target
    )
    nonce = secrets.token_hex(16)
    write_whole(options.store / "nonce", nonce.encode())
    presets = asyncio.create_task(
        describe_engines(options.store / "worker.log", options.describe)
    )
    service = WorldsService(
        Context(
            journal, blobs, scheduler, options.limits, options.store.resolve(), nonce, presets,
            options.engine,
        )
    )
    server = grpc.aio.server(options=channel_options(options.limits))
    rpc.add_WorldsServicer_to_server(service, server)
    health = _add_health(server)
    address = _bind(server, options.bind)
    await server.start()
    stop = _stop_on_signals()
    running = asyncio.create_task(scheduler.run())
    record = {"address": address, "pid": os.getpid()}
    write_whole(options.store / "server.json", json.dumps(record).encode())
    ready(address)
    await stop.wait()
    LOGGER.info("draining")
    await health()
    await asyncio.wait_for(scheduler.drain(), DRAIN_S)
    await server.stop(grace=2.0)
    await running
    journal.close()
    (options.store / "server.json").unlink(missing_ok=True)
    os.close(lock)


def refuse_open_address(bind: str) -> None:
    """Refuse to listen beyond this machine: without TLS and tokens anyone could use it.

    Raises:
        ServerRefused: The address is not loopback.
    """
    if not bind.startswith(LOOPBACK):
        raise ServerRefused(
            f"refusing to listen on {bind}: without TLS and tokens only loopback addresses are "
            "served. Bind 127.0.0.1:PORT and reach it through 'ssh -L PORT:127.0.0.1:PORT HOST'"
        )


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


def _add_health(server: grpc.aio.Server) -> Callable[[], object]:
    """Standard health checks; the returned function says that this server is going away."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    serving = health_pb2.HealthCheckResponse.SERVING
    task = asyncio.get_running_loop().create_task(
        servicer.set("worldloom.bridge.v1.Worlds", serving)
    )

    async def leave() -> None:
        await task
        await servicer.enter_graceful_shutdown()

    return leave
