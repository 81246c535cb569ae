"""Fault 19: jobs live random lives, with cancels in every state, and match a small model.

The journal is a real file that is closed, or left open as by a crash, and opened again at any
moment. The model is a dictionary; what it says is what a client may be told.
"""

import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from counting import happened
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import NEXT, Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.store import forget_job, page_start, page_token
from worldloom.scene.errors import Conflict, InvalidRequest, NotFound
from worldloom.scene.limits import Limits
from worldloom.scene.path_presets import preset
from worldloom.scene.request import WorldRequest

OWNERS = ("ann", "bob")
ENDED = ("done", "failed", "cancelled")
BUSY = ("queued", "running")
REQUESTS = [WorldRequest("toy", preset("dolly", frames=81), seed=seed) for seed in range(2)]


@dataclass
class Model:
    """What the model knows of one job."""

    owner: str
    content: int
    parent: str
    states: list = field(default_factory=lambda: ["queued"])
    blobs: list = field(default_factory=list)
    cancelling: bool = False

    @property
    def state(self):
        return self.states[-1]

    @property
    def serves(self):
        """Whether it is or will be what another request for the same wants."""
        alive = self.state in ("queued", "running") and not self.cancelling
        return self.state == "done" or alive


class Lives(RuleBasedStateMachine):
    """Jobs of two owners in one store."""

    @initialize()
    def begin(self):
        self.store = Path(tempfile.mkdtemp(prefix="lives-"))
        self.blobs = Blobs(self.store / "blobs", Limits())
        self.left_open = []
        self.journal = self.open()
        self.jobs, self.ids, self.count = {}, {}, 0

    def open(self):
        return Journal(self.store / "journal.sqlite", whole=self.blobs.has)

    def any_job(self, data, **wanted):
        names = [name for name, job in self.jobs.items() if job.state in wanted.get("of", NEXT)]
        return data.draw(st.sampled_from(sorted(names))) if names else None

    @rule(data=st.data(), owner=st.sampled_from(OWNERS), content=st.integers(0, 1),
          request_id=st.sampled_from(["", "x", "y"]), child=st.booleans())  # fmt: skip
    def create(self, data, owner, content, request_id, child):
        parents = [n for n, j in self.jobs.items() if j.owner == owner and j.state in ENDED]
        parent = data.draw(st.sampled_from(sorted(parents))) if child and parents else ""
        self.count += 1
        name, request = f"job-{self.count:03d}", REQUESTS[content]
        kind = "extend" if parent else "generate"
        made = Job(name, owner, kind, "toy", request.hash(), request.canonical().decode(), parent)
        meaning = f"{content}{parent}"
        known = self.ids.get((owner, request_id)) if request_id else None
        if known and known[0] != meaning:
            with pytest.raises(Conflict, match="was used for another request"):
                self.journal.create(made, request_id, meaning)
            return
        same = [
            other
            for other, job in self.jobs.items()
            if (job.owner, job.content, job.parent) == (owner, content, parent) and job.serves
        ]
        expected = known[1] if known else same[-1] if same else name
        found, new = self.journal.create(made, request_id, meaning)
        assert (found.name, new) == (expected, expected == name)
        if new:
            self.jobs[name] = Model(owner, content, parent)
        if request_id:
            self.ids[owner, request_id] = (meaning, expected)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), following=st.sampled_from(sorted(NEXT)))
    def move(self, data, following):
        name = self.any_job(data)
        if following in NEXT[self.jobs[name].state]:
            assert self.journal.move(name, following).state == following
            self.jobs[name].states.append(following)
        else:
            with pytest.raises(Conflict, match=f"it cannot become {following}"):
                self.journal.move(name, following)

    @precondition(lambda self: any(job.state in BUSY for job in self.jobs.values()))
    @rule(data=st.data())
    def live_to_the_end(self, data):
        self.make(data, "one")
        self.end(data, "done")

    def start(self, name):
        self.journal.move(name, "running")
        self.jobs[name].states.append("running")

    @precondition(lambda self: any(job.state in BUSY for job in self.jobs.values()))
    @rule(data=st.data(), text=st.sampled_from(["one", "two"]))
    def make(self, data, text):
        name = self.any_job(data, of=BUSY)
        if self.jobs[name].state == "queued":
            self.start(name)
        file = self.store / "made"
        file.write_text(text)
        digest, size = self.blobs.adopt(file)
        body = {"type": "artifact", "chunk": 1, "kind": "splats", "path": f"splats/{digest}.usdc",
                "sha256": digest, "bytes": size, "supersedes": ""}  # fmt: skip
        seq = self.journal.append(name, body)
        if digest not in self.jobs[name].blobs:
            self.jobs[name].blobs.append(digest)
            assert seq == self.journal.last_seq(name)
        else:
            assert seq <= self.journal.last_seq(name)

    @precondition(lambda self: any(job.state in BUSY for job in self.jobs.values()))
    @rule(data=st.data(), state=st.sampled_from(["done", "done", "failed"]))
    def end(self, data, state):
        name = self.any_job(data, of=BUSY)
        if self.jobs[name].state == "queued":
            self.start(name)
        self.journal.move(name, state)
        self.jobs[name].states.append(state)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), times=st.integers(1, 2), stranger=st.booleans())
    def cancel(self, data, times, stranger):
        name = self.any_job(data)
        job = self.jobs[name]
        if stranger:
            other = OWNERS[OWNERS.index(job.owner) - 1]
            with pytest.raises(NotFound, match="there is no job"):
                self.journal.request_cancel(name, other)
            return
        for _ in range(times):
            found = self.journal.request_cancel(name, job.owner)
        if job.state == "queued":
            job.states.append("cancelled")
        elif job.state == "running":
            job.cancelling = True
            assert found.cancel_requested
        assert found.state == job.state

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def delete(self, data):
        self.remove(self.any_job(data))

    @precondition(lambda self: any(job.state in ENDED for job in self.jobs.values()))
    @rule(data=st.data())
    def delete_ended(self, data):
        self.remove(self.any_job(data, of=ENDED))

    def remove(self, name):
        job = self.jobs[name]
        needs = [job, *(j for j in self.jobs.values() if j.parent == name)]
        if not all(j.state in ENDED for j in needs):
            with pytest.raises(Conflict, match="cancel it first"):
                forget_job(self.store, self.journal, self.blobs, name, job.owner)
            return
        forget_job(self.store, self.journal, self.blobs, name, job.owner)
        del self.jobs[name]
        self.ids = {key: value for key, value in self.ids.items() if value[1] != name}

    @rule(orderly=st.booleans())
    def restart(self, orderly):
        if orderly:
            self.journal.close()
        else:
            self.left_open.append(self.journal)
        self.journal = self.open()
        running = [n for n, job in self.jobs.items() if job.state == "running"]
        again = self.journal.requeue_running()
        assert again == [n for n in running if not self.jobs[n].cancelling]
        for name in running:
            self.jobs[name].states.append("queued" if name in again else "cancelled")

    @rule(size=st.integers(1, 4), owner=st.sampled_from(OWNERS))
    def list_in_pages(self, size, owner):
        found, token = [], ""
        while True:
            page, more = self.journal.page(owner, size, before=page_start(token))
            found += [job.name for job, _ in page]
            if more is None:
                break
            token = page_token(more)
            assert len(page) == size
        assert found == [n for n, job in reversed(self.jobs.items()) if job.owner == owner]

    @invariant()
    def the_journal_says_what_the_model_says(self):
        if not hasattr(self, "jobs"):
            return
        assert {j.name: j.state for j in self.journal.jobs()} == {
            name: job.state for name, job in self.jobs.items()
        }
        for name, job in self.jobs.items():
            entries = self.journal.events(name)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            bodies = [entry.body for entry in entries]
            assert [b["state"] for b in bodies if b["type"] == "state"] == job.states
            assert [b["sha256"] for b in bodies if b["type"] == "artifact"] == job.blobs
        for owner in OWNERS:
            mine = {sha for job in self.jobs.values() if job.owner == owner for sha in job.blobs}
            assert all(self.journal.owns_blob(owner, sha) for sha in mine)
            assert self.journal.owners.bytes_of(owner) == sum(map(self.blobs.size, mine))
        needed = {sha for job in self.jobs.values() for sha in job.blobs}
        assert set(self.blobs.names()) == needed

    def teardown(self):
        happened()
        if hasattr(self, "journal"):
            assert self.journal.problems() == []
            for journal in (self.journal, *self.left_open):
                journal.close()
            shutil.rmtree(self.store)


TestLives = Lives.TestCase
TestLives.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("token", ["0", "50", "x", "eyJhIjogMX0=", "ß", "a" * 10_000, "bnVsbA=="])
def test_a_token_that_is_not_ours_is_refused(token):
    with pytest.raises(InvalidRequest, match="is no page token; use the next_page_token"):
        page_start(token)
