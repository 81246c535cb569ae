"""Fault 20: a journal or a blob is damaged on disk; nothing good is lost, and check tells all."""

import json
import os
import random
import shutil
import sqlite3
from contextlib import closing

import pytest

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.check import check_store
from worldloom.bridge.jobs import Job
from worldloom.bridge.messages import StateChange
from worldloom.bridge.restore import keep_copy, open_journal
from worldloom.bridge.store import DAMAGED, GOOD, JOURNAL, RESTORED, sweep
from worldloom.bridge.worldcache import follow
from worldloom.cli.main import main
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import check_files

PAGE = 4096
JOBS = 60


@pytest.fixture(scope="module")
def filled(tmp_path_factory, world_request):
    """A store whose journal has many jobs, and a copy of it from the middle of its life."""
    store = tmp_path_factory.mktemp("filled")
    blobs = Blobs(store / "blobs", Limits())
    journal = open_journal(store, blobs)
    for number in range(JOBS):
        request, name = world_request(seed=number), f"job-{number:03d}"
        text = request.canonical().decode()
        job = Job(name, "me", "generate", "toy", request.hash(), text, "")
        journal.create(job, f"id-{number}", "content")
        journal.move(name, "running")
        data = store / "data"
        data.write_text(name)
        digest, size = blobs.adopt(data)
        journal.append(name, artifact(digest, size))
        for _ in range(8):
            journal.append(name, {"type": "log", "level": "info", "text": "x" * 100})
        journal.move(name, "done")
        if number == JOBS // 2:
            assert keep_copy(store)
    journal.close()
    return store


@pytest.fixture
def store(filled, tmp_path):
    """A copy of it that may be damaged."""
    return shutil.copytree(filled, tmp_path / "store")


@pytest.fixture
def finished(start, photo, world_request, tools):
    """A store with one finished job; its server has ended."""
    server = start("finished")
    request = world_request(chunks=2, seed=5)
    with server.client() as client:
        job = client.submit(request, {"photo": photo})
        refs = tools.artifacts(client, job.name)
    server.end()
    return server.store, job, refs, request


def artifact(digest, size=1):
    return {"type": "artifact", "chunk": 1, "kind": "splats", "path": f"splats/{digest}.usdc",
            "sha256": digest, "bytes": size, "supersedes": ""}  # fmt: skip


def overwrite(file, pages, seed):
    """Put noise over some pages of a file."""
    noise = random.Random(seed)
    with file.open("r+b") as out:
        for page in pages:
            out.seek(page * PAGE)
            out.write(noise.randbytes(PAGE))


def blob_bytes(store):
    return {p.name: p.read_bytes() for p in (store / "blobs").glob("[0-9a-f][0-9a-f]/*")}


def restored(store):
    """Names and states of the jobs that a server would find, and that all of it is consistent."""
    journal = open_journal(store, Blobs(store / "blobs", Limits()))
    with closing(journal):
        assert journal.problems() == []
        for job in journal.jobs():
            entries = journal.events(job.name)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            told = [entry.body["state"] for entry in entries if entry.body["type"] == "state"]
            assert told[-1] == job.state
        assert journal.create(journal.jobs()[0], "again", "content")[1] is False
        return {job.name: job.state for job in journal.jobs()}


@pytest.mark.parametrize("seed", range(12))
def test_pages_that_are_overwritten_cost_no_job_that_was_copied(store, seed):
    before = blob_bytes(store)
    count = (store / JOURNAL).stat().st_size // PAGE
    overwrite(store / JOURNAL, random.Random(seed).sample(range(1, count), 3), seed)
    found = restored(store)
    assert {f"job-{number:03d}" for number in range(JOBS // 2 + 1)} <= set(found)
    assert blob_bytes(store) == before
    if (store / RESTORED).exists():
        assert (store / DAMAGED / "journal-0001" / JOURNAL).is_file()
        assert sweep(store, open_journal(store, Blobs(store / "blobs", Limits())),
                     Blobs(store / "blobs", Limits()), now=4e9) == 0  # fmt: skip


def test_a_lost_first_page_falls_back_to_the_last_copy(store):
    overwrite(store / JOURNAL, [0], 1)
    assert list(restored(store)) == [f"job-{number:03d}" for number in range(JOBS // 2 + 1)]


@pytest.mark.parametrize("loss", ["gone", "empty", "no database", "cut short"])
def test_a_journal_that_is_lost_is_restored_from_its_copy(store, loss):
    before, file = blob_bytes(store), store / JOURNAL
    if loss == "gone":
        file.unlink()
    elif loss == "empty":
        file.write_bytes(b"")
    elif loss == "no database":
        file.write_bytes(b"not a database, " * 1000)
    else:
        os.truncate(file, file.stat().st_size // 3)
    found = restored(store)
    assert len(found) >= JOBS // 2 + 1
    assert blob_bytes(store) == before


def test_without_any_copy_a_server_begins_anew_and_sweeps_nothing(store):
    before = blob_bytes(store)
    (store / JOURNAL).unlink()
    (store / GOOD).unlink()
    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal:
        assert journal.jobs() == []
        sweep(store, journal, blobs, now=4e9)
    assert blob_bytes(store) == before


@pytest.mark.parametrize(("part", "least"), [(0.0, 0), (0.3, 0), (0.7, 20), (0.999, 50)])
def test_a_write_ahead_log_that_is_cut_costs_only_the_last_commits(
    tmp_path, world_request, part, least
):
    store = tmp_path / "store"
    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal:
        request = world_request(seed=1)
        text = request.canonical().decode()
        journal.create(Job("a", "me", "generate", "toy", request.hash(), text, ""), "", "c")
        journal.move("a", "running")
        for number in range(50):
            journal.append("a", {"type": "log", "level": "info", "text": str(number)})
        log = store / f"{JOURNAL}-wal"
        copy = tmp_path / "copy"
        shutil.copytree(store, copy)
        os.truncate(copy / log.name, int(log.stat().st_size * part))
    (copy / f"{JOURNAL}-shm").unlink()
    with closing(open_journal(copy, blobs)) as journal:
        entries = journal.events("a") if journal.jobs() else []
        assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
        assert len(entries) >= least
        assert not (copy / RESTORED).exists()


def test_a_damaged_copy_never_replaces_a_good_one(store):
    good = (store / GOOD).read_bytes()
    overwrite(store / JOURNAL, [3], 1)
    assert not keep_copy(store)
    assert (store / GOOD).read_bytes() == good


def test_a_server_on_a_damaged_journal_starts_and_its_jobs_go_on(
    start, photo, world_request, tools, tmp_path
):
    request = world_request(chunks=3, seed=7, faults={"slow": 0.3})
    server = start()
    with server.client() as client:
        job = client.submit(request, {"photo": photo})
        tools.until_chunk(client, job.name, 1)
    server.end()
    overwrite(server.store / JOURNAL, [0], 1)
    server = start()
    with server.client() as client:
        # Sent again as after any lost answer: its work folder has the first chunk.
        job = client.submit(request, {"photo": photo})
        manifest = follow(client, job, tmp_path / "world")
    assert manifest.complete
    assert check_files(tmp_path / "world", manifest) == []
    assert "last good state is restored" in server.end()[2]


def run_check(capsys, store, *options):
    code = main(["check", "--store", str(store), "--json", *options])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, [line for line in lines if line["type"] == "finding"], lines


def test_a_whole_store_has_nothing_to_tell(finished, capsys):
    store, _, _, _ = finished
    code, findings, lines = run_check(capsys, store)
    assert (code, findings) == (0, [])
    assert lines[-1] == {"type": "checked", "left": 0, "repaired": 0}


def test_check_tells_of_a_damaged_journal_and_repairs_it(store, capsys):
    overwrite(store / JOURNAL, [5, 6], 1)
    code, findings, _ = run_check(capsys, store)
    assert code == 3
    assert {finding["what"] for finding in findings} == {"journal"}
    code, findings, lines = run_check(capsys, store, "--repair")
    assert code == 0, findings
    assert lines[-1]["repaired"] >= 1
    assert not (store / RESTORED).exists()
    code, findings, _ = run_check(capsys, store)
    assert (code, [f for f in findings if f["damage"]]) == (0, [])


def in_work_folder(store, path):
    """A file of the world that the only job of a store made."""
    (folder,) = (store / "jobs").iterdir()
    return folder / "work" / "world" / path


def damage(store, ref):
    blob = store / "blobs" / ref.sha256[:2] / ref.sha256
    os.chmod(blob, 0o644)
    with blob.open("r+b") as out:
        out.write(b"?")
    return blob


def test_a_damaged_blob_comes_back_from_the_work_folder(finished, capsys):
    store, _, refs, _ = finished
    ref = next(ref for ref in refs if ref.kind == "manifest")
    blob = damage(store, ref)
    code, findings, _ = run_check(capsys, store)
    assert code == 3
    assert [(f["what"], f["name"]) for f in findings if f["damage"]] == [("blob", ref.sha256)]
    code, findings, _ = run_check(capsys, store, "--repair")
    assert (code, findings[0]["repaired"]) == (0, "brought back from the work folder of its job")
    assert Blobs(store / "blobs", Limits()).is_sound(blob.name)
    assert (store / DAMAGED / "blobs" / ref.sha256).is_file()
    assert run_check(capsys, store)[0] == 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_blob_that_is_lost_everywhere_is_made_again(
    finished, capsys, start, tools, tmp_path, lost
):
    store, job, refs, _ = finished
    ref = next(ref for ref in refs if ref.kind == "splats" and ref.chunk == 1)
    blob = damage(store, ref)  # The file of the work folder is another name of it.
    made = in_work_folder(store, ref.path)
    if lost:
        blob.unlink()
        made.unlink()
    code, findings, _ = run_check(capsys, store)
    assert code == 3
    assert {f["what"] for f in findings if f["damage"]} == {"blob", "work"}
    code, findings, _ = run_check(capsys, store, "--repair")
    assert code == 0, findings
    assert f"job {job.name} makes it again" in findings[0]["repaired"]
    server = start("finished")
    with server.client() as client:
        tools.wait(lambda: client.job(job.name).state == "done")
        manifest = follow(client, client.job(job.name), tmp_path / "world")
        states = [e.state for e in client.watch(job.name) if isinstance(e, StateChange)]
    assert states[:3] == ["queued", "running", "done"]
    assert check_files(tmp_path / "world", manifest) == []
    server.end()
    assert run_check(capsys, store)[:2] == (0, [])


def test_an_input_that_is_lost_is_forgotten_and_sent_again(finished, capsys, start, photo):
    store, _, _, request = finished
    sha256 = request.inputs()[0].sha256
    (store / "blobs" / sha256[:2] / sha256).unlink()
    assert run_check(capsys, store)[0] == 3
    code, findings, _ = run_check(capsys, store, "--repair")
    assert (code, findings[0]["repaired"]) == (0, "forgotten; whoever needs it sends it again")
    with start("finished").client() as client:
        client.submit(request, {"photo": photo})
    assert Blobs(store / "blobs", Limits()).is_sound(sha256)


def test_a_damaged_file_of_a_work_folder_comes_back_from_the_blobs(finished, capsys):
    store, _, refs, _ = finished
    ref = [ref for ref in refs if ref.kind == "depth"][-1]
    file = in_work_folder(store, ref.path)
    file.write_bytes(b"other bytes")
    code, findings, _ = run_check(capsys, store)
    assert (code, [f["what"] for f in findings]) == (3, ["work"])
    code, findings, _ = run_check(capsys, store, "--repair")
    assert (code, findings[0]["repaired"]) == (0, "brought back from the blobs")
    assert run_check(capsys, store)[:2] == (0, [])


def test_rows_that_contradict_each_other_are_told(store, capsys):
    with closing(sqlite3.connect(store / JOURNAL)) as db:
        db.execute("DELETE FROM events WHERE job='job-007' AND seq=4")
        db.execute("UPDATE jobs SET state='running' WHERE name='job-009'")
        db.commit()
    code, findings, _ = run_check(capsys, store)
    assert code == 3
    assert {f["name"] for f in findings if f["what"] == "row"} == {"job-007", "job-009"}


def test_litter_is_told_and_is_no_damage(finished, tmp_path):
    store, _, _, _ = finished
    blobs = Blobs(store / "blobs", Limits())
    (tmp_path / "file").write_bytes(b"nobody knows me")
    blobs.adopt(tmp_path / "file")
    blobs.append("me", blobs.begin("me", "a" * 64, 10, 0), b"begun")
    (store / "jobs" / "forgotten" / "work").mkdir(parents=True)
    findings = check_store(store)
    assert [f.what for f in findings] == ["litter"] * 3
    assert not any(f.is_damage for f in findings)


def test_a_store_in_use_is_checked_but_not_repaired(start, capsys):
    server = start()
    assert run_check(capsys, server.store)[0] == 0
    assert main(["check", "--store", str(server.store), "--repair"]) == 4
    assert "another server uses the store" in capsys.readouterr().err
