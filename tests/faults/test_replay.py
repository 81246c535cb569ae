"""Fault 13: a request that is sent again, by nature or by accident, makes one job."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import Conflict, NotFound

AT_ONCE = 50
SLOW = {"slow": 60}


def test_the_same_id_with_the_same_content_is_the_same_job(submit):
    first = submit(chunks=1, seed=1, request_id="one", faults=SLOW)
    again = [submit(chunks=1, seed=1, request_id="one", faults=SLOW) for _ in range(5)]
    assert {job.name for job in again} == {first.name}


def test_an_id_that_means_something_else_is_refused(submit, client):
    first = submit(chunks=1, seed=2, request_id="two", faults=SLOW)
    for other in ({"seed": 3}, {"seed": 2, "kind": "seed"}, {"seed": 2, "chunks": 2}):
        with pytest.raises(Conflict, match="'two' was used for another request; choose a new one"):
            submit(**{"chunks": 1, "faults": SLOW, "request_id": "two", **other})
    assert client.job(first.name).state in ("queued", "running")


def test_fifty_creates_of_one_id_at_once_make_one_job(server, client, photo, world_request):
    request = world_request(chunks=1, seed=4, faults=SLOW)
    client.submit(world_request(chunks=1, seed=5, faults=SLOW), {"photo": photo})
    before = len(client.jobs())
    message = pb.CreateJobRequest(
        request_id="all", kind="generate", request_json=request.canonical().decode()
    )

    def create(_):
        with grpc.insecure_channel(server.address) as channel:
            return rpc.WorldsStub(channel).CreateJob(message, timeout=30).name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        names = set(pool.map(create, range(AT_ONCE)))
    assert len(names) == 1
    assert len(client.jobs()) == before + 1


def test_fifty_ids_for_one_request_make_one_job(server, client, photo, world_request):
    request = world_request(chunks=1, seed=6, faults=SLOW)
    client.submit(world_request(chunks=1, seed=7, faults=SLOW), {"photo": photo})
    stub_text = request.canonical().decode()

    def create(number):
        message = pb.CreateJobRequest(
            request_id=f"id-{number}", kind="generate", request_json=stub_text
        )
        with grpc.insecure_channel(server.address) as channel:
            return rpc.WorldsStub(channel).CreateJob(message, timeout=30).name

    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert len(set(pool.map(create, range(AT_ONCE)))) == 1


def test_after_its_end_an_id_gives_the_finished_job_even_after_a_restart(
    start, photo, world_request, tmp_path
):
    request = world_request(chunks=1, seed=8)
    server = start()
    with server.client() as client:
        job = client.submit(request, {"photo": photo}, request_id="done")
        first = follow(client, job, tmp_path / "a")
    server.end()
    with start().client() as client:
        again = client.submit(request, {"photo": photo}, request_id="done")
        assert (again.name, again.state) == (job.name, "done")
        assert follow(client, again, tmp_path / "b") == first
        assert len(client.jobs()) == 1


def test_an_id_of_a_failed_or_cancelled_job_tells_how_it_ended(start, photo, world_request, tools):
    with start().client() as client:
        bad = world_request(chunks=1, seed=9, faults={"fail_at": 1})
        job = client.submit(bad, {"photo": photo}, request_id="bad")
        assert tools.end_of(client, job.name).state == "failed"
        again = client.submit(bad, {"photo": photo}, request_id="bad")
        assert (again.name, again.state) == (job.name, "failed")
        # Another id is another try.
        assert client.submit(bad, {"photo": photo}, request_id="again").name != job.name


def test_a_deleted_job_frees_its_id(start, photo, world_request, tools):
    with start().client() as client:
        request = world_request(chunks=1, seed=10)
        job = client.submit(request, {"photo": photo}, request_id="free")
        tools.end_of(client, job.name)
        client.delete(job.name)
        with pytest.raises(NotFound):
            client.job(job.name)
        again = client.submit(request, {"photo": photo}, request_id="free")
        assert again.name != job.name
        assert tools.end_of(client, again.name).state == "done"


@settings(max_examples=60, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    calls=st.lists(
        st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(["", "x", "y"]),
                  st.integers(0, 2), st.booleans()),
        max_size=25,
    )
)  # fmt: skip
def test_any_order_of_creates_and_restarts_gives_each_meaning_one_job(tmp_path, calls):
    """Owner, request id and content of each call; a restart of the journal before it or not."""
    name = hashlib.sha256(repr(calls).encode()).hexdigest()[:16]
    journal, ids, jobs = Journal(tmp_path / name), {}, {}
    for number, (owner, request_id, content, restart) in enumerate(calls):
        if restart:
            journal.close()
            journal = Journal(tmp_path / name)
        job = Job(f"job-{number}", owner, "generate", "toy", f"hash-{content}", "{}", "")
        known = ids.get((owner, request_id)) if request_id else None
        if known is not None and known != content:
            with pytest.raises(Conflict):
                journal.create(job, request_id, str(content))
            continue
        found, new = journal.create(job, request_id, str(content))
        assert new == ((owner, content) not in jobs)
        assert found.name == jobs.setdefault((owner, content), f"job-{number}")
        if request_id:
            ids[owner, request_id] = content
    with closing(journal):
        assert {(j.owner, int(j.request_hash[5:])): j.name for j in journal.jobs()} == jobs
