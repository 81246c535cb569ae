"""What a server refuses, and how it says so: what, value, limit and remedy."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import grpc
import pytest

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    Conflict,
    InvalidCameraPath,
    InvalidRequest,
    NotFound,
    ServerBusy,
    StorageFull,
)
from worldloom.scene.limits import Limits


@pytest.fixture
def create(server):
    """Send a raw CreateJob; status and text of the refusal."""
    with grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)

        def send(**fields):
            call = pb.CreateJobRequest(**{"kind": "generate", **fields})
            with pytest.raises(grpc.RpcError) as caught:
                stub.CreateJob(call)
            metadata = dict(caught.value.trailing_metadata())
            return caught.value.code().name, caught.value.details(), metadata

        yield send


def test_an_unknown_preset_is_answered_with_those_that_exist(create, world_request):
    text = world_request(engine="lyra9").canonical().decode()
    code, said, metadata = create(request_json=text)
    assert code == "INVALID_ARGUMENT"
    assert said == "unknown engine preset 'lyra9'; this server has toy, preview"
    assert metadata["error-field"] == "engine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "request is not JSON"),
        ("[1]", "request has schema 'list'"),
        ('{"schema": "worldloom.request/9"}', "expected 'worldloom.request/1'"),
        ('{"schema": "worldloom.request/1"}', "request cannot be read: KeyError"),
    ],
)
def test_what_is_no_request_is_refused(create, text, expected):
    code, said, _ = create(request_json=text)
    assert code == "INVALID_ARGUMENT"
    assert expected in said


def test_a_bad_path_names_value_and_limit(client, submit, world_request, photo):
    request = world_request()
    long = replace(request.path, frames=1_000_001)
    with pytest.raises(InvalidCameraPath, match=r"1000001 frames.*limit is 8001"):
        client.submit(replace(request, path=long), {"photo": photo})


def test_an_unknown_kind_and_a_long_request_id_are_refused(create, world_request):
    text = world_request().canonical().decode()
    code, said, metadata = create(kind="destroy", request_json=text)
    assert (code, metadata["error-field"]) == ("INVALID_ARGUMENT", "kind")
    assert "use seed, generate, extend, revert" in said
    code, said, _ = create(request_id="x" * 129, request_json=text)
    assert code == "INVALID_ARGUMENT"
    assert "129 characters; 128 are possible" in said


def test_a_name_of_a_megabyte_is_refused_with_a_short_text(create, world_request):
    text = world_request(engine="e" * 1_000_000).canonical().decode()
    code, said, _ = create(request_json=text)
    assert code == "INVALID_ARGUMENT"
    assert len(said) <= 2000


def test_a_request_above_the_message_size_is_refused(client, world_request, photo):
    request = world_request()
    huge = replace(request, prompts=dict.fromkeys(range(200), "x" * 100_000))
    with pytest.raises(InvalidRequest, match="too large"):
        client.submit(huge, {"photo": photo})


def test_an_input_that_was_not_uploaded_is_named(client, world_request):
    request = world_request()
    missing = replace(request, photo=replace(request.photo, sha256="ab" * 32))
    with pytest.raises(NotFound, match="has not been uploaded; upload it first") as caught:
        client.submit(missing, {})
    assert caught.value.field == "photo"


def test_an_input_of_another_size_than_said_is_refused(client, world_request, submit):
    submit()
    request = world_request()
    small = replace(request, photo=replace(request.photo, bytes=100))
    with pytest.raises(InvalidRequest, match="has 2560000 bytes, the request says 100"):
        client.submit(small, {})


def test_the_same_request_id_is_the_same_job(client, submit, tools):
    job = submit(seed=99_001, request_id="mine")
    assert submit(seed=99_001, request_id="mine").name == job.name
    tools.end_of(client, job.name)
    assert submit(seed=99_001, request_id="mine").name == job.name


def test_a_request_id_that_meant_something_else_is_refused(client, submit, tools):
    submit(seed=99_002, request_id="id")
    other = submit(seed=99_003)
    tools.end_of(client, other.name)
    for seed in (99_003, 99_004):  # Also where the other content has been made already.
        with pytest.raises(Conflict, match="'id' was used for another request; choose a new one"):
            submit(seed=seed, request_id="id")


def test_a_failed_job_is_given_again_under_its_request_id_only(client, submit, tools):
    job = submit(seed=99_005, request_id="f", faults={"fail_at": 1})
    assert tools.end_of(client, job.name).state == "failed"
    assert submit(seed=99_005, request_id="f", faults={"fail_at": 1}).name == job.name
    again = submit(seed=99_005, request_id="g", faults={"fail_at": 1})
    assert again.name != job.name


def test_fifty_creates_of_one_request_id_give_one_job(client, submit, server, world_request):
    first = submit(seed=99_006)  # The photo is there now.
    call = pb.CreateJobRequest(
        request_id="fifty", kind="generate",
        request_json=world_request(seed=99_007).canonical().decode(),
    )  # fmt: skip
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(50) as pool:
        stub = rpc.WorldsStub(channel)
        names = {job.name for job in pool.map(lambda _: stub.CreateJob(call), range(50))}
    assert len(names) == 1
    assert first.name not in names


def test_a_full_queue_says_when_to_come_again(start, photo, world_request):
    server = start(options={"limits": {"queue_per_owner": 2, "queue_total": 10}})
    with server.client() as client:
        jobs = [client.submit(world_request(faults={"slow": 60}), {"photo": photo})]
        list(zip(client.watch(jobs[0].name), range(2), strict=False))  # Until it runs.
        jobs += [client.submit(world_request(), {"photo": photo}) for _ in range(2)]
        with pytest.raises(ServerBusy, match="2 of them yours; the limits are 10 and 2") as caught:
            client.submit(world_request(), {"photo": photo})
        assert caught.value.retry_after_ms > 0
        for job in jobs:
            client.cancel(job.name)


def test_a_flood_of_jobs_never_passes_the_cap(start, photo, world_request):
    server = start(options={"limits": {"queue_per_owner": 5}})
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        first = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        list(zip(range(2), client.watch(first.name), strict=False))
        stub = rpc.WorldsStub(channel)
        calls = [
            stub.CreateJob.future(pb.CreateJobRequest(
                kind="generate", request_json=world_request().canonical().decode()
            ))
            for _ in range(30)
        ]  # fmt: skip
        codes = Counter(call.code().name for call in calls)
        client.cancel(first.name)
    assert codes == {"OK": 5, "RESOURCE_EXHAUSTED": 25}


def test_an_input_that_was_deleted_meanwhile_is_sent_again(
    start, photo, world_request, tools, monkeypatch
):
    with start().client() as client:
        old = client.submit(world_request(chunks=1), {"photo": photo})
        tools.end_of(client, old.name)
        upload = type(client).upload
        calls = []

        def upload_and_lose(self, ref, file):
            upload(self, ref, file)
            calls.append(ref.role)
            if len(calls) == 1:
                client.delete(old.name)

        monkeypatch.setattr(type(client), "upload", upload_and_lose)
        job = client.submit(world_request(chunks=1), {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"
        assert calls == ["photo", "photo"]


def test_a_nearly_full_disk_takes_no_jobs_and_no_uploads(start, photo, world_request):
    server = start(options={"limits": {"free_space_floor": 1 << 60}})
    with server.client() as client, pytest.raises(StorageFull, match="Delete old jobs"):
        client.submit(world_request(), {"photo": photo})


def test_too_many_watchers_are_refused_and_counted_down_again(start, photo, world_request):
    server = start(options={"limits": {"watch_per_owner": 3}})
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        job = client.submit(world_request(faults={"slow": 60}), {"photo": photo})
        stub = rpc.WorldsStub(channel)
        for _ in range(3):
            watches = [stub.WatchJob(pb.WatchJobRequest(name=job.name)) for _ in range(3)]
            for watch in watches:
                next(watch)
            with pytest.raises(ServerBusy, match="3 watchers are connected already"):
                next(client.watch(job.name))
            for watch in watches:
                watch.cancel()
            wait_until_admitted(stub, job.name)
        client.cancel(job.name)


def wait_until_admitted(stub, name, tries=100):
    for _ in range(tries):
        watch = stub.WatchJob(pb.WatchJobRequest(name=name))
        try:
            next(watch)
        except grpc.RpcError:
            continue
        watch.cancel()
        return
    raise AssertionError("cancelled watchers still count")


def test_limits_are_told_to_the_client(start):
    with start(options={"limits": {"path_frames": 81}}).client() as client:
        assert client.server_info().limits == Limits(path_frames=81)


def test_the_request_is_sent_in_its_canonical_form(client, submit, world_request, server):
    import sqlite3

    job = submit(seed=99_008)
    with sqlite3.connect(f"file:{server.store}/journal.sqlite?mode=ro", uri=True) as db:
        query = "SELECT request_json FROM jobs WHERE name=?"
        (text,) = db.execute(query, (job.name,)).fetchone()
    assert text.encode() == world_request(seed=99_008).canonical()
    assert json.loads(text)["engine"] == "toy"
