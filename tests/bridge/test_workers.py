"""Workers that die, hang, run out of memory, break or do not listen; and cancelled jobs."""

import os
import signal
import threading

import pytest

from worldloom.bridge.scheduler import FEED_LENGTH, Scheduler
from worldloom.bridge.worker_main import _alone, _last_word
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.events import Progress
from worldloom.scene.worldfolder import check_files, open_world


def test_a_killed_worker_continues_with_the_same_bytes(
    client, submit, start, photo, world_request, tools, tmp_path
):
    request = {"chunks": 3, "seed": 88_001, "faults": {"slow": 0.3}}
    job = submit(**request)
    pid = tools.worker_of(client, job.name)
    tools.until_chunk(client, job.name, 1)
    os.kill(pid, signal.SIGKILL)
    disturbed = follow(client, job, tmp_path / "a")
    assert disturbed.complete
    with start().client() as other:
        job = other.submit(world_request(**request), {"photo": photo})
        undisturbed = follow(other, job, tmp_path / "b")
    assert disturbed.to_bytes() == undisturbed.to_bytes()
    assert check_files(tmp_path / "a", undisturbed) == []


def test_a_worker_that_always_dies_fails_its_job_and_no_other(client, submit, tools):
    bad = submit(chunks=3, faults={"die_at": 2})
    good = submit(chunks=1)
    end = tools.end_of(client, bad.name)
    assert (end.state, end.error_code) == ("failed", "engine-failed")
    assert "lost 3 times at chunk 1: it was killed by signal 9" in end.error_text
    assert "worker.log" in end.error_text
    assert len(tools.artifacts(client, bad.name)) == 3  # What was finished is kept.
    assert tools.end_of(client, good.name).state == "done"


def test_out_of_memory_is_tried_again_before_the_job_fails(client, submit, tools):
    job = submit(chunks=1, faults={"out_of_memory_at": 1})
    end = tools.end_of(client, job.name)
    assert "lost 3 times at chunk 0: it ran out of memory" in end.error_text


@pytest.mark.parametrize(
    ("name", "text"),
    [("OutOfMemoryError", "the GPU ran out of memory"), ("AcceleratorError", "the GPU failed")],
)
def test_what_torch_raises_when_the_gpu_is_full_or_broken_is_tried_again(name, text):
    error = type(name, (RuntimeError,), {})("CUDA error")
    assert _last_word(error)["type"] == "lost"
    wrapped = EngineFailed("the chunk could not be made")
    wrapped.__cause__ = error
    assert text in _last_word(wrapped)["text"]
    assert _last_word(EngineFailed("the chunk could not be made"))["type"] == "error"


def test_a_hung_worker_is_replaced(start, photo, world_request, tools):
    server = start(options={"patience": {"stall_s": 0.5}})
    with server.client() as client:
        request = world_request(chunks=2, faults={"hang_at": 2, "hang_once": 1})
        job = client.submit(request, {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"
    assert "made no progress for 0.5 s" in server.end()[2]


def test_a_silent_worker_is_replaced(start, photo, world_request, tools):
    server = start(options={"patience": {"silence_s": 3.0}})
    with server.client() as client:
        job = client.submit(world_request(chunks=1, faults={"slow": 1}), {"photo": photo})
        pid = tools.worker_of(client, job.name)
        os.kill(pid, signal.SIGSTOP)
        assert tools.end_of(client, job.name).state == "done"
        assert not tools.is_alive(pid)
    assert "silent for 3 s" in server.end()[2]


def test_an_error_of_the_engine_keeps_its_class_and_text(client, submit, tmp_path):
    job = submit(chunks=2, faults={"fail_at": 2})
    with pytest.raises(EngineFailed, match="value 1, limit 0, ask it not to"):
        follow(client, job, tmp_path / "w")
    manifest = open_world(tmp_path / "w")
    assert manifest.chunks == 1
    assert check_files(tmp_path / "w", manifest) == []


def test_a_mistake_in_the_engine_is_named(client, submit, tools, server):
    job = submit(chunks=1, faults={"break_at": 1})
    end = tools.end_of(client, job.name)
    assert "ZeroDivisionError: a mistake in the engine" in end.error_text
    assert "Traceback" in (server.store / "worker.log").read_text()


def test_a_running_job_can_be_cancelled_and_keeps_what_it_made(client, submit, tools, tmp_path):
    job = submit(chunks=3, faults={"slow": 0.5})
    pid = tools.worker_of(client, job.name)
    tools.until_chunk(client, job.name, 1)
    client.cancel(job.name)
    client.cancel(job.name)
    with pytest.raises(JobCancelled, match="finished chunks are kept"):
        follow(client, job, tmp_path / "w")
    assert check_files(tmp_path / "w", open_world(tmp_path / "w")) == []
    # The process did as it was told; what it has loaded serves the next job.
    assert tools.worker_of(client, submit(chunks=1).name) == pid


def test_a_waiting_job_can_be_cancelled(client, submit, tools):
    slow = submit(chunks=1, faults={"slow": 5})
    waiting = submit(chunks=1)
    assert client.cancel(waiting.name).state == "cancelled"
    assert tools.end_of(client, waiting.name).error_code == "cancelled"
    client.cancel(slow.name)
    assert tools.end_of(client, slow.name).state == "cancelled"


def test_cancelling_an_ended_job_changes_nothing(client, submit, tools):
    job = submit(chunks=1)
    last = tools.end_of(client, job.name)
    assert client.cancel(job.name).state == "done"
    assert tools.end_of(client, job.name) == last


def test_a_worker_that_does_not_listen_is_stopped_all_the_same(
    start, photo, world_request, tools
):
    server = start(options={"patience": {"stop_s": 0.3, "insist_s": 0.3}})
    with server.client() as client:
        request = world_request(chunks=1, faults={"slow": 60, "deaf": 1})
        job = client.submit(request, {"photo": photo})
        pid = tools.worker_of(client, job.name)
        client.cancel(job.name)
        assert tools.end_of(client, job.name).state == "cancelled"
        assert not tools.is_alive(pid)


def test_a_cancelled_job_that_is_asked_for_again_goes_on_where_it_ended(
    client, submit, tools, tmp_path, server
):
    request = {"chunks": 3, "seed": 88_002, "faults": {"slow": 0.3}}
    job = submit(**request)
    tools.until_chunk(client, job.name, 2)
    client.cancel(job.name)
    assert tools.end_of(client, job.name).state == "cancelled"
    again = submit(**request)
    assert again.name != job.name
    events = []
    manifest = follow(client, again, tmp_path / "w", on_event=events.append)
    assert manifest.complete
    assert {e.done for e in events if isinstance(e, Progress)} == {240}


def test_what_libraries_print_does_not_disturb_the_events(client, submit, tools, server):
    tools.end_of(client, submit(chunks=1).name)
    assert "libraries chatter on stdout" in (server.store / "worker.log").read_text()


def test_a_worker_waits_for_one_that_still_writes_to_the_same_folder(tmp_path):
    began = threading.Event()

    def second():
        with _alone(tmp_path / "work"):
            began.set()

    with _alone(tmp_path / "work"):
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not began.wait(0.2)
    waiting.join(10)
    assert began.is_set()


def test_a_watcher_that_lags_is_still_told_to_read_the_journal(tmp_path):
    scheduler = Scheduler(None, None, tmp_path, pool=None)
    queue = scheduler.subscribe("job")
    scheduler.publish("job", None)
    for number in range(1000):
        scheduler.publish("job", {"type": "progress", "done": number})
    waiting = [queue.get_nowait() for _ in range(queue.qsize())]
    assert None in waiting
    assert waiting[-1]["done"] == 999
    assert len(waiting) <= FEED_LENGTH
    scheduler.unsubscribe("job", queue)
    scheduler.publish("job", None)
    assert queue.empty()


def test_two_workers_run_at_the_same_time(start, photo, world_request, tools):
    with start(options={"slots": 2}).client() as client:
        jobs = [
            client.submit(world_request(chunks=1, faults={"slow": 3}), {"photo": photo})
            for _ in range(2)
        ]
        pids = {tools.worker_of(client, job.name) for job in jobs}
        assert all(tools.is_alive(pid) for pid in pids)
        for job in jobs:
            client.cancel(job.name)
