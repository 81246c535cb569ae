"""Many watchers at once, slow ones, and those that leave."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

MANY = 200


def sequence(watch):
    return [event.seq for event in watch if event.seq]


def test_every_one_of_many_watchers_gets_every_event(client, submit, server):
    job = submit(chunks=4, faults={"slow": 0.3})
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(MANY) as pool:
        stub = rpc.WorldsStub(channel)
        watches = [stub.WatchJob(pb.WatchJobRequest(name=job.name)) for _ in range(MANY)]
        found = list(pool.map(sequence, watches))
    expected = list(range(1, client.job(job.name).last_seq + 1))
    assert all(numbers == expected for numbers in found)


def test_control_calls_stay_quick_beside_many_watchers(client, submit, server):
    job = submit(chunks=1, faults={"slow": 60})
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        watches = [stub.WatchJob(pb.WatchJobRequest(name=job.name)) for _ in range(MANY)]
        for watch in watches:
            next(watch)
        times = []
        for _ in range(20):
            begin = time.monotonic()
            client.job(job.name)
            times.append(time.monotonic() - begin)
        # Generous: the machine may be busy; a call that waits for watchers takes seconds.
        assert sorted(times)[10] < 0.25
        for watch in watches:
            watch.cancel()
    client.cancel(job.name)


def test_watchers_that_leave_cost_nothing_afterwards(client, submit, server, tools):
    job = submit(chunks=1, faults={"slow": 60})
    tools.worker_of(client, job.name)  # Its pipes are open from now on.
    handles = Path(f"/proc/{server.process.pid}/fd")
    client.job(job.name)
    before = len(list(handles.iterdir()))
    channels = [grpc.insecure_channel(server.address, [("n", i)]) for i in range(20)]
    watches = []
    for channel in channels:
        stub = rpc.WorldsStub(channel)
        watches += [stub.WatchJob(pb.WatchJobRequest(name=job.name)) for _ in range(5)]
    for watch in watches:
        next(watch)
    assert len(list(handles.iterdir())) >= before + 15
    for channel in channels:
        channel.close()
    tools.wait(lambda: len(list(handles.iterdir())) <= before + 1)
    assert client.job(job.name).state == "running"
    client.cancel(job.name)


def test_a_watcher_that_does_not_read_still_gets_all_that_is_journalled(client, submit, server):
    job = submit(chunks=40)
    with grpc.insecure_channel(server.address) as channel:
        watch = rpc.WorldsStub(channel).WatchJob(pb.WatchJobRequest(name=job.name))
        next(watch)
        for _ in client.watch(job.name):
            pass
        numbers = [1, *sequence(watch)]
    assert numbers == list(range(1, client.job(job.name).last_seq + 1))


def test_a_quiet_job_sends_heartbeats(start, photo, world_request):
    server = start(options={"heartbeat_s": 0.3})
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        job = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        watch = rpc.WorldsStub(channel).WatchJob(pb.WatchJobRequest(name=job.name), timeout=20)
        beats = (event for event in watch if event.WhichOneof("what") == "heartbeat")
        assert next(beats).seq == 0
        assert next(beats).seq == 0
        client.cancel(job.name)
