"""The journal and the state machine, without a server."""

import sqlite3
import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from worldloom.bridge.jobs import NEXT, TERMINAL, Job, moved, retry_allowed
from worldloom.bridge.journal import Journal
from worldloom.scene.errors import Conflict, CorruptData, NotFound, StorageFull


@pytest.fixture
def journal(tmp_path):
    opened = Journal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


@pytest.fixture
def job(world_request):
    """Make jobs of these properties."""

    def make(name="a", *, owner="me", seed=1, **kwargs):
        request = world_request(seed=seed)
        return Job(name, owner, "generate", "toy", request.hash(),
                   request.canonical().decode(), "", **kwargs)  # fmt: skip

    return make


def artifact(digest, chunk=1):
    return {"type": "artifact", "chunk": chunk, "kind": "splats", "path": f"splats/{digest}",
            "sha256": digest, "bytes": 1, "supersedes": ""}  # fmt: skip


def test_only_legal_moves_are_possible(job):
    for state, following in NEXT.items():
        for target in NEXT:
            start = replace(job(), state=state)
            if target in following:
                assert moved(start, target).state == target
            else:
                with pytest.raises(Conflict, match=f"job a is {state}; it cannot become {target}"):
                    moved(start, target)
    assert all(NEXT[state] == () for state in TERMINAL)


def test_a_chunk_is_tried_three_times(job):
    assert [retry_allowed(n) for n in (1, 2, 3)] == [True, True, False]


def test_jobs_of_others_look_as_if_they_did_not_exist(journal, job):
    journal.create(job("mine"), "", "c")
    assert journal.get("mine", "me").name == "mine"
    for call in (journal.get, journal.request_cancel, journal.delete):
        with pytest.raises(NotFound):
            call("mine", "you")
    assert journal.jobs("you") == []


def test_what_was_journalled_survives_a_reopening(tmp_path, job):
    journal = Journal(tmp_path / "j")
    journal.create(job(), "id", "c")
    journal.move("a", "running")
    journal.append("a", artifact("aa"))
    before = journal.get("a"), journal.events("a")
    journal.close()
    journal = Journal(tmp_path / "j")
    assert (journal.get("a"), journal.events("a")) == before
    assert journal.find(job("b"), "id", "c").name == "a"
    assert journal.requeue_running() == ["a"]
    assert journal.get("a").state == "queued"
    journal.close()


def test_commits_of_the_journal_wait_for_the_disk(journal):
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_an_artifact_is_journalled_once(journal, job):
    journal.create(job(), "", "c")
    first = journal.append("a", artifact("aa"))
    other = journal.append("a", artifact("bb"))
    assert journal.append("a", artifact("aa")) == first
    assert [entry.seq for entry in journal.events("a")] == [1, first, other] == [1, 2, 3]


def test_a_job_that_made_a_blob_lets_its_owner_see_it(journal, job):
    journal.create(job(), "", "c")
    assert not journal.owns_blob("me", "aa")
    journal.append("a", artifact("aa"))
    assert journal.owns_blob("me", "aa")
    assert not journal.owns_blob("you", "aa")


def test_a_result_is_given_again_to_the_same_owner_and_engine_only(journal, job):
    journal.create(job("a", engine_key="v1"), "", "c")
    journal.move("a", "running")
    journal.move("a", "done")
    assert journal.create(job("b", engine_key="v1"), "", "c")[0].name == "a"
    assert journal.create(job("c", engine_key="v2"), "", "c")[0].name == "c"
    assert journal.create(job("d", owner="you", engine_key="v1"), "", "c")[0].name == "d"
    assert journal.create(job("e", seed=2, engine_key="v1"), "", "c")[0].name == "e"


def test_a_job_that_is_being_cancelled_is_not_joined(journal, job):
    journal.create(job("a"), "", "c")
    journal.move("a", "running")
    journal.request_cancel("a", "me")
    assert journal.create(job("b"), "", "c") == (job("b"), True)


def test_jobs_that_ask_for_the_same_share_a_work_folder(job):
    assert job("a").work_name == job("b").work_name
    others = [job(owner="you"), job(seed=2), job(engine_key="v2"), replace(job(), kind="seed"),
              replace(job(), parent="p")]  # fmt: skip
    assert len({j.work_name for j in (job(), *others)}) == 1 + len(others)


def test_deleting_keeps_what_another_job_or_owner_needs(journal, job):
    photo = job().request_json.split('"sha256":"')[1][:64]
    for name, owner, seed in (("a", "me", 1), ("b", "me", 2), ("c", "you", 1)):
        journal.own_blob(owner, photo, 1)
        journal.create(job(name, owner=owner, seed=seed), "", name)
        journal.append(name, artifact("shared"))
        journal.append(name, artifact(f"only-{name}"))
        journal.request_cancel(name, owner)
    assert journal.delete("a", "me") == ["only-a"]
    assert journal.owns_blob("me", photo)
    assert journal.delete("b", "me") == ["only-b"]
    assert not journal.owns_blob("me", photo)
    assert not journal.owns_blob("me", "shared")
    assert sorted(journal.delete("c", "you")) == sorted([photo, "only-c", "shared"])
    assert journal.known_blobs() == set()


def test_a_parent_is_kept_while_an_extension_needs_it(journal, job):
    journal.create(job("a"), "", "c")
    journal.request_cancel("a", "me")
    journal.create(replace(job("b"), kind="extend", parent="a"), "", "d")
    with pytest.raises(Conflict, match="job b is queued and needs a; cancel it first"):
        journal.delete("a", "me")


def test_a_transaction_that_fails_leaves_nothing(journal, job):
    journal.create(job("a"), "id", "c")
    with pytest.raises(sqlite3.IntegrityError):
        journal.create(job("a", seed=2), "other", "d")
    assert journal.find(job("x", seed=2), "other", "d") is None
    assert len(journal.events("a")) == 1


def test_a_full_disk_is_told_and_leaves_the_journal_usable(journal, job):
    journal.create(job("a"), "", "c")
    pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
    journal._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(StorageFull, match="free some space"):
        fill(journal)
    journal._db.execute("PRAGMA max_page_count=1000000")
    last = journal.last_seq("a")
    assert journal.append("a", {"type": "log", "level": "info", "text": "again"}) == last + 1
    assert journal.problems() == []


def fill(journal):
    for _ in range(100):
        journal.append("a", {"type": "log", "level": "info", "text": "x" * 1000})


def test_many_threads_give_numbers_without_gaps(journal, job):
    journal.create(job("a"), "", "c")

    def write():
        for _ in range(20):
            journal.append("a", {"type": "log", "level": "info", "text": "x"})

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [entry.seq for entry in journal.events("a")] == list(range(1, 102))


def test_a_damaged_journal_is_not_opened(tmp_path):
    (tmp_path / "j").write_bytes(b"garbage " * 1000)
    with pytest.raises(CorruptData, match="keep it for inspection"):
        Journal(tmp_path / "j")


class JournalAgainstAModel(RuleBasedStateMachine):
    """Random lives of jobs, compared with a dictionary."""

    @initialize()
    def begin(self):
        self.journal = Journal(":memory:")
        self.states = {}
        self.cancelling = set()

    @rule(seed=st.integers(0, 3))
    def create(self, seed):
        name = f"j{len(self.states)}"
        job = Job(name, "me", "generate", "toy", f"hash{seed}", "{}", "")
        found, new = self.journal.create(job, "", "c")
        same = [n for n, (s, state) in self.states.items()
                if s == seed and state in ("queued", "running", "done")
                and (state == "done" or n not in self.cancelling)]  # fmt: skip
        assert new == (not same)
        assert found.name == (same[-1] if same else name)
        if new:
            self.states[name] = (seed, "queued")

    def of_state(self, state):
        return sorted(name for name, (_, now) in self.states.items() if now == state)

    @precondition(lambda self: self.of_state("queued"))
    @rule(data=st.data())
    def start(self, data):
        name = data.draw(st.sampled_from(self.of_state("queued")))
        self.journal.move(name, "running")
        self.states[name] = (self.states[name][0], "running")

    @precondition(lambda self: self.states)
    @rule(data=st.data(), following=st.sampled_from(sorted(NEXT)))
    def move(self, data, following):
        name = data.draw(st.sampled_from(sorted(self.states)))
        seed, state = self.states[name]
        if following in NEXT[state]:
            self.journal.move(name, following)
            self.states[name] = (seed, following)
        else:
            with pytest.raises(Conflict):
                self.journal.move(name, following)

    @precondition(lambda self: self.states)
    @rule(data=st.data())
    def cancel(self, data):
        name = data.draw(st.sampled_from(sorted(self.states)))
        seed, state = self.states[name]
        job = self.journal.request_cancel(name, "me")
        if state == "queued":
            self.states[name] = (seed, "cancelled")
        elif state == "running":
            self.cancelling.add(name)
            assert job.cancel_requested
        assert job.state == self.states[name][1]

    @precondition(lambda self: self.of_state("running"))
    @rule()
    def restart(self):
        running = [n for n in self.states if n in self.of_state("running")]
        again = self.journal.requeue_running()
        assert again == [n for n in running if n not in self.cancelling]
        for name in running:
            state = "queued" if name in again else "cancelled"
            self.states[name] = (self.states[name][0], state)

    def teardown(self):
        if not hasattr(self, "states"):
            return
        for name, (_, state) in self.states.items():
            assert self.journal.get(name).state == state
            entries = self.journal.events(name)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            assert entries[-1].body["state"] == state
        self.journal.close()


TestJournalAgainstAModel = JournalAgainstAModel.TestCase
TestJournalAgainstAModel.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
