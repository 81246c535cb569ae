"""A server with 1,000 jobs in its journal is killed; how soon is it back, and what is sent twice?

Run alone: python benchmarks/bridge_restart.py [--jobs N]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

JOBS = 1000
CHUNKS = 10  # Of each finished job: 3 artifacts a chunk, as a real one has.
UPLOAD_MIB, DOWNLOAD_MIB = 24, 56
TARGET_S = 2.0


@dataclass(frozen=True)
class Restart:
    """What was measured."""

    jobs: int
    journal_mib: float
    """Size of the journal that the new server reads."""
    first_start_s: float
    """Start on an empty store, from the process to the first answer of the health check."""
    ready_s: float
    """The same after kill -9 with all those jobs, two of which were running."""
    listed: int
    """Jobs that the new server lists."""
    sent_twice_up: int
    """Bytes of an upload that was cut in half and had to be sent again."""
    sent_twice_down: int
    """Bytes of a download that was cut in half and had to be sent again."""

    @property
    def reached(self) -> bool:
        """Whether the targets are met."""
        return self.ready_s <= TARGET_S and self.sent_twice_up == self.sent_twice_down == 0


def measure_restart(*, jobs: int = JOBS, folder: Path | None = None) -> Restart:
    """Fill a store, kill its server in the middle of two transfers, and start another one."""
    base = Path(tempfile.mkdtemp(prefix="restart-", dir=folder))
    try:
        store = base / "store"
        first_start_s = _stop(_start(base / "empty"), signal.SIGTERM)
        _fill(store, jobs)
        server = _start(store)
        offsets = _begin_transfers(server.address, base)
        _stop(server, signal.SIGKILL)
        size = sum(file.stat().st_size for file in store.glob("journal.sqlite*"))
        _run_again(store)
        server = _start(store)
        listed, twice = _finish_transfers(server.address, base, offsets)
        ready_s = _stop(server, signal.SIGTERM)
        return Restart(jobs, size / (1 << 20), first_start_s, ready_s, listed, *twice)
    finally:
        shutil.rmtree(base)


@dataclass(frozen=True)
class _Server:
    process: subprocess.Popen[str]
    address: str
    ready_s: float


def _start(store: Path) -> _Server:
    """A server as users start it; ready when the health check says SERVING."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "worldloom.cli.main", "serve", "--store", str(store)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    line = process.stdout.readline() if process.stdout else ""
    address = json.loads(line)["address"]
    with grpc.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service="worldloom.bridge.v1.Worlds")
        status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status
        if status != health_pb2.HealthCheckResponse.SERVING:
            raise RuntimeError(f"the server says it is ready, but its health is {status}")
    return _Server(process, address, time.perf_counter() - begin)


def _stop(server: _Server, number: signal.Signals) -> float:
    server.process.send_signal(number)
    server.process.communicate(timeout=60)
    return server.ready_s


def _fill(store: Path, jobs: int) -> None:
    """Journal finished jobs as their workers would have; without waiting for the disk each time."""
    from worldloom.bridge.blobs import Blobs
    from worldloom.bridge.jobs import Job
    from worldloom.bridge.restore import open_journal
    from worldloom.scene.limits import Limits
    from worldloom.scene.path_presets import preset
    from worldloom.scene.request import WorldRequest

    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal, journal.transaction():
        made = store / "made"
        made.write_bytes(os.urandom(1000))
        digest, size = blobs.adopt(made)
        for number in range(jobs):
            name = f"job-{number:05d}"
            path = preset("dolly", frames=1 + 80 * CHUNKS)
            request = WorldRequest("preview", path, seed=number)
            text = request.canonical().decode()
            job = Job(name, "local", "generate", "preview", request.hash(), text, "")
            journal.create(job, f"id-{number}", "content")
            journal.move(name, "running")
            for item in range(3 * CHUNKS):
                body = {"type": "artifact", "chunk": item // 3, "kind": "splats",
                        "path": f"splats/{item}.usdc", "sha256": digest, "bytes": size,
                        "supersedes": ""}  # fmt: skip
                journal.append(name, body)
            journal.move(name, "done")


def _run_again(store: Path) -> None:
    """Leave two jobs in the middle of their run, as the killed server would have."""
    import sqlite3

    with closing(sqlite3.connect(store / "journal.sqlite")) as db:
        body = json.dumps({"type": "state", "state": "running"})
        for name, seq in db.execute(
            "SELECT job, MAX(seq) FROM events GROUP BY job ORDER BY job DESC LIMIT 2"
        ).fetchall():
            db.execute("UPDATE events SET body=? WHERE job=? AND seq=?", (body, name, seq))
            db.execute("UPDATE jobs SET state='running' WHERE name=?", (name,))
        db.commit()


def _content(mib: int, seed: int) -> bytes:
    import random

    return random.Random(seed).randbytes(mib << 20)


def _begin_transfers(address: str, base: Path) -> tuple[int, int]:
    """Send half of an upload, and get half of a download; bytes that arrived of each."""
    import grpc

    from worldloom.bridge.v1 import bridge_pb2 as pb
    from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

    with grpc.insecure_channel(address) as channel:
        stub = rpc.WorldsStub(channel)
        whole = _content(DOWNLOAD_MIB, 1)
        name = _digest(whole)
        stub.WriteBlob(_parts(whole, name, 0, len(whole)))
        half = _content(UPLOAD_MIB, 2)
        sent = stub.WriteBlob(_parts(half, _digest(half), 0, len(half) // 2)).bytes
        got = bytearray()
        call = stub.ReadBlob(pb.ReadBlobRequest(sha256=name))
        for part in call:
            got.extend(part.data)
            if len(got) >= len(whole) // 2:
                call.cancel()
                break
    (base / "download").write_bytes(got)
    return sent, len(got)


def _finish_transfers(
    address: str, base: Path, offsets: tuple[int, int]
) -> tuple[int, tuple[int, int]]:
    """Go on with both, and count what came or went although it had arrived before."""
    import grpc

    from worldloom.bridge.client import WorldsClient
    from worldloom.bridge.v1 import bridge_pb2 as pb
    from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

    with WorldsClient(address) as client:
        listed = len(client.jobs())
    with grpc.insecure_channel(address) as channel:
        stub = rpc.WorldsStub(channel)
        half, whole = _content(UPLOAD_MIB, 2), _content(DOWNLOAD_MIB, 1)
        at = stub.StatBlob(pb.BlobRef(sha256=_digest(half))).bytes
        stat = stub.WriteBlob(_parts(half, _digest(half), at, len(half)))
        if not stat.committed:
            raise RuntimeError("the upload did not end")
        file = base / "download"
        again = pb.ReadBlobRequest(sha256=_digest(whole), offset=file.stat().st_size)
        received = 0
        with file.open("ab") as out:
            for part in stub.ReadBlob(again):
                received += len(part.data)
                out.write(part.data)
        if file.read_bytes() != whole:
            raise RuntimeError("the download is not what was uploaded")
    return listed, (offsets[0] - at, offsets[1] + received - len(whole))


def _parts(content: bytes, name: str, begin: int, end: int) -> Iterator[Any]:
    """Parts of 1 MiB of an upload."""
    import zlib

    from worldloom.bridge.v1 import bridge_pb2 as pb

    for at in range(begin, end, 1 << 20):
        data = content[at : min(at + (1 << 20), end)]
        crc = zlib.crc32(data)
        yield pb.Part(sha256=name, offset=at, data=data, crc32=crc, total=len(content))


def _digest(content: bytes) -> str:
    import hashlib

    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """Measure once and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=JOBS)
    found = measure_restart(jobs=parser.parse_args().jobs)
    print(f"  jobs in the journal       {found.jobs} ({found.journal_mib:.1f} MiB)")
    print(f"  first start               {found.first_start_s:.2f} s")
    print(f"  ready after kill -9       {found.ready_s:.2f} s (target {TARGET_S:g} s)")
    print(f"  jobs listed               {found.listed}")
    print(f"  bytes sent twice          {found.sent_twice_up} up, {found.sent_twice_down} down")
    return 0 if found.reached else 3


if __name__ == "__main__":
    sys.exit(main())
