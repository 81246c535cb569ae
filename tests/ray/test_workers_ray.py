"""Jobs on actors of a real Ray cluster: placement, lost actors, a killed server, nodes apart."""

import asyncio
import hashlib
import os
import signal
from pathlib import Path

import pytest

from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.bridge.workers_ray import RayPool
from worldloom.bridge.worldcache import follow
from worldloom.scene.events import Log
from worldloom.scene.worldfolder import check_files

CHUNKS = 3


@pytest.fixture
def serve(start, cluster):
    """Start a server on the cluster."""
    return lambda **options: start(options={"ray": cluster, "slots": 0, **options})


@pytest.fixture
def send(photo, world_request):
    """Queue a toy job with faults."""

    def submit(client, *, chunks=CHUNKS, **faults):
        request = world_request(chunks=chunks, faults=faults or None)
        return request, client.submit(request, {"photo": photo}).name

    return submit


def digests(request):
    """The splats that an undisturbed run makes, by chunk."""
    from toy import splat_layer

    chunks = (request.path.frames - 1) // 80
    return {
        chunk: hashlib.sha256(splat_layer(request, chunk)).hexdigest()
        for chunk in range(1, chunks + 1)
    }


def outcome(client, name):
    """How a job ended, what it made by chunk, and the processes that ran it."""
    happened = list(client.watch(name))
    splats = [e for e in happened if isinstance(e, ArtifactRef) and e.kind == "splats"]
    assert len(splats) == len({e.chunk for e in splats})  # Nothing is told twice.
    pids = [int(e.text.split()[1]) for e in happened if isinstance(e, Log)]
    end = [e for e in happened if isinstance(e, StateChange)][-1]
    return end.state, {e.chunk: e.sha256 for e in splats}, pids


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def gpu(pid):
    environment = Path(f"/proc/{pid}/environ").read_text().split("\0")
    return next(e for e in environment if e.startswith("CUDA_VISIBLE_DEVICES="))


def test_two_actors_run_two_jobs_a_third_waits_and_a_killed_one_goes_on(serve, send, tools):
    server = serve()
    with server.client() as client:
        jobs = [send(client, slow=1.0) for _ in range(2)]
        workers = [tools.worker_of(client, name) for _, name in jobs]
        assert {gpu(pid) for pid in workers} == {
            "CUDA_VISIBLE_DEVICES=0", "CUDA_VISIBLE_DEVICES=1"
        }  # fmt: skip
        third = send(client)
        tools.until_chunk(client, jobs[0][1], 1)
        assert client.job(third[1]).state == "queued"
        os.kill(parent(workers[0]), signal.SIGKILL)
        ends = [outcome(client, name) for _, name in (*jobs, third)]
    for (request, _), (state, made, _) in zip((*jobs, third), ends, strict=True):
        assert state == "done"
        assert made == digests(request)
    assert len(ends[0][2]) == 2
    assert len(ends[1][2]) == 1
    assert not tools.is_alive(workers[0])
    code, _, err = server.end()
    assert code == 0
    assert "its actor was lost" in err
    tools.wait(lambda: not any(tools.is_alive(pid) for _, _, pids in ends for pid in pids))


def test_a_job_that_always_kills_its_worker_fails_and_the_next_one_finds_it_warm(
    serve, send, tools
):
    with serve(slots=1).client() as client:
        assert outcome(client, send(client, die_at=2)[1])[0] == "failed"
        first = outcome(client, send(client)[1])
        second = outcome(client, send(client)[1])
        assert first[2] == second[2]


def test_a_running_job_is_cancelled_and_a_waiting_one_too(serve, send, tools):
    with serve(slots=3).client() as client:  # One more than there are GPUs.
        jobs = [send(client, chunks=1, slow=60)[1] for _ in range(3)]
        ran = [tools.worker_of(client, name) for name in jobs[:2]]
        # Ray has no GPU for the third: it waits there.
        assert client.job(jobs[2]).state == "queued"
        assert client.cancel(jobs[2]).state == "cancelled"
        client.cancel(jobs[0])
        assert tools.end_of(client, jobs[0]).state == "cancelled"
        assert tools.is_alive(ran[1])
        client.cancel(jobs[1])
        assert tools.end_of(client, jobs[1]).state == "cancelled"


def test_a_killed_server_leaves_no_worker_and_its_job_goes_on(serve, send, tools):
    server = serve()
    with server.client() as client:
        request, name = send(client, slow=0.5)
        pid = tools.worker_of(client, name)
        tools.until_chunk(client, name, 1)
    server.end(signal.SIGKILL)
    tools.wait(lambda: not tools.is_alive(pid))
    with serve().client() as client:
        state, made, _ = outcome(client, name)
        assert (state, made) == ("done", digests(request))


def test_a_signal_ends_the_server_at_a_checkpoint(serve, send, tools):
    server = serve()
    with server.client() as client:
        _, name = send(client, slow=0.5)
        tools.until_chunk(client, name, 1)
    code, _, err = server.end(signal.SIGTERM)
    assert code == 0, err
    with serve().client() as client:
        assert outcome(client, name)[0] == "done"


@pytest.fixture
def apart(serve):
    """A server whose nodes believe that they do not see its store."""
    server = serve()
    (server.store / "jobs" / "ray-mark").write_text("another store")
    with server.client() as client:
        yield server, client


def files_of(server):
    """What jobs left in their folders on the server's machine, beside their worlds."""
    works = (folder / "work" for folder in (server.store / "jobs").iterdir() if folder.is_dir())
    found = (file for work in works if work.is_dir() for file in work.iterdir())
    return [file for file in found if file.name != "world"]


def test_a_node_that_does_not_see_the_store_gets_files_and_sends_them_back(
    apart, send, tools, photo, world_request, tmp_path
):
    server, client = apart
    request, name = send(client, slow=0.5)
    tools.until_chunk(client, name, 2)
    assert files_of(server) == []  # The job works elsewhere,
    assert outcome(client, name)[:2] == ("done", digests(request))
    assert len(files_of(server)) == CHUNKS  # and its folder came back at the end.
    manifest = follow(client, client.job(name), tmp_path / "w")
    assert check_files(tmp_path / "w", manifest) == []
    longer = world_request(chunks=CHUNKS + 1)
    child = client.submit(longer, {"photo": photo}, kind="extend", parent=name)
    grown = follow(client, child, tmp_path / "w")  # The parent's folder went to the node.
    assert grown.parents == (child.request_hash,)


def test_an_actor_lost_without_a_common_store_goes_on_where_its_node_was(apart, send, tools):
    _, client = apart
    request, name = send(client, slow=0.5)
    tools.until_chunk(client, name, 1)
    os.kill(parent(tools.worker_of(client, name)), signal.SIGKILL)
    state, made, pids = outcome(client, name)
    assert (state, made) == ("done", digests(request))
    assert len(pids) == 2


def test_a_job_cancelled_without_a_common_store_is_continued(apart, send, tools, photo):
    server, client = apart
    request, name = send(client, slow=0.5)
    tools.until_chunk(client, name, 1)
    client.cancel(name)
    assert tools.end_of(client, name).state == "cancelled"
    kept = {file.name for file in files_of(server)}
    assert "done-1" in kept
    assert "done-3" not in kept
    again = client.submit(request, {"photo": photo}).name
    assert again != name
    assert outcome(client, again)[:2] == ("done", digests(request))


def test_a_node_with_another_version_is_refused_by_name(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    killed = []
    monkeypatch.setattr(ray, "kill", lambda actor, **_: killed.append(actor))

    class Other:
        class hello:
            @staticmethod
            async def remote():
                return {"version": "0.0.1", "sees": True, "node": "elsewhere", "own": ""}

    async def body():
        pool = RayPool(tmp_path, 1, None, None)
        pool._places[0].actor = Other()
        why = await pool.man(pool._places[0])
        assert pool.free() == 0
        return why

    assert "node elsewhere has worldloom 0.0.1, the server" in asyncio.run(body())
    assert len(killed) == 1


def test_a_cluster_that_is_not_there_is_named(start):
    with pytest.raises(AssertionError, match=r"no Ray cluster can be joined at 127.0.0.1:1 "):
        start(options={"ray": "127.0.0.1:1"})
