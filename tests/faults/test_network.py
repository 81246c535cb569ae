"""Cut, stalled, slowed and damaged connections; clients that vanish; readers that do not read."""

import gc
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.bridge.conftest import Server, Tools, photo, start, world_request  # noqa: F401
from tests.faults.proxy import Fault, Proxy, cut_after, flip, stall
from worldloom.bridge import streams
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.bridge.transfer import part_file
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import ServerUnreachable
from worldloom.scene.limits import MIB
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import check_files

CONTENT = random.Random(5).randbytes(4_200_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
REF = ArtifactRef(0, "splats", f"splats/{DIGEST}.usdc", DIGEST, len(CONTENT))
IDLE_S = 0.8
NUMBERED = ArtifactRef | StateChange


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("network") / "store", options={"slots": 2})
    yield running
    code, _, err = running.end()
    assert code == 0, err


@pytest.fixture(scope="module")
def blob(server, tmp_path_factory):
    """A blob on the server, as something to fetch."""
    file = tmp_path_factory.mktemp("blob") / "content"
    file.write_bytes(CONTENT)
    with server.client() as client:
        client.upload(InputRef("photo", DIGEST, len(CONTENT)), file)
    return REF


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch):
    monkeypatch.setattr(streams, "PAUSE_S", (0.02, 0.1))


def fetch_through(proxy, file):
    """Fetch the blob; the offsets that the client asked for, and what lay there at that time."""
    asked = []
    with WorldsClient(proxy.address, idle_s=IDLE_S) as client:
        read = client._stub.ReadBlob

        def record(request):
            part = part_file(REF, file)
            asked.append((request.offset, part.stat().st_size if part.exists() else 0))
            return read(request)

        client._stub.ReadBlob = record
        client.fetch(REF, file)
    return asked


def check_resumed(asked, file):
    """The file is whole, and nothing that had come as a whole part was asked for again."""
    assert hashlib.sha256(file.read_bytes()).hexdigest() == DIGEST
    offsets = [offset for offset, _ in asked]
    assert offsets == [size for _, size in asked]
    assert offsets == sorted(offsets)
    assert all(offset % MIB == 0 for offset in offsets)


FAULTS = st.builds(
    Fault,
    at=st.integers(0, len(CONTENT) + 2000),
    kind=st.sampled_from(["cut", "flip", "stall"]),
    seconds=st.sampled_from([0.05, 2 * IDLE_S]),
)


@settings(
    max_examples=12, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(faults=st.lists(FAULTS, min_size=1, max_size=3))
@example([cut_after(MIB // 2), cut_after(2 * MIB), cut_after(4 * MIB)])
@example([flip(10), flip(MIB), flip(3 * MIB)])
def test_whatever_the_network_does_the_file_is_identical(server, blob, tmp_path, faults):
    file = tmp_path / f"{time.monotonic_ns()}.usdc"
    with Proxy(server.address, *faults) as proxy:
        asked = fetch_through(proxy, file)
    check_resumed(asked, file)


@settings(
    max_examples=10, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    # Requests carry no checksum, as parts do: a flip among them is TLS's to find.
    faults=st.lists(FAULTS.filter(lambda f: f.kind != "flip"), min_size=1, max_size=3),
    number=st.integers(1, 10**9),
)
@example([cut_after(MIB // 2), cut_after(2 * MIB), cut_after(4 * MIB)], 1)
@example([flip(MIB), flip(3 * MIB)], 2)
def test_whatever_the_network_does_an_upload_arrives(server, tmp_path, faults, number):
    content = random.Random(number).randbytes(len(CONTENT))
    ref = InputRef("photo", hashlib.sha256(content).hexdigest(), len(content))
    (tmp_path / "up").write_bytes(content)
    with Proxy(server.address, *faults, upwards=True) as proxy, WorldsClient(
        proxy.address, idle_s=IDLE_S
    ) as client:
        client.upload(ref, tmp_path / "up")
    with server.client() as client:
        back = ArtifactRef(0, "splats", "x", ref.sha256, ref.bytes)
        assert client.fetch(back, tmp_path / f"{number}").read_bytes() == content


def test_a_cut_connection_is_resumed_at_the_last_whole_part(server, blob, tmp_path):
    cuts = [cut_after(MIB + MIB // 2), cut_after(3 * MIB)]
    with Proxy(server.address, *cuts) as proxy:
        asked = fetch_through(proxy, tmp_path / "x")
    check_resumed(asked, tmp_path / "x")
    assert [offset for offset, _ in asked][:2] == [0, MIB]
    assert len(proxy.happened) == 2
    # Twice on the wire: the begun parts at the two cuts, and what was under way.
    assert proxy.passed < len(CONTENT) + 3 * MIB


def test_a_flipped_byte_costs_the_part_that_it_is_in(server, blob, tmp_path):
    with Proxy(server.address, flip(2 * MIB + MIB // 2)) as proxy:
        asked = fetch_through(proxy, tmp_path / "x")
    check_resumed(asked, tmp_path / "x")
    assert [offset for offset, _ in asked] == [0, 2 * MIB]


def test_a_stalled_read_is_given_up_after_the_idle_time(server, blob, tmp_path):
    with Proxy(server.address, stall(2 * MIB + 5, 30.0)) as proxy:
        with WorldsClient(proxy.address, idle_s=0.3, away_s=0) as client:
            begin = time.monotonic()
            with pytest.raises(ServerUnreachable, match=r"nothing came .* for 0\.3 s"):
                client.fetch(REF, tmp_path / "x")
            assert time.monotonic() - begin < 5
        # The proxy stalls all of its connection, so the rest comes from the server itself.
        kept = part_file(REF, tmp_path / "x").stat().st_size
    assert kept == MIB
    with server.client() as client:
        client.fetch(REF, tmp_path / "x")
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_slow_connection_is_not_an_idle_one(server, blob, tmp_path):
    # All of it takes longer than the idle time, a part a third of it.
    with Proxy(server.address, rate=4_000_000) as proxy:
        asked = fetch_through(proxy, tmp_path / "x")
    assert len(asked) == 1
    assert (tmp_path / "x").read_bytes() == CONTENT


def test_a_whole_world_comes_over_a_bad_connection(
    server, photo, world_request, tmp_path, monkeypatch  # noqa: F811
):
    monkeypatch.setattr("worldloom.bridge.blobcalls.take_from_store", lambda *_: False)
    faults = [cut_after(1000), cut_after(900_000), stall(2_000_000, 1.5), cut_after(3_000_000)]
    with Proxy(server.address, *faults) as proxy, WorldsClient(
        proxy.address, idle_s=IDLE_S
    ) as client:
        job = client.submit(world_request(chunks=4), {"photo": photo})
        manifest = follow(client, job, tmp_path / "w")
    assert len(proxy.happened) >= 2
    assert manifest.complete
    assert check_files(tmp_path / "w", manifest) == []


def test_a_watch_over_a_bad_connection_tells_every_event_once(
    server, photo, world_request  # noqa: F811
):
    faults = [cut_after(2500), stall(4000, 2 * IDLE_S), cut_after(6000), cut_after(9000)]
    with server.client() as direct:
        job = direct.submit(world_request(chunks=30), {"photo": photo})
        with Proxy(server.address, *faults) as proxy, WorldsClient(
            proxy.address, idle_s=IDLE_S
        ) as client:
            seqs = [e.seq for e in client.watch(job.name) if isinstance(e, NUMBERED)]
        told = [e.seq for e in direct.watch(job.name) if isinstance(e, NUMBERED)]
    assert seqs == told
    assert len(proxy.happened) >= 3


def test_no_broken_call_outlives_its_stream(
    server, photo, world_request, blob, tmp_path  # noqa: F811
):
    """One that lives until the interpreter ends can keep it from ending."""
    cuts = [cut_after(2500), cut_after(6000), cut_after(MIB)]
    gc.collect()
    gc.disable()
    try:
        with server.client() as direct:
            job = direct.submit(world_request(chunks=10), {"photo": photo})
            Tools.end_of(direct, job.name)
        with Proxy(server.address, *cuts) as proxy, WorldsClient(proxy.address) as client:
            assert sum(isinstance(e, NUMBERED) for e in client.watch(job.name)) > 20
            client.fetch(REF, tmp_path / "x")
            upload = InputRef("photo", hashlib.sha256(b"u" * 99).hexdigest(), 99)
            (tmp_path / "u").write_bytes(b"u" * 99)
            client.upload(upload, tmp_path / "u")
        assert len(proxy.happened) == 3
        calls = [o for o in gc.get_objects() if "Rendezvous" in type(o).__name__]
    finally:
        gc.enable()
    assert calls == []


def test_a_silent_upload_is_given_up_and_goes_on_later(server, tmp_path):
    content = random.Random(6).randbytes(3 * MIB)
    ref = InputRef("photo", hashlib.sha256(content).hexdigest(), len(content))
    (tmp_path / "p").write_bytes(content)
    with Proxy(server.address, stall(MIB + 5, 30.0), upwards=True) as proxy, WorldsClient(
        proxy.address, idle_s=0.5, away_s=0
    ) as client, pytest.raises(ServerUnreachable, match=r"nothing came"):
        client.upload(ref, tmp_path / "p")
    with server.client() as client:
        client.upload(ref, tmp_path / "p")
        client.fetch(ArtifactRef(0, "splats", "x", ref.sha256, ref.bytes), tmp_path / "y")
    assert (tmp_path / "y").read_bytes() == content


VANISHING = """
    import sys, threading, grpc
    from worldloom.bridge.v1 import bridge_pb2 as pb, bridge_pb2_grpc as rpc
    address, job, digest = sys.argv[1:]
    stub = rpc.WorldsStub(grpc.insecure_channel(address, [("grpc.max_receive_message_length", -1)]))
    calls = [stub.WatchJob(pb.WatchJobRequest(name=job)) for _ in range(20)]
    calls += [stub.ReadBlob(pb.ReadBlobRequest(sha256=digest)) for _ in range(20)]
    for call in calls:
        next(call)
    print("reading", flush=True)
    threading.Event().wait()
"""


def test_a_client_that_is_killed_leaves_no_handler_behind(
    start, photo, world_request, blob, tmp_path  # noqa: F811
):
    server = start(options={})
    (tmp_path / "c").write_bytes(CONTENT * 8)
    big = hashlib.sha256(CONTENT * 8).hexdigest()
    with server.client() as client:
        client.upload(InputRef("photo", big, 8 * len(CONTENT)), tmp_path / "c")
        job = client.submit(world_request(chunks=1, faults={"slow": 60}), {"photo": photo})
        Tools.worker_of(client, job.name)
        before = tasks_of(server), handles_of(server)
        vanishing = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(VANISHING), server.address, job.name, big],
            stdout=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert vanishing.stdout.readline() == b"reading\n"
        assert tasks_of(server) >= before[0] + 40
        vanishing.send_signal(signal.SIGKILL)
        vanishing.communicate()
        Tools.wait(lambda: tasks_of(server) <= before[0], seconds=5)
        Tools.wait(lambda: handles_of(server) <= before[1], seconds=5)
        assert client.job(job.name).state == "running"
        client.cancel(job.name)


def test_readers_that_do_not_read_cost_the_server_little_memory(server, tmp_path):
    content = random.Random(7).randbytes(48 * MIB)
    (tmp_path / "big").write_bytes(content)
    ref = InputRef("photo", hashlib.sha256(content).hexdigest(), len(content))
    readers = 6
    with server.client() as client:
        client.upload(ref, tmp_path / "big")
        before = rss_of(server)
        channels = [
            grpc.insecure_channel(server.address, [("grpc.max_receive_message_length", 8 * MIB),
                                                   ("n", n)])
            for n in range(readers)
        ]  # fmt: skip
        calls = [
            rpc.WorldsStub(channel).ReadBlob(pb.ReadBlobRequest(sha256=ref.sha256))
            for channel in channels
        ]
        first = [next(call) for call in calls]
        highest = steady(lambda: rss_of(server))
        # All of it would be 288 MiB.
        assert highest - before < readers * 12 * MIB
        assert client.server_info().version
        whole = first[0].data + b"".join(part.data for part in calls[0])
        assert whole == content
        for channel in channels:
            channel.close()


def steady(measure, *, seconds=5.0):
    """The highest value of a measure, once it no longer grows."""
    highest, since, end = measure(), time.monotonic(), time.monotonic() + seconds
    while time.monotonic() - since < 0.7 and time.monotonic() < end:
        time.sleep(0.05)
        if (now := measure()) > highest:
            highest, since = now, time.monotonic()
    return highest


def tasks_of(server):
    """Coroutines that run in a server: each open call is one."""
    server.process.send_signal(signal.SIGUSR2)
    return json.loads(server.process.stdout.readline())["tasks"]


def handles_of(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def rss_of(server):
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def environment():
    return dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
