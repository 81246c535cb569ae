"""One store -> a gRPC server on it: lock, journal, scheduler, health, drain."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import secrets
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from worldloom.bridge.admission import HEARTBEAT_S, Context
from worldloom.bridge.blobs import Blobs
from worldloom.bridge.fairshare import FairShare
from worldloom.bridge.gate import Gate
from worldloom.bridge.journal import Journal
from worldloom.bridge.lanes import TURNS, Lanes
from worldloom.bridge.metrics import LOOPBACK, Gauges, Meter, MetricsPage, serve_metrics
from worldloom.bridge.pool import Recycling, open_pool
from worldloom.bridge.probes import Health, add_debug_services
from worldloom.bridge.restore import open_journal
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.service import WorldsService
from worldloom.bridge.space import Space
from worldloom.bridge.storelock import take_store
from worldloom.bridge.tls import Safety, check_safety, server_credentials
from worldloom.bridge.tokens import Tokens
from worldloom.bridge.upkeep import look_after
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.workers import DESCRIBE, MAKE_WORLD, Patience, Pool, describe_engines
from worldloom.scene.errors import InvalidRequest, ServerRefused
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.worldfolder import write_whole

LOGGER = logging.getLogger(__name__)
PENDING = 1_000_000
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
    safety: Safety = field(default_factory=Safety)
    """How callers and server prove who they are; needed beyond loopback."""
    metrics: int | None = None
    """Port of the Prometheus page on loopback; 0 for any free one, None for no page."""
    debug: bool = False
    """Whether to offer reflection and channelz."""


def channel_options(limits: Limits) -> list[tuple[str, int]]:
    """Options of the server side (spec bridge 8.2; the ping name is the one that works)."""
    return [
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.http2.max_frame_size", MIB),
        ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
        ("grpc.so_reuseport", 0),
        # A client that asks for more at once waits at its own end, not in front of others.
        ("grpc.max_concurrent_streams", limits.watch_per_owner + 2 * limits.streams_per_owner),
        # gRPC cancels calls at random when more than 1000 wait to be begun; we refuse by kind.
        ("grpc.server.max_pending_requests", PENDING),
        ("grpc.server.max_pending_requests_hard_limit", PENDING),
    ]


async def serve(options: ServerOptions, ready: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        options: Store, address and limits.
        ready: Called with the address once calls are answered.

    Raises:
        ServerRefused: The address is taken, or open to strangers, or another server owns the store.
        InvalidRequest: The address or the default engine is not one, or a file cannot be used.
        EngineFailed: The generator cannot list its presets.
        StorageUnwritable: The store cannot be written.
        CorruptData: The journal of the store cannot be restored.
    """
    stop = _stop_on_signals()
    check_safety(options.bind, options.safety)
    _allow_many_connections()
    lock = take_store(options.store)
    blobs = Blobs(options.store / "blobs", options.limits)
    meter = Meter()
    gate = _gate(options.safety, meter)
    server = grpc.aio.server(options=channel_options(options.limits), interceptors=(gate,))
    address = _bind(server, options.bind, server_credentials(options.safety))
    journal, presets = await _open(options, blobs)
    scheduler = Scheduler(
        journal, blobs, options.store, pool=await _pool(options), target=options.target,
        share=FairShare(running_per_owner=options.limits.running_per_owner), meter=meter,
        space=Space(options.store, options.limits.free_space_floor),
    )  # fmt: skip
    shared = _context(options, presets, journal, blobs, scheduler, meter)
    rpc.add_WorldsServicer_to_server(WorldsService(shared), server)
    health = Health(server)
    if options.debug:
        add_debug_services(server)
    for name in journal.requeue_running():
        LOGGER.warning("job %s was running when the server ended; it continues", name)
    page = _metrics(options, shared)
    await health.say(scheduler.problem())
    await server.start()
    running = asyncio.create_task(scheduler.run())
    following = asyncio.create_task(health.follow(scheduler.problem))
    upkeep = asyncio.create_task(look_after(options.store, journal, blobs, scheduler))
    record: dict[str, Any] = {"address": _from_here(address), "pid": os.getpid()}
    if options.safety.tls_cert is not None:
        record["tls"] = True
    if page is not None:
        record["metrics"] = f"http://{LOOPBACK}:{page.port}/metrics"
    write_whole(options.store / "server.json", json.dumps(record).encode())
    ready(address)
    await stop.wait()
    LOGGER.info("draining")
    await health.leave()
    following.cancel()
    upkeep.cancel()
    await scheduler.drain()
    await server.stop(grace=STREAMS_S)
    await running
    if page is not None:
        page.close()
    journal.close()
    (options.store / "server.json").unlink(missing_ok=True)
    os.close(lock)


async def _open(
    options: ServerOptions, blobs: Blobs
) -> tuple[Journal, Sequence[dict[str, Any]]]:
    """The journal, and the presets of the generator, which is asked meanwhile."""
    describing = asyncio.create_task(
        describe_engines(options.store / "worker.log", options.describe)
    )
    try:
        journal = await asyncio.to_thread(open_journal, options.store, blobs)
    finally:
        # A process that is just being started cannot be given up.
        await asyncio.wait([describing])
    return journal, await describing


async def _pool(options: ServerOptions) -> Pool:
    """Where jobs run."""
    return await open_pool(
        options.store, gpus=len(list_gpus()), workers=options.slots, ray=options.ray,
        patience=options.patience, recycling=options.recycling,
    )  # fmt: skip


def _context(
    options: ServerOptions, presets: Sequence[dict[str, Any]], journal: Journal, blobs: Blobs,
    scheduler: Scheduler, meter: Meter,
) -> Context:  # fmt: skip
    """What the calls share."""
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
        lanes=Lanes(options.limits), meter=meter,
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


def _gate(safety: Safety, meter: Meter) -> Gate:
    """The gate for callers; SIGHUP makes it read its tokens again."""
    if safety.tokens is None:
        return Gate(meter, mtls=safety.client_ca is not None)
    file = safety.tokens
    gate = Gate(meter, Tokens.read(file))

    def read_again() -> None:
        try:
            gate.tokens = Tokens.read(file)
        except InvalidRequest as error:
            LOGGER.error("the old tokens stay: %s", error)
        else:
            LOGGER.info("read %d token(s)", len(gate.tokens))

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, read_again)
    return gate


def _metrics(options: ServerOptions, shared: Context) -> MetricsPage | None:
    if options.metrics is None:
        return None
    lanes = shared.lanes
    gauges = Gauges(
        store=shared.store, jobs=shared.journal.depth, problem=shared.scheduler.problem,
        streams=lambda: {kind: lanes.count(kind) for kind in TURNS},
    )  # fmt: skip
    return serve_metrics(options.metrics, shared.meter, gauges)


def _allow_many_connections() -> None:
    """Use all file descriptors that this process may have: each client is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _bind(server: grpc.aio.Server, bind: str, how: grpc.ServerCredentials | None) -> str:
    try:
        port = server.add_secure_port(bind, how) if how else server.add_insecure_port(bind)
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


def _from_here(address: str) -> str:
    """The address under which callers on this machine reach the server."""
    host, _, port = address.rpartition(":")
    return f"localhost:{port}" if host in ("0.0.0.0", "[::]") else address


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
