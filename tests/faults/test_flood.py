"""Thousands of watchers, creates and reads: everybody gets what was promised, nobody waits long."""

import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from worldloom.bridge.channel import Access
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.tokens import add_token
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

HERE = Path(__file__).parent
MANY = 1000
FLOOD = 10_000
GROWTH_MB = 60
QUICK_S, PATIENCE_S = 2.0, 10.0
"""Nine of ten control calls, and the slowest of all, on a busy machine of two cores that runs the
crowd, the server and the test [s]; its disk alone may hold up a commit for a second."""


class Crowd:
    """The crowd's process; its words one by one."""

    def __init__(self, address, what, **given):
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "crowd.py"), address, json.dumps({"what": what, **given})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def says(self):
        return json.loads(self.process.stdout.readline())

    def end(self):
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def crowd():
    crowds = []

    def gather(*args, **kwargs):
        crowds.append(Crowd(*args, **kwargs))
        assert crowds[-1].says() == {"begun": True}
        return crowds[-1]

    yield gather
    for each in crowds:
        each.end()


@contextmanager
def timed(call):
    """Make a call again and again meanwhile; its times [s], sorted at the end."""
    times, stop = [], threading.Event()

    def again():
        while not stop.is_set():
            began = time.monotonic()
            call()
            times.append(time.monotonic() - began)

    thread = FaultThread(again)
    thread.start()
    try:
        yield times
    finally:
        stop.set()
        thread.finish()
        times.sort()


class FaultThread(threading.Thread):
    """A thread whose error is the test's."""

    def __init__(self, work):
        super().__init__(daemon=True)
        self._work, self._error = work, None

    def run(self):
        try:
            self._work()
        except Exception as error:  # noqa: BLE001 - raised again in `finish`
            self._error = error

    def finish(self):
        self.join(30)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


def check_quick(times, *, most_s=QUICK_S, slowest_s=PATIENCE_S):
    """Control calls were answered, and soon; the first of a crowd's arrival may take longer."""
    assert len(times) > 10
    assert times[int(0.9 * len(times))] < most_s
    assert times[-1] < slowest_s


def memory_mb(server):
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def open_files(server):
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


@pytest.fixture
def busy(start, photo, world_request, tools):
    """A server whose only worker has a long job; server, client and the job's name."""
    server = start(options={"limits": {"queue_per_owner": 20, "jobs_per_minute": 0}})
    with server.client() as client:
        job = client.submit(world_request(faults={"slow": 600}), {"photo": photo})
        tools.worker_of(client, job.name)
        yield server, client, job.name
        client.cancel(job.name)


def template(world_request, **kwargs):
    text = world_request(seed=0, chunks=1, **kwargs).canonical().decode()
    assert '"seed":0' in text
    return text


def test_a_thousand_watchers_get_every_event_once_and_in_order(start, photo, world_request, crowd):
    server = start(options={"limits": {"watch_per_owner": MANY + 10}})
    with server.client() as client:
        job = client.submit(world_request(chunks=8, faults={"slow": 0.5}), {"photo": photo})
        next(client.watch(job.name))
        before = memory_mb(server)
        watchers = crowd(server.address, "watch", name=job.name, connections=MANY)
        with timed(lambda: client.job(job.name)) as times:
            seen = watchers.says()["seen"]
        last = client.job(job.name).last_seq
        assert client.job(job.name).state == "done"
    assert last > 8 * 3
    assert seen == {str(list(range(1, last + 1))): MANY}
    assert memory_mb(server) - before <= GROWTH_MB
    check_quick(times)


def test_a_thousand_cancelled_channels_leave_nothing_behind(
    start, photo, world_request, crowd, tools
):
    server = start(options={"limits": {"watch_per_owner": MANY + 10}})
    client = server.client()
    name = client.submit(world_request(faults={"slow": 600}), {"photo": photo}).name
    tools.worker_of(client, name)
    files, tasks = open_files(server), count_tasks(server)
    watchers = crowd(server.address, "leave", name=name, connections=MANY)
    assert open_files(server) >= files + MANY
    assert count_tasks(server) >= tasks + MANY
    watchers.process.stdin.write("leave\n")
    watchers.process.stdin.flush()
    assert watchers.says() == {"left": MANY}
    tools.wait(lambda: count_tasks(server) <= tasks + 2)
    tools.wait(lambda: open_files(server) <= files + 1)
    assert client.job(name).state == "running"
    client.cancel(name)
    client.close()


def count_tasks(server):
    """Coroutines that run in the server: each open call is one."""
    import signal

    server.process.send_signal(signal.SIGUSR2)
    return json.loads(server.process.stdout.readline())["tasks"]


def test_ten_thousand_creates_never_pass_the_cap_nor_starve_control_calls(
    busy, crowd, world_request
):
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server, client, name = busy
    with grpc.insecure_channel(server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)

        def control():
            client.job(name)
            assert health.Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1

        control()
        flood = crowd(
            server.address, "create", requests=FLOOD, connections=4,
            template=template(world_request),
        )  # fmt: skip
        began = time.monotonic()
        with timed(control) as times:
            found = flood.says()
        flood_s = time.monotonic() - began
        queued = [job for job in client.jobs() if job.state == "queued"]
        # What waits can be cancelled in the middle of it all, and makes room for others.
        assert client.cancel(queued[0].name).state == "cancelled"
    assert len(queued) == 20
    assert found == {"ends": {"OK": 20, "RESOURCE_EXHAUSTED": FLOOD - 20}, "told_when": FLOOD - 20}
    # Behind the whole flood one call would take as long as the flood.
    check_quick(times, most_s=flood_s / 6, slowest_s=flood_s / 3)


def test_the_flood_of_one_owner_leaves_room_for_another(
    start, photo, world_request, crowd, tmp_path
):
    file = tmp_path / "tokens"
    ann, eve = add_token(file, "ann"), add_token(file, "eve")
    server = start(
        options={"limits": {"queue_per_owner": 20, "jobs_per_minute": 0}, "tokens": str(file)}
    )
    with WorldsClient(server.address, access=Access(token=ann)) as own:
        with WorldsClient(server.address, access=Access(token=eve)) as greedy:
            greedy.submit(world_request(faults={"slow": 600}), {"photo": photo})
            slow = template(world_request, faults={"slow": 600})
            flood = crowd(
                server.address, "create", requests=2000, connections=2, token=eve, template=slow
            )
            job = own.submit(world_request(chunks=1), {"photo": photo})
            assert job.state == "queued"
            assert flood.says()["ends"]["OK"] == 20
            assert len(own.jobs()) == 1
            for each in greedy.jobs():
                greedy.cancel(each.name)
        ends = [event for event in own.watch(job.name) if isinstance(event, ArtifactRef)]
        assert ends


def test_many_readers_do_not_hold_up_control_calls(start, photo, world_request, crowd, tools):
    server = start(options={"limits": {"jobs_per_minute": 0}})
    with server.client() as client:
        job = client.submit(world_request(chunks=4), {"photo": photo})
        made = tools.artifacts(client, job.name)
        crowd(server.address, "read", sha256=made[0].sha256, connections=4, streams=60)
        with grpc.insecure_channel(server.address) as channel:
            stub = rpc.WorldsStub(channel)

            def control():
                client.job(job.name)
                assert stub.StatBlob(pb.BlobRef(sha256=made[0].sha256)).committed

            with timed(control) as times:
                end = tools.end_of(
                    client, client.submit(world_request(chunks=1), {"photo": photo}).name
                )
                tools.wait(lambda: len(times) > 30, seconds=30)
    assert end.state == "done"
    check_quick(times)
