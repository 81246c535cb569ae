"""A server that lies in its streams and answers, or floods: the client ends, within bounds."""

# ruff: noqa: F401, F811 - fixtures are imported by their names
import hashlib
import itertools
import json
import os
import time
import tracemalloc
from types import SimpleNamespace

import pytest

from tests.faults.hostile import client, hostile, part
from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import (
    CorruptData,
    ServerUnreachable,
    StorageFull,
    WorldloomError,
)
from worldloom.scene.events import Log, Progress
from worldloom.scene.limits import GIB, MIB
from worldloom.scene.request import InputRef

BLOB = bytes(range(256)) * 8192  # 2 MiB
REF = ArtifactRef(0, "splats", "splats/x.usdc", hashlib.sha256(BLOB).hexdigest(), len(BLOB))
ENDLESS = {
    "never ends": lambda request: (part(at, bytes(MIB)) for at in itertools.count(0, MIB)),
    "sends nothing for ever": lambda request: itertools.repeat(part(request.offset, b"")),
    "begins again and again": lambda request: itertools.repeat(part(0, BLOB[:MIB])),
    "skips a part": lambda request: iter([part(MIB, BLOB[MIB:])]),
    "goes backwards": lambda request: iter([part(0, BLOB[:MIB]), part(MIB - 1, BLOB[:9])]),
    "sends another checksum": lambda request: iter([pb.Part(data=b"x", crc32=1)]),
    "ends at once": lambda request: iter([]),
}  # fmt: skip


@pytest.mark.parametrize("what", ENDLESS)
def test_a_download_that_misbehaves_ends_and_leaves_no_file(client, hostile, tmp_path, what):
    hostile.parts = ENDLESS[what]
    with pytest.raises((CorruptData, ServerUnreachable)):
        client.fetch(REF, tmp_path / "x")
    left = sum(p.stat().st_size for p in tmp_path.iterdir())
    assert not (tmp_path / "x").exists()
    assert left <= REF.bytes


def test_a_message_above_the_limit_is_refused(client, hostile, tmp_path):
    hostile.parts = lambda request: iter([part(0, bytes(9 * MIB))])
    with pytest.raises(ServerUnreachable, match="larger than max"):
        client.fetch(REF, tmp_path / "x")
    assert [p.stat().st_size for p in tmp_path.iterdir()] == [0]


def test_a_silent_stream_is_given_up(client, hostile, tmp_path):
    def silent(request):
        time.sleep(2.5)
        return iter([])

    hostile.parts = silent
    with pytest.raises(ServerUnreachable, match=r"nothing came .* for 2 s"):
        client.fetch(REF, tmp_path / "x")


@pytest.mark.parametrize(
    ("size", "error"), [(2**63, CorruptData), (8 * GIB + 1, CorruptData), (8 * GIB, StorageFull)]
)
def test_a_size_that_cannot_be_is_refused_before_anything_is_written(
    client, hostile, tmp_path, monkeypatch, size, error
):
    disk = SimpleNamespace(free=5 * GIB)
    monkeypatch.setattr("worldloom.bridge.transfer.shutil.disk_usage", lambda _: disk)
    with pytest.raises(error, match=r"possible|MiB left"):
        client.fetch(ArtifactRef(0, "splats", "s.usdc", "ab" * 32, size), tmp_path / "x")
    assert (hostile.reads, list(tmp_path.iterdir())) == (0, [])


def test_a_digest_that_is_a_path_is_refused(client, hostile, tmp_path):
    for digest in ("../../../etc/passwd", "AB" * 32, "", "ab" * 31):
        with pytest.raises(CorruptData, match="which is no sha256"):
            client.fetch(ArtifactRef(0, "splats", "s.usdc", digest, 5), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_events_without_end_take_no_memory(client, hostile):
    hostile.events = (
        pb.Event(progress=pb.Progress(stage=f"stage {n}", done=n, unit="u" * 500))
        for n in itertools.count()
    )
    watch = client.watch("j")
    next(watch)
    tracemalloc.start()
    for event in itertools.islice(watch, 6000):
        assert len(event.unit) <= 64
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    watch.close()
    assert used < 2 * MIB


def test_a_watch_that_ends_at_once_is_not_asked_for_ever(client, hostile):
    with pytest.raises(ServerUnreachable, match="ends the watch of job j, which is running"):
        list(client.watch("j"))


def test_events_that_come_again_are_told_once(client, hostile):
    states = [pb.Event(seq=n, log=pb.Log(text=str(n))) for n in (1, 2, 2, 1, 3)]
    hostile.events = [*states, pb.Event(seq=4, state=pb.State(state="done"))]
    assert [e.text for e in client.watch("j") if isinstance(e, Log)] == ["1", "2", "3"]


def test_texts_cannot_steer_a_terminal(client, hostile):
    evil = "\x1b]0;owned\x07\x1b[2J" + "x" * 10_000
    hostile.events = [
        pb.Event(seq=1, log=pb.Log(level="info", text=evil)),
        pb.Event(progress=pb.Progress(stage=evil, total=1)),
        pb.Event(seq=2, state=pb.State(state="failed", error_text=evil)),
    ]
    hostile.pages = iter([pb.ListJobsResponse(jobs=[pb.Job(name=evil, error_text=evil)])])
    log, progress, end = client.watch("j")
    (job,) = client.jobs()
    assert isinstance(progress, Progress)
    for text in (log.text, progress.stage, end.error_text, job.name, job.error_text):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert len(text) <= 4000


def test_pages_without_end_are_refused(client, hostile):
    page = pb.ListJobsResponse(jobs=[pb.Job(name="x")], next_page_token="again")
    hostile.pages = itertools.repeat(page)
    with pytest.raises(CorruptData, match="without end"):
        client.jobs()


@pytest.mark.parametrize(
    "fields",
    [
        {"presets_json": "{"},
        {"presets_json": "[" * 100_000},
        {"presets_json": "[1]"},
        {"presets_json": '[{"name": "x"}]', "limits_json": "[]"},
    ],
)
def test_a_server_that_cannot_say_what_it_is_is_refused(client, hostile, fields):
    hostile.server = pb.Server(version="1", protocol_min=1, protocol_max=1, **fields)
    with pytest.raises(CorruptData, match="cannot be read"):
        client.server_info()


def test_limits_that_are_no_numbers_are_passed_over(client, hostile):
    told = {"part_bytes": "many", "path_frames": [1], "photo_bytes": 5, "later": 1}
    hostile.server = pb.Server(
        version="1", protocol_min=1, protocol_max=1, limits_json=json.dumps(told)
    )
    limits = client.server_info().limits
    assert (limits.photo_bytes, limits.part_bytes) == (5, MIB)


def test_a_store_that_is_a_trap_does_not_hold_the_client_up(client, hostile, tmp_path):
    os.mkfifo(tmp_path / "nonce")
    hostile.blobs[REF.sha256] = BLOB
    hostile.server = pb.Server(
        version="1", protocol_min=1, protocol_max=1, store=str(tmp_path), nonce="n"
    )
    client.fetch(REF, tmp_path / "x", info=client.server_info())
    assert (tmp_path / "x").read_bytes() == BLOB


def test_an_upload_that_is_never_kept_is_given_up(client, hostile, tmp_path):
    file = tmp_path / "photo"
    file.write_bytes(BLOB)
    for stat in (pb.BlobStat(), pb.BlobStat(bytes=2**60), pb.BlobStat(bytes=5)):
        hostile.stat = stat
        with pytest.raises(WorldloomError, match="does not keep it"):
            client.upload(InputRef("photo", REF.sha256, REF.bytes), file)
