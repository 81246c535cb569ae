"""Fault 6: the disk is full, or nearly; everything is told, nothing is torn, all goes on later."""

import asyncio
import os
import resource
import shutil
import signal
import subprocess
from contextlib import closing, contextmanager
from dataclasses import replace

import grpc
import pytest
from crash_trial import broken_promises

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.check import check_store
from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.restore import keep_copy
from worldloom.bridge.space import GROWN, Space
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import StorageFull
from worldloom.scene.events import Log
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import check_files, file_sha256, write_whole


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = os.geteuid() == 0 and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)],
        capture_output=True, check=False,
    )  # fmt: skip
    if not mounted or mounted.returncode:
        pytest.skip("a small disk can only be mounted by root; the other tests of this file cover")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def files_of_at_most(size):
    """Let this process write no file beyond a size, as a quota would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(disk, leave):
    """Take all room of a disk but `leave` bytes; the file that does."""
    filler = disk / "filler"
    filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - leave))
    return filler


def no_damage(store):
    return [finding for finding in check_store(store) if finding.is_damage]


def test_a_job_that_finds_the_disk_full_waits_and_goes_on(
    start, small_disk, photo, world_request, tools, tmp_path
):
    server = start(small_disk / "store", options={"limits": {"free_space_floor": 0}})
    with server.client() as client:
        job = client.submit(world_request(chunks=4, seed=1, faults={"slow": 0.5}), {"photo": photo})
        tools.until_chunk(client, job.name, 1)
        filler = fill(small_disk, leave=MIB)
        waits = next(e for e in client.watch(job.name) if isinstance(e, Log) and "waits" in e.text)
        assert "no space left" in waits.text
        assert client.job(job.name).state == "queued"
        assert broken_promises(server.store, tmp_path / "copy") == []
        filler.unlink()
        manifest = follow(client, job, tmp_path / "world")
        assert client.job(job.name).state == "done"
    assert manifest.complete
    assert check_files(tmp_path / "world", manifest) == []
    assert server.end()[0] == 0
    assert no_damage(server.store) == []


def test_below_the_floor_nothing_is_taken_and_nothing_begins_until_there_is_room(
    start, small_disk, photo, world_request, tools
):
    limits = {"free_space_floor": 4 * MIB}
    server = start(small_disk / "store", options={"limits": limits})
    with server.client() as client:
        slow = client.submit(world_request(chunks=1, seed=1, faults={"slow": 30}), {"photo": photo})
        tools.worker_of(client, slow.name)
        waiting = client.submit(world_request(chunks=1, seed=2), {"photo": photo})
        filler = fill(small_disk, leave=3 * MIB)
        client.cancel(slow.name)
        assert tools.end_of(client, slow.name).state == "cancelled"
        with pytest.raises(StorageFull, match=r"keeps 4 MiB free.*ask its owner"):
            client.submit(world_request(chunks=1, seed=3), {"photo": photo})
        tools.wait(lambda: b"no job begins" in said(server))
        assert client.job(waiting.name).state == "queued"
        filler.unlink()
        assert tools.end_of(client, waiting.name).state == "done"


def said(server):
    """What a server has written to its error output so far."""
    os.set_blocking(server.process.stderr.fileno(), False)
    server.heard = getattr(server, "heard", b"") + (server.process.stderr.buffer.read() or b"")
    return server.heard


def test_a_journal_on_a_full_disk_refuses_and_recovers(
    start, small_disk, photo, world_request, tools, tmp_path
):
    server = start(small_disk / "store", options={"limits": {"free_space_floor": 0}})
    with server.client() as client:
        requests = [world_request(chunks=1, seed=n, faults={"slow": 30}) for n in range(200)]
        first = client.submit(requests[0], {"photo": photo})
        tools.worker_of(client, first.name)
        filler = fill(small_disk, leave=0)
        made = refused = 0
        for request in requests[1:30]:
            try:
                client.submit(request, {"photo": photo})
                made += 1
            except StorageFull:
                refused += 1
        # Pages of the log that were there already may take some commits.
        assert refused > 0
        assert len(client.jobs()) == 1 + made
        assert broken_promises(server.store, tmp_path / "copy") == []
        filler.unlink()
        client.submit(requests[40], {"photo": photo})
        assert len(client.jobs()) == 2 + made
    server.end(signal.SIGKILL)
    assert no_damage(server.store) == []


def test_an_upload_beyond_the_disk_is_refused_and_goes_on_where_it_was(
    start, small_disk, tmp_path
):
    server = start(small_disk / "store", options={"limits": {"free_space_floor": MIB}})
    content = os.urandom(8 * MIB)
    file = tmp_path / "photo.png"
    file.write_bytes(content)
    ref = InputRef("photo", file_sha256(file), len(content))
    filler = fill(small_disk, leave=5 * MIB)
    with server.client() as client, grpc.insecure_channel(server.address) as channel:
        stub = rpc.WorldsStub(channel)
        with pytest.raises(StorageFull, match=r"MiB left for 8 MiB"):
            client.upload(ref, file)
        assert stub.StatBlob(pb.BlobRef(sha256=ref.sha256)).bytes == 0
        filler.unlink()
        client.upload(ref, file)
        assert stub.StatBlob(pb.BlobRef(sha256=ref.sha256)).committed


def test_an_owner_has_no_more_bytes_than_are_meant_for_him(start, world_request, photo, tools):
    size = photo.stat().st_size
    server = start(options={"limits": {"owner_bytes": size + 2 * MIB}})
    with server.client() as client:
        first = client.submit(world_request(chunks=1, seed=1), {"photo": photo})
        tools.end_of(client, first.name)
        second = client.submit(world_request(chunks=1, seed=2), {"photo": photo})
        tools.end_of(client, second.name)
        with pytest.raises(StorageFull, match=r"you have 4\.\d MiB.*Delete old jobs"):
            client.submit(world_request(chunks=1, seed=3), {"photo": photo})
        client.delete(second.name)
        client.submit(world_request(chunks=1, seed=3), {"photo": photo})


def test_a_full_log_stops_no_job(start, photo, world_request, tools):
    server = start()
    (server.store / "worker.log").unlink(missing_ok=True)
    (server.store / "worker.log").symlink_to("/dev/full")
    with server.client() as client:
        job = client.submit(world_request(chunks=2, seed=1), {"photo": photo})
        assert tools.end_of(client, job.name).state == "done"


def test_a_write_that_is_cut_keeps_the_old_file(tmp_path):
    file = tmp_path / "manifest.json"
    write_whole(file, b"old")
    with files_of_at_most(1000), pytest.raises(StorageFull, match="free some space"):
        write_whole(file, b"x" * 2000)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_an_upload_that_is_cut_keeps_what_came_and_continues(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    content = os.urandom(3000)
    file = tmp_path / "file"
    file.write_bytes(content)
    name = file_sha256(file)
    upload = blobs.append("me", blobs.begin("me", name, 3000, 0), content[:1000])
    with files_of_at_most(1500), pytest.raises(StorageFull):
        blobs.append("me", upload, content[1000:2500])
    have = blobs.offset("me", name)
    assert 1000 <= have <= 1500
    upload = blobs.append("me", blobs.begin("me", name, 3000, have), content[have:])
    blobs.commit_upload("me", upload)
    assert blobs.is_sound(name)


def test_a_blob_that_cannot_be_copied_is_not_there(tmp_path):
    blobs = Blobs(tmp_path / "blobs", Limits())
    file = tmp_path / "file"
    file.write_bytes(os.urandom(3000))
    with files_of_at_most(1000), pytest.raises(StorageFull):
        blobs.adopt(file)
    assert blobs.names() == []
    assert blobs.adopt(file) == (file_sha256(file), 3000)


def test_a_journal_that_may_not_grow_leaves_no_half_change(tmp_path, world_request):
    request = world_request(seed=1)
    job = Job("a", "me", "generate", "toy", request.hash(), request.canonical().decode(), "")
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.create(job, "id", "content")
        journal.move("a", "running")
        size = (tmp_path / "journal.sqlite-wal").stat().st_size
        with files_of_at_most(size):
            for change in (
                lambda: journal.create(replace(job, name="b", engine_key="v2"), "other", "content"),
                lambda: journal.move("a", "done"),
                lambda: journal.append("a", {"type": "log", "level": "info", "text": "x"}),
                lambda: journal.request_cancel("a", "me"),
                lambda: journal.own_blob("me", "f" * 64, 1),
            ):
                with pytest.raises(StorageFull, match="nothing of it is lost"):
                    change()
            assert [job.name for job in journal.jobs()] == ["a"]
            assert journal.get("a").state == "running"
            assert len(journal.events("a")) == 2
        journal.move("a", "done")
        assert [entry.seq for entry in journal.events("a")] == [1, 2, 3]
        assert journal.problems() == []


def test_a_copy_of_the_journal_that_has_no_room_keeps_the_old_copy(tmp_path, world_request):
    request = world_request(seed=1)
    job = Job("a", "me", "generate", "toy", request.hash(), request.canonical().decode(), "")
    with closing(Journal(tmp_path / "journal.sqlite")) as journal:
        journal.create(job, "id", "content")
        assert keep_copy(tmp_path)
        before = (tmp_path / "journal.good.sqlite").read_bytes()
        journal.move("a", "running")
        with files_of_at_most(5000), pytest.raises(StorageFull):
            keep_copy(tmp_path)
    assert (tmp_path / "journal.good.sqlite").read_bytes() == before


def test_a_refused_job_waits_for_room_and_not_for_luck(tmp_path, monkeypatch):
    space = Space(tmp_path, 0)
    free = [10 * MIB]
    monkeypatch.setattr(Space, "free", lambda self: free[0])
    assert space.open_to("a")
    space.refused("a")
    assert not space.open_to("a")
    assert space.open_to("b")
    free[0] += GROWN
    assert space.open_to("a")
    space.refused("a")
    assert not space.open_to("a")
    space.forget("a")
    assert space.open_to("a")


def test_the_floor_is_looked_at_while_jobs_wait(tmp_path, monkeypatch):
    from worldloom.bridge.scheduler import Scheduler

    free, begun = [False], []
    monkeypatch.setattr(Space, "enough", lambda self: free[0])
    monkeypatch.setattr("worldloom.bridge.scheduler.SPACE_S", 0.01)

    async def run():
        pool = type("Pool", (), {"slots": 1, "free": lambda s: 1, "on_change": lambda s, c: None})()
        with closing(Journal(tmp_path / "j")) as journal:
            journal.create(Job("a", "me", "generate", "toy", "h", "{}", ""), "", "c")
            scheduler = Scheduler(journal, None, tmp_path, pool=pool)
            monkeypatch.setattr(scheduler, "_begin", lambda job: (
                begun.append(job.name), scheduler._jobs.update({job.name: job})
            ))  # fmt: skip
            task = asyncio.create_task(scheduler.run())
            await asyncio.sleep(0.1)
            assert begun == []
            free[0] = True
            await asyncio.sleep(0.2)
            assert begun == ["a"]
            task.cancel()

    asyncio.run(run())
