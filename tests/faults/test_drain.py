"""Fault 16: SIGTERM in each stage of a job; the server says so, ends in order, loses nothing."""

import hashlib
import os
import queue
import signal
import threading
import time
import zlib

import grpc
import pytest
from crash_trial import broken_promises
from grpc_health.v1 import health_pb2, health_pb2_grpc
from toy import make_world

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.scene.limits import MIB
from worldloom.scene.request import InputRef

IN_TIME_S = 30
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Told:
    """What a server says of itself while it ends."""

    def __init__(self, address):
        self.statuses = []
        self._channel = grpc.insecure_channel(address)
        request = health_pb2.HealthCheckRequest(service="worldloom.bridge.v1.Worlds")
        self._call = health_pb2_grpc.HealthStub(self._channel).Watch(request)
        self.statuses.append(next(self._call).status)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        # Listening on would hold up the end of the server for as long as it waits for streams.
        self.statuses.append(next(self._call).status)
        self._call.cancel()

    def end(self):
        self._reader.join(IN_TIME_S)
        self._channel.close()


def drain(server, *, until=None):
    """Send SIGTERM; the server must end in order and in time."""
    told = Told(server.address)
    begin = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    if until is not None:
        until()
    code, _, said = server.end()
    took = time.monotonic() - begin
    told.end()
    assert code == 0, said
    assert took < IN_TIME_S
    assert told.statuses == [SERVING, NOT_SERVING]
    return took


def undisturbed(request, folder):
    return make_world(
        request, inputs={}, work=folder, resume=False, emit=lambda _: None,
        cancelled=lambda: False,
    )  # fmt: skip


def test_an_idle_server_ends_at_once(start):
    assert drain(start()) < 5


@pytest.mark.parametrize("stage", ["queued", "running a chunk", "between chunks", "starting"])
def test_a_job_goes_on_after_the_restart(start, photo, world_request, tools, tmp_path, stage):
    request = world_request(chunks=3, seed=1, faults={"slow": 0.4})
    server = start()
    with server.client() as client:
        if stage == "queued":
            slow = world_request(chunks=1, seed=2, faults={"slow": 60})
            tools.worker_of(client, client.submit(slow, {"photo": photo}, priority=1).name)
        job = client.submit(request, {"photo": photo})
        if stage == "running a chunk":
            tools.worker_of(client, job.name)
        elif stage == "between chunks":
            tools.until_chunk(client, job.name, 1)
        drain(server)
    assert broken_promises(server.store, tmp_path / "copy") == []
    with start().client() as client:
        if stage == "queued":
            client.cancel(client.jobs()[-1].name)
        again = client.submit(request, {"photo": photo})
        assert again.name == job.name
        assert follow(client, again, tmp_path / "a") == undisturbed(request, tmp_path / "b")


def test_a_worker_that_does_not_listen_holds_up_no_drain(start, photo, world_request, tools):
    server = start(options={"patience": {"stop_s": 0.5, "insist_s": 0.5}})
    with server.client() as client:
        request = world_request(chunks=1, seed=1, faults={"slow": 60, "deaf": 1})
        pid = tools.worker_of(client, client.submit(request, {"photo": photo}).name)
        drain(server)
    assert not tools.is_alive(pid)


def test_a_watcher_hears_unavailable_and_goes_on_after_its_number(
    start, photo, world_request, tools
):
    request = world_request(chunks=2, seed=1, faults={"slow": 1})
    server, seen = start(), []
    with server.client() as client:
        job = client.submit(request, {"photo": photo})
        tools.worker_of(client, job.name)
    with grpc.insecure_channel(server.address) as channel:
        call = rpc.WorldsStub(channel).WatchJob(pb.WatchJobRequest(name=job.name))

        def read_to_the_end():
            with pytest.raises(grpc.RpcError) as caught:
                seen.extend(event.seq for event in call if event.seq)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            assert "shutting down" in caught.value.details()

        drain(server, until=read_to_the_end)
    with grpc.insecure_channel(start().address) as channel:
        again = pb.WatchJobRequest(name=job.name, after_seq=seen[-1])
        seen += [e.seq for e in rpc.WorldsStub(channel).WatchJob(again) if e.seq]
    assert seen == list(range(1, len(seen) + 1))


def test_an_upload_under_way_goes_on_after_the_restart(start, tmp_path):
    content = os.urandom(3 * MIB)
    name = hashlib.sha256(content).hexdigest()
    parts, server = queue.Queue(), start()

    def part(offset):
        data = content[offset : offset + MIB]
        return pb.Part(
            sha256=name, offset=offset, data=data, crc32=zlib.crc32(data), total=len(content)
        )

    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        call = stub.WriteBlob.future(iter(parts.get, None))
        parts.put(part(0))
        while stub.StatBlob(pb.BlobRef(sha256=name)).bytes < MIB:
            time.sleep(0.01)
        drain(server)
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        parts.put(None)
    file = tmp_path / "file"
    file.write_bytes(content)
    server = start()
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        assert stub.StatBlob(pb.BlobRef(sha256=name)).bytes == MIB
        client.upload(InputRef("photo", name, len(content)), file)
        assert stub.StatBlob(pb.BlobRef(sha256=name)).committed


def test_a_download_under_way_goes_on_after_the_restart(start, tmp_path):
    content = os.urandom(48 * MIB)
    file = tmp_path / "file"
    file.write_bytes(content)
    ref = InputRef("photo", hashlib.sha256(content).hexdigest(), len(content))
    server = start()
    with server.client() as client:
        client.upload(ref, file)
    got = bytearray()
    with grpc.insecure_channel(server.address) as channel:
        call = rpc.WorldsStub(channel).ReadBlob(pb.ReadBlobRequest(sha256=ref.sha256))
        got += next(call).data

        def read_to_the_end():
            with pytest.raises(grpc.RpcError) as caught:
                read_slowly(call, got)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

        drain(server, until=read_to_the_end)
    assert 0 < len(got) < len(content)
    with grpc.insecure_channel(start().address) as channel:
        request = pb.ReadBlobRequest(sha256=ref.sha256, offset=len(got))
        for part in rpc.WorldsStub(channel).ReadBlob(request):
            got.extend(part.data)
    assert bytes(got) == content


def read_slowly(call, into):
    """Be too slow a reader to be finished before the server ends."""
    for part in call:
        into.extend(part.data)
        time.sleep(0.3)


def test_a_second_signal_changes_nothing(start, photo, world_request, tools):
    server = start()
    with server.client() as client:
        request = world_request(chunks=3, seed=1, faults={"slow": 0.5})
        job = client.submit(request, {"photo": photo})
        tools.worker_of(client, job.name)
        drain(server, until=lambda: server.process.send_signal(signal.SIGTERM))
    with start().client() as client:
        assert client.job(job.name).state in ("queued", "running")


def test_new_work_is_refused_while_the_server_drains(start, photo, world_request, tools):
    server = start(options={"patience": {"stop_s": 2.0, "insist_s": 1.0}})
    with server.client() as client:
        request = world_request(chunks=1, seed=1, faults={"slow": 60, "deaf": 1})
        job = client.submit(request, {"photo": photo})
        tools.worker_of(client, job.name)

    def send_more():
        with grpc.insecure_channel(server.address) as channel:
            message = pb.CreateJobRequest(
                kind="generate",
                request_json=world_request(chunks=1, seed=2).canonical().decode(),
            )
            with pytest.raises(grpc.RpcError) as caught:
                rpc.WorldsStub(channel).CreateJob(message, timeout=10)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE

    drain(server, until=send_more)
    with start().client() as client:
        assert [found.name for found in client.jobs()] == [job.name]
        client.cancel(job.name)
