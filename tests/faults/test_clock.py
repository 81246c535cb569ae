"""Fault 15: the clock jumps, or a machine starts in 1970; order and durations do not care."""

import os
import time
from contextlib import closing
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worldloom.bridge import blobs as blobs_module
from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.store import sweep
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import file_sha256

DAY_S = 24 * 3600.0
YEARS = (0.0, 1.0, 1e9, 1.8e9, 4e9)
"""1970, a second later, 2001, 2027 and 2096."""
JOB = Job("", "me", "generate", "toy", "", "{}", "")


@pytest.fixture
def clock(monkeypatch):
    """A clock that shows what it is told; the monotonic one goes on."""
    shown = [time.time()]
    monkeypatch.setattr(time, "time", lambda: shown[0])

    def show(value):
        shown[0] = value

    return show


@settings(max_examples=30, deadline=None, derandomize=True,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(times=st.lists(st.sampled_from(YEARS), min_size=2, max_size=12))
def test_jobs_and_events_keep_their_order_whatever_the_clock_shows(clock, times):
    with closing(Journal(":memory:")) as journal:
        for number, now in enumerate(times):
            clock(now)
            name = f"job-{number}"
            journal.create(replace(JOB, name=name, request_hash=name, created_unix_s=now), "", "c")
            journal.append("job-0", {"type": "log", "level": "info", "text": name})
        expected = [f"job-{number}" for number in range(len(times))]
        assert [job.name for job in journal.jobs()] == expected
        assert [job.name for job, _ in journal.page("me", 50)[0]] == expected[::-1]
        entries = journal.events("job-0")
        assert [entry.seq for entry in entries] == list(range(1, len(times) + 2))
        logged = [e.body["text"] for e in entries if e.body["type"] == "log"]
        assert logged == expected
        middle = entries[len(entries) // 2].seq
        assert [e.seq for e in journal.events("job-0", middle)][:1] == [middle + 1]


@pytest.fixture
def garbage(tmp_path):
    """A store with an upload that was left behind, a blob without a name, and one with a name."""
    blobs = Blobs(tmp_path / "blobs", Limits())
    for text in ("unnamed", "named"):
        (tmp_path / text).write_text(text)
        blobs.adopt(tmp_path / text)
    name = file_sha256(tmp_path / "named")
    blobs.append("me", blobs.begin("me", "a" * 64, 10, 0), b"begun")
    journal = Journal(tmp_path / "journal.sqlite", whole=blobs.has)
    journal.own_blob("me", name, 5)
    yield tmp_path, journal, Blobs(tmp_path / "blobs", Limits())
    journal.close()


def left(store):
    return len([f for f in (store / "blobs").rglob("*") if f.is_file()])


@pytest.mark.parametrize("now", YEARS[:3])
def test_a_clock_that_is_behind_sweeps_nothing(garbage, now):
    store, journal, blobs = garbage
    assert sweep(store, journal, blobs, now=now) == 0
    assert left(store) == 3


def test_files_that_an_unset_clock_dated_get_their_day_from_now_on(garbage, monkeypatch):
    store, journal, blobs = garbage
    # Files know when they were changed by themselves, so the border is moved instead of the files.
    border = time.time() + 3600
    monkeypatch.setattr(blobs_module, "CLOCK_SET_S", border)
    assert sweep(store, journal, blobs, now=border + 2 * DAY_S) == 0
    assert left(store) == 3


def test_files_from_the_future_get_their_day_from_now_on(garbage):
    store, journal, blobs = garbage
    for file in (store / "blobs").rglob("*"):
        if file.is_file():
            os.utime(file, (4e9, 4e9))
    now = time.time()
    assert sweep(store, journal, blobs, now=now) == 0
    assert all(f.stat().st_mtime < now + 60 for f in (store / "blobs").rglob("*") if f.is_file())
    assert sweep(store, journal, blobs, now=now + 2 * DAY_S) == 2
    assert blobs.names() == [file_sha256(store / "named")]


def test_an_old_file_that_becomes_a_blob_today_is_not_old(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    (tmp_path / "made").write_text("made")
    file = tmp_path / f"{file_sha256(tmp_path / 'made')}.usdc"
    (tmp_path / "made").rename(file)
    os.utime(file, (1.75e9, 1.75e9))  # An earlier run of the job made it, long ago.
    digest, _ = blobs.adopt(file)
    assert blobs.path(digest).stat().st_mtime == 1.75e9
    assert blobs.old() == []


@pytest.mark.parametrize("shown", ["10.0", "next(_times)"])
def test_a_server_and_its_workers_need_no_clock(
    start, photo, world_request, tools, tmp_path, monkeypatch, shown
):
    """One that was never set, and one that jumps by years at every look."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        f"import itertools, time\n_times = itertools.cycle({YEARS})\ntime.time = lambda: {shown}\n"
    )
    paths = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in paths if path))
    with start().client() as client:
        jobs = [client.submit(world_request(chunks=2, seed=n), {"photo": photo}) for n in range(3)]
        for job in jobs:
            events = list(client.watch(job.name))
            assert events[-1].state == "done"
            seqs = [event.seq for event in events if getattr(event, "seq", 0)]
            assert seqs == sorted(set(seqs))
        assert [job.name for job in client.jobs()] == [job.name for job in jobs][::-1]
        assert {job.created_unix_s for job in client.jobs()} <= set(YEARS) | {10.0}
