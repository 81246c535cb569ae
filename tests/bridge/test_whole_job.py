"""A job from submission to a world on this side, and everything that a watcher is promised."""

import grpc
import pytest

from worldloom.bridge.blobcalls import BlobCalls
from worldloom.bridge.messages import ArtifactRef, StateChange
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import Conflict, InvalidRequest, NotFound
from worldloom.scene.events import Log, Preview, Progress
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import check_files, open_world


def numbered(events):
    return [event for event in events if getattr(event, "seq", 0)]


def test_a_request_becomes_a_world_folder(client, submit, tmp_path):
    job = submit(chunks=3)
    events = []
    manifest = follow(client, job, tmp_path / "w", on_event=events.append)
    assert manifest.complete
    assert manifest.chunks == 3
    assert manifest.world_id == job.request_hash
    assert check_files(tmp_path / "w", open_world(tmp_path / "w")) == []
    assert (tmp_path / "w" / "world.usda").is_file()
    assert sorted(p.name for p in (tmp_path / "w" / ".revisions").iterdir()) == [
        "0001", "0002", "0003"
    ]  # fmt: skip
    assert not (tmp_path / "w" / ".incoming").exists()
    states = [e.state for e in events if isinstance(e, StateChange)]
    assert states == ["queued", "running", "done"]
    kinds = {type(e) for e in events}
    assert kinds >= {ArtifactRef, Log, Preview, Progress, StateChange}


def test_a_revision_can_be_opened_as_soon_as_its_manifest_came(client, submit, tmp_path):
    job, chunks = submit(chunks=3), []

    def look(event):
        if isinstance(event, ArtifactRef) and event.kind == "manifest":
            manifest = open_world(tmp_path / "w")
            chunks.append(manifest.chunks)
            assert check_files(tmp_path / "w", manifest) == []

    follow(client, job, tmp_path / "w", on_event=look)
    assert chunks == [1, 2, 3]


def test_a_watch_can_begin_after_any_event(client, submit):
    job = submit(chunks=2)
    everything = numbered(client.watch(job.name))
    last = everything[-1].seq
    for after in range(last):
        again = numbered(client.watch(job.name, after_seq=after))
        assert again == [event for event in everything if event.seq > after]


def test_sequence_numbers_have_no_gaps(client, submit, server):
    from worldloom.bridge.v1 import bridge_pb2, bridge_pb2_grpc

    job = submit(chunks=2)
    with grpc.insecure_channel(server.address) as channel:
        stub = bridge_pb2_grpc.WorldsStub(channel)
        events = list(stub.WatchJob(bridge_pb2.WatchJobRequest(name=job.name)))
    assert [e.seq for e in events if e.seq] == list(range(1, client.job(job.name).last_seq + 1))
    ephemeral = {e.WhichOneof("what") for e in events if not e.seq}
    assert ephemeral <= {"progress", "preview", "heartbeat"}


def test_a_watch_after_the_end_still_tells_how_it_ended(client, submit):
    job = submit(chunks=1)
    last = list(client.watch(job.name))[-1]
    late = list(client.watch(job.name, after_seq=last.seq))
    assert late == [StateChange("done", seq=last.seq)]


def test_the_same_request_is_not_made_twice(client, submit, tmp_path):
    job = submit(chunks=2, seed=77_001)
    first = follow(client, job, tmp_path / "a")
    again = submit(chunks=2, seed=77_001)
    assert again.name == job.name
    assert again.state == "done"
    assert follow(client, again, tmp_path / "b") == first


def test_a_request_that_is_being_made_is_joined(client, submit, tools):
    job = submit(chunks=2, seed=77_002, faults={"slow": 0.3})
    assert submit(chunks=2, seed=77_002, faults={"slow": 0.3}).name == job.name
    assert tools.end_of(client, job.name).state == "done"


def test_inputs_and_kind_reach_the_worker(client, submit):
    job = submit(chunks=1, kind="seed")
    logs = [e.text for e in client.watch(job.name) if isinstance(e, Log)]
    assert "kind seed inputs photo" in logs[0]


def test_an_extension_starts_from_its_parent_and_grows_the_same_folder(client, submit, tmp_path):
    parent = submit(chunks=2)
    first = follow(client, parent, tmp_path / "w")
    child = submit(chunks=3, kind="extend", parent=parent.name)
    grown = follow(client, child, tmp_path / "w")
    assert grown.world_id == first.world_id
    assert grown.parents == (child.request_hash,)
    assert check_files(tmp_path / "w", grown) == []


def test_a_revert_replaces_a_later_revision(client, submit, tmp_path):
    parent = submit(chunks=3)
    follow(client, parent, tmp_path / "w")
    back = follow(client, submit(chunks=2, kind="revert", parent=parent.name), tmp_path / "w")
    assert open_world(tmp_path / "w") == back
    assert back.chunks == 2


def test_a_parent_must_exist_and_have_ended(client, submit):
    with pytest.raises(NotFound, match="no job 'nobody'"):
        submit(kind="extend", parent="nobody")
    slow = submit(chunks=1, faults={"slow": 5})
    with pytest.raises(Conflict, match="when it has ended"):
        submit(kind="extend", parent=slow.name)
    client.cancel(slow.name)
    with pytest.raises(InvalidRequest, match="parent none"):
        submit(kind="extend")


def test_the_server_tells_what_it_is(client, server):
    info = client.server_info()
    assert info.engines == ("toy", "preview")
    assert info.protocol == (1, 1)
    assert info.limits == Limits()
    assert info.store == str(server.store)
    assert info.default_engine == "toy"
    assert (server.store / "nonce").read_text() == info.nonce


def test_a_request_without_an_engine_gets_the_default_one(client, submit, tools):
    job = submit(chunks=1, engine="")
    assert job.engine == "toy"
    assert tools.end_of(client, job.name).state == "done"


def test_jobs_are_listed_newest_first(client, submit):
    names = [submit(chunks=1).name for _ in range(3)]
    assert [job.name for job in client.jobs()][:3] == names[::-1]


def test_an_unknown_job_is_said_to_be_unknown(client):
    for call in (client.job, client.cancel, client.delete, lambda n: list(client.watch(n))):
        with pytest.raises(NotFound, match="no job 'x"):
            call("x" * 200)


def test_a_deleted_job_takes_its_files_but_not_those_of_others(client, submit, tools, server):
    keep, drop = submit(chunks=1), submit(chunks=1)
    mine, others = tools.artifacts(client, drop.name), tools.artifacts(client, keep.name)
    blob = server.store / "blobs"
    assert (blob / mine[0].sha256[:2] / mine[0].sha256).is_file()
    folders = len(list((server.store / "jobs").iterdir()))
    client.delete(drop.name)
    assert not (blob / mine[0].sha256[:2] / mine[0].sha256).exists()
    assert (blob / others[0].sha256[:2] / others[0].sha256).is_file()
    assert len(list((server.store / "jobs").iterdir())) == folders - 1
    with pytest.raises(NotFound):
        client.job(drop.name)
    assert submit(chunks=1).state == "queued"  # The photo is still there for other jobs.


def test_a_job_that_runs_cannot_be_deleted(client, submit):
    job = submit(chunks=1, faults={"slow": 5})
    with pytest.raises(Conflict, match="cancel it first"):
        client.delete(job.name)
    client.cancel(job.name)


def test_a_folder_with_another_world_is_refused(client, submit, tmp_path):
    first = follow(client, submit(chunks=1), tmp_path / "w")
    with pytest.raises(InvalidRequest, match="Choose another folder"):
        follow(client, submit(chunks=2), tmp_path / "w")
    assert open_world(tmp_path / "w") == first


def test_following_again_completes_a_folder_that_lost_files(client, submit, tmp_path):
    job = submit(chunks=2)
    manifest = follow(client, job, tmp_path / "w")
    (tmp_path / "w" / manifest.files[0].path).unlink()
    (tmp_path / "w" / "mine.txt").write_text("keep me")
    assert follow(client, job, tmp_path / "w") == manifest
    assert check_files(tmp_path / "w", manifest) == []
    assert (tmp_path / "w" / "mine.txt").read_text() == "keep me"


def test_a_second_follow_fetches_no_revision_again(client, submit, tmp_path, monkeypatch):
    job = submit(chunks=3)
    follow(client, job, tmp_path / "w")
    fetched = []
    download = BlobCalls._complete

    def record(calls, ref, part):
        fetched.append(ref.path)
        return download(calls, ref, part)

    monkeypatch.setattr(BlobCalls, "_complete", record)
    follow(client, job, tmp_path / "w")
    assert set(fetched) == {"manifest.json"}
