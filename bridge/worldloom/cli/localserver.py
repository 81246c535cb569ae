"""A real `worldloom serve` as a child process: what demo and generate use without `--server`."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.errors import ServerRefused
from worldloom.scene.worldfolder import make_folder

START_TIMEOUT_S = 60.0  # A cold start imports grpc only; a busy disk can still take this long.
STOP_TIMEOUT_S = 30.0  # The server drains within this (spec bridge 8.5, fault 16).


@dataclass(frozen=True)
class LocalServer:
    """A server that is up."""

    address: str
    pid: int
    store: Path
    log: Path


@contextmanager
def local_server(
    store: Path, *, engine: str = "preview", weights: Path | None = None
) -> Iterator[LocalServer]:
    """Start a server on a free loopback port; stop it gently at the end.

    The child has its own session, so that Ctrl-C reaches this process alone and the server is
    told by SIGTERM: its worker then stops at a checkpoint.

    Raises:
        ServerRefused: The server did not start; the text holds what it said.
        StorageUnwritable: The store folder cannot be made.
    """
    make_folder(store)
    log = store / "server.log"
    command = [
        sys.executable, "-m", "worldloom.cli.main", "serve",
        "--engine", engine, "--bind", "127.0.0.1:0", "--store", str(store),
    ]  # fmt: skip
    if weights is not None:
        command += ["--weights", str(weights)]
    with log.open("ab") as errors:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
        )
    try:
        first = _first_line(process, log)
        yield LocalServer(first["address"], int(first["pid"]), store, log)
    finally:
        _stop(process)


def _first_line(process: subprocess.Popen[bytes], log: Path) -> dict[str, str]:
    """Wait for the one JSON line that tells the address."""
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    data, deadline = b"", time.monotonic() + START_TIMEOUT_S
    while b"\n" not in data and time.monotonic() < deadline:
        if not selector.select(timeout=0.5):
            continue
        block = os.read(process.stdout.fileno(), 4096)
        if not block:
            break
        data += block
    selector.close()
    try:
        return json.loads(data.split(b"\n")[0])
    except json.JSONDecodeError as error:
        tail = log.read_text("utf-8", "replace").strip().splitlines()[-3:]
        ended = time.monotonic() < deadline
        how = "stopped at once" if ended else f"did not start within {START_TIMEOUT_S:g} s"
        raise ServerRefused(
            f"the local server {how}: "
            f"{' / '.join(tail) or 'it said nothing'}; its log is {log}"
        ) from error


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
