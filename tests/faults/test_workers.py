"""Workers that die, hang, fall silent or run out of memory at any chunk; what they leave behind."""

import hashlib
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.scene.events import Log

CHUNKS = 3
FAULTS = ("die", "hang", "stop", "raise_memory_error", "run_out_of_memory")
PATIENCE = {"silence_s": 3.0, "stall_s": 2.0, "stop_s": 1.0, "insist_s": 2.0}
WORDS = {
    "die": "it was killed by signal 9",
    "hang": "it made no progress for 2 s",
    "stop": "it was silent for 3 s",
    "raise_memory_error": "it ran out of memory",
    "run_out_of_memory": "it ran out of memory",
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A server with four workers and little patience."""
    from bridge_fixtures import Server

    running = Server(
        tmp_path_factory.mktemp("busy") / "store", options={"slots": 4, "patience": PATIENCE}
    )
    yield running
    code, _, err = running.end()
    assert code == 0, err


@pytest.fixture
def send(photo, world_request):
    """Queue a toy job with faults."""

    def submit(client, *, chunks=CHUNKS, priority=0, kind="generate", **faults):
        request = world_request(chunks=chunks, faults=faults or None)
        job = client.submit(request, {"photo": photo}, kind=kind, priority=priority)
        return request, job.name

    return submit


def digests(request):
    """The splats that an undisturbed run makes, by chunk."""
    from toy import splat_layer

    return {
        chunk: hashlib.sha256(splat_layer(request, chunk)).hexdigest()
        for chunk in range(1, CHUNKS + 1)
    }


def events(client, name):
    """Everything that a job told, to its end."""
    return list(client.watch(name))


def state(happened):
    return [event for event in happened if isinstance(event, StateChange)][-1]


def texts(happened):
    return [event.text for event in happened if isinstance(event, Log)]


def pid_of(happened):
    """The process that ended the job."""
    return [int(text.split()[1]) for text in texts(happened) if text.startswith("pid ")][-1]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_worker_lost_once_at_any_chunk_costs_that_chunk_alone(busy, send, fault):
    with busy.client() as client:
        jobs = [send(client, mischief=[[at, fault]], once=1) for at in range(1, CHUNKS + 1)]
        innocent = send(client)
        for request, name in [*jobs, innocent]:
            happened = events(client, name)
            assert state(happened).state == "done"
            splats = [e for e in happened if isinstance(e, ArtifactRef) and e.kind == "splats"]
            assert {e.chunk: e.sha256 for e in splats} == digests(request)
            assert len(splats) == CHUNKS  # What was finished is not told twice.
        runs = [sum(t.startswith("pid ") for t in texts(events(client, n))) for _, n in jobs]
        assert runs == [2, 2, 2]


def test_a_chunk_that_is_lost_three_times_fails_its_job_alone(busy, send):
    at = dict(zip(FAULTS, (1, 2, 3, 2, 1), strict=True))
    with busy.client() as client, ThreadPoolExecutor(8) as pool:
        jobs = {fault: send(client, mischief=[[at[fault], fault]])[1] for fault in FAULTS}
        innocent = [send(client)[1] for _ in range(3)]
        ends = pool.map(lambda name: events(client, name), [*jobs.values(), *innocent])
        ends = dict(zip([*jobs.values(), *innocent], ends, strict=True))
    for fault, name in jobs.items():
        end = state(ends[name])
        assert (end.state, end.error_code) == ("failed", "engine-failed")
        assert f"lost 3 times at chunk {at[fault] - 1}: {WORDS[fault]}" in end.error_text
        assert f"Chunk {at[fault]} could not be made" in end.error_text
        kept = [e for e in ends[name] if isinstance(e, ArtifactRef) and e.kind == "splats"]
        assert len(kept) == at[fault] - 1
    assert {state(ends[name]).state for name in innocent} == {"done"}


def test_a_worker_that_ignores_every_request_is_killed(start, send, tools):
    server = start(options={"patience": PATIENCE})
    with server.client() as client:
        _, name = send(client, mischief=[[1, "ignore_term"]], slow=0, hang_at=2)
        pid = tools.worker_of(client, name)
        tools.until_chunk(client, name, 1)
        client.cancel(name)
        assert tools.end_of(client, name).state == "cancelled"
        assert not tools.is_alive(pid)


@pytest.fixture
def alone(start):
    """A server with one worker."""
    server = start(options={"patience": PATIENCE})
    with server.client() as client:
        yield server, client


def test_a_worker_stays_warm_for_the_next_job_and_not_after_a_failure(alone, send):
    _, client = alone
    pids = [pid_of(events(client, send(client, chunks=1)[1])) for _ in range(2)]
    failed = events(client, send(client, chunks=1, fail_at=1)[1])
    assert state(failed).state == "failed"
    later = pid_of(events(client, send(client, chunks=1)[1]))
    assert pids[0] == pids[1] == pid_of(failed)
    assert later != pids[0]


def test_nothing_that_a_job_changes_reaches_the_next_one(alone, send, tools):
    _, client = alone
    looks = []
    for mischief in (["look"], ["dirty"], ["look"]):
        names = [[1, name] for name in mischief]
        happened = events(client, send(client, chunks=1, mischief=names)[1])
        looks += [(pid_of(happened), t) for t in texts(happened) if t.startswith("looks")]
    assert looks[0] == looks[1]


def test_a_thread_of_an_ended_job_cannot_talk_into_the_next_one(alone, send):
    _, client = alone
    first = events(client, send(client, chunks=1, mischief=[[1, "talk_later"]])[1])
    second = events(client, send(client, chunks=1, slow=1)[1])
    assert pid_of(first) == pid_of(second)
    assert "stray" in texts(first)
    assert "stray" not in texts(second)


@pytest.mark.parametrize("what", ["leave_thread", "leave_process"])
def test_a_worker_that_is_not_clean_after_its_job_is_replaced(alone, send, tools, what):
    server, client = alone
    first = events(client, send(client, chunks=1, mischief=[[1, what]])[1])
    assert state(first).state == "done"
    second = events(client, send(client, chunks=1)[1])
    assert pid_of(first) != pid_of(second)
    assert "this process is not used again" in (server.store / "worker.log").read_text()
    left = [int(text.split()[1]) for text in texts(first) if text.startswith("left ")]
    tools.wait(lambda: not any(tools.is_alive(pid) for pid in [*left, pid_of(first)]))


def test_a_worker_that_dies_while_idle_costs_the_next_job_nothing(alone, send, tools):
    server, client = alone
    pid = pid_of(events(client, send(client, chunks=1)[1]))
    os.kill(pid, signal.SIGKILL)
    tools.wait(lambda: not Path(f"/proc/{pid}").exists())  # Noticed and reaped at once.
    happened = events(client, send(client, chunks=1)[1])
    assert state(happened).state == "done"
    assert pid_of(happened) != pid
    assert len([t for t in texts(happened) if t.startswith("pid ")]) == 1
    assert f"worker {pid} is lost while idle: it was killed by signal 9" in server.end()[2]


def test_an_idle_worker_that_stands_still_is_replaced_within_the_next_job(alone, send, tools):
    _, client = alone
    pid = pid_of(events(client, send(client, chunks=1)[1]))
    os.kill(pid, signal.SIGSTOP)
    happened = events(client, send(client, chunks=1)[1])
    assert state(happened).state == "done"
    assert pid_of(happened) != pid
    assert not tools.is_alive(pid)


def test_processes_and_files_of_the_server_are_back_after_many_losses(alone, send, tools):
    server, client = alone
    folder = Path(f"/proc/{server.process.pid}")
    events(client, send(client, chunks=1, die_at=1)[1])

    def resources():
        children = (folder / "task" / folder.name / "children").read_text().split()
        return len(children), len(list((folder / "fd").iterdir()))

    before = resources()
    for _ in range(3):
        assert state(events(client, send(client, chunks=1, die_at=1)[1])).state == "failed"
    tools.wait(lambda: resources() == before)
    assert before[0] == 0


@pytest.mark.parametrize("mischief", ["hold", "stop", "hang"])
def test_no_worker_outlives_a_killed_server_and_the_job_goes_on(start, send, tools, mischief):
    options = {"patience": PATIENCE | {"silence_s": 60.0, "stall_s": 60.0}}
    server = start(options=options)
    with server.client() as client:
        request, name = send(client, mischief=[[2, mischief]], once=1)
        pid = tools.worker_of(client, name)
        tools.until_chunk(client, name, 1)
        marks = server.store / "jobs"
        tools.wait(lambda: list(marks.rglob("misbehaved")))
        server.end(signal.SIGKILL)
        tools.wait(lambda: not tools.is_alive(pid), seconds=5)
    with start(options=options).client() as client:
        happened = events(client, name)
        assert state(happened).state == "done"
        made = {e.chunk: e.sha256 for e in happened if getattr(e, "kind", "") == "splats"}
        assert made == digests(request)
