"""Fault 1, where no job runs: deleting, sweeping, copying, restoring and repairing may die too."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from itertools import count
from pathlib import Path

import pytest
from counting import happened
from crash_trial import broken_promises

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.check import check_store
from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.restore import keep_copy, open_journal
from worldloom.bridge.store import GOOD, JOURNAL, RESTORED
from worldloom.scene.limits import Limits

HERE = Path(__file__).parent
ORDERLY, KILLED = 0, -signal.SIGKILL


@pytest.fixture
def template(tmp_path, world_request):
    """A store with three finished jobs, a blob without a name, and half an upload."""
    store = tmp_path / "template"
    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal:
        for number in range(3):
            request, name = world_request(seed=number), f"job-{number:03d}"
            text = request.canonical().decode()
            job = Job(name, "me", "generate", "toy", request.hash(), text, "")
            journal.create(job, f"id-{number}", "content")
            journal.move(name, "running")
            world = store / "jobs" / job.work_name / "work" / "world"
            world.mkdir(parents=True)
            for content in (name, "shared"):
                (world / content).write_text(content)
                digest, size = blobs.adopt(world / content)
                body = {"type": "artifact", "chunk": 1, "kind": "splats", "path": content,
                        "sha256": digest, "bytes": size, "supersedes": ""}  # fmt: skip
                journal.append(name, body)
            journal.move(name, "done")
        (store / "made").write_text("nobody names me")
        blobs.adopt(store / "made")
        blobs.append("me", blobs.begin("me", "a" * 64, 10, 0), b"begun")
        keep_copy(store)
        journal.create(
            Job("late", "me", "generate", "toy", request.hash(), text, "", engine_key="v2"), "", "c"
        )
    return store


def spoil(store, what):
    """What there must be before something can be repaired or restored."""
    if what in ("restore", "repair"):
        with (store / JOURNAL).open("r+b") as out:
            out.write(os.urandom(4096))
        for ending in ("-wal", "-shm"):
            (store / (JOURNAL + ending)).unlink(missing_ok=True)
    if what == "repair":
        blobs = Blobs(store / "blobs", Limits())
        with closing(Journal(store / GOOD)) as journal:
            bodies = [entry.body for entry in journal.events("job-002")]
        for body in bodies:
            if body["type"] == "artifact":
                os.chmod(blobs.path(body["sha256"]), 0o644)
                blobs.path(body["sha256"]).write_bytes(b"damaged")


@pytest.fixture(scope="module")
def run():
    """Do something to a store in a process of its own; how that ended."""
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    helper = subprocess.Popen(
        [sys.executable, str(HERE / "crash_upkeep.py")], stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=dict(os.environ, PYTHONPATH=paths),
    )  # fmt: skip

    def send(store, what, plan):
        helper.stdin.write(json.dumps([str(store), what, plan]) + "\n")
        helper.stdin.flush()
        code = int(helper.stdout.readline())
        assert code in (ORDERLY, KILLED)
        return code

    yield send
    _, said = helper.communicate()
    assert "Traceback" not in said


def summary(store):
    """Jobs with their states and last numbers, and the blobs, of a store."""
    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal:
        jobs = {job.name: (job.state, journal.last_seq(job.name)) for job in journal.jobs()}
        return jobs, sorted(blobs.names()), sorted(journal.known_blobs())


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("what", "least"), [
    ("forget", 3), ("sweep", 2), ("copy", 3), ("restore", 8), ("repair", 15),
])  # fmt: skip
def test_a_death_in_the_middle_is_made_good_by_the_next_try(
    run, template, tmp_path, what, least, when
):
    calm = shutil.copytree(template, tmp_path / "calm")
    spoil(calm, what)
    assert run(calm, what, {}) == ORDERLY
    if what == "forget":
        run(calm, what, {})  # A job that is gone: the litter is swept.
    expected = summary(calm)
    for k in count(1):
        store = shutil.copytree(template, tmp_path / f"at-{k}")
        spoil(store, what)
        counted = tmp_path / f"count-{k}"
        code = run(store, what, {"k": k, "when": when, "count": str(counted)})
        if what not in ("restore", "repair"):
            assert broken_promises(store, tmp_path / f"copy-{k}") == [], k
        assert (store / GOOD).is_file()
        for _ in range(2):
            assert run(store, what, {}) == ORDERLY
        assert summary(store) == expected, k
        assert [f for f in check_store(store) if f.is_damage] == [], k
        assert (store / RESTORED).exists() == (what == "restore")
        shutil.rmtree(store)
        if code == ORDERLY:
            break
        happened()
    assert k > least
