"""A server that lies, floods and smuggles: the client says what is wrong and keeps none of it."""

import hashlib
import itertools
import json
import os
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest

from worldloom.bridge import streams
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.messages import ArtifactRef, JobInfo
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import (
    CorruptData,
    ServerUnreachable,
    StorageFull,
    WorldloomError,
)
from worldloom.scene.events import Log, Progress
from worldloom.scene.limits import GIB, MIB
from worldloom.scene.manifest import FileEntry, Manifest
from worldloom.scene.request import InputRef

JOB = JobInfo("j", "extend", "running", "ab" * 32, "toy", "", "", 0, 0.0)
GOOD_LAYER = b'#usda 1.0\ndef Xform "Chunk" {\n    def Points "Points" {}\n}\n'


class Hostile(rpc.WorldsServicer):
    """Answers as its test wants; what is not set is harmless."""

    def __init__(self):
        self.server = pb.Server(version="1", protocol_min=1, protocol_max=1)
        self.events = []
        self.blobs = {}
        self.parts = None
        self.pages = itertools.repeat(pb.ListJobsResponse())
        self.stat = pb.BlobStat()
        self.reads = 0

    def put(self, kind, path, data, *, chunk=0, **said):
        """Announce a file; `{}` in its path stands for its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        fields = {"chunk": chunk, "kind": kind, "path": path.format(digest), "sha256": digest,
                  "bytes": len(data), **said}  # fmt: skip
        self.events.append(pb.Event(seq=len(self.events) + 1, artifact=pb.Artifact(**fields)))
        return fields

    def end(self):
        self.events.append(pb.Event(seq=len(self.events) + 1, state=pb.State(state="done")))

    def GetServer(self, request, context):
        return self.server

    def GetJob(self, request, context):
        return pb.Job(name=request.name, state="running")

    def ListJobs(self, request, context):
        return next(self.pages)

    def StatBlob(self, request, context):
        return self.stat

    def WriteBlob(self, request, context):
        for _ in request:
            pass
        return self.stat

    def WatchJob(self, request, context):
        yield from itertools.takewhile(lambda _: context.is_active(), self.events)

    def ReadBlob(self, request, context):
        self.reads += 1
        if self.parts is not None:
            yield from itertools.takewhile(lambda _: context.is_active(), self.parts(request))
            return
        data = self.blobs[request.sha256]
        for at in range(request.offset, len(data), MIB):
            yield part(at, data[at : at + MIB])


def part(offset, data):
    return pb.Part(offset=offset, data=data, crc32=zlib.crc32(data))


@pytest.fixture
def hostile():
    return Hostile()


@pytest.fixture
def client(hostile, monkeypatch):
    monkeypatch.setattr(streams, "PAUSE_S", (0.01, 0.05))
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    rpc.add_WorldsServicer_to_server(hostile, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with WorldsClient(f"127.0.0.1:{port}", idle_s=2, away_s=0.3) as connection:
        yield connection
    server.stop(0)


@pytest.fixture
def folder(tmp_path):
    """The world folder; nothing beside it may ever change."""
    (tmp_path / "beside").write_text("untouched")
    yield tmp_path / "world"
    assert sorted(p.name for p in tmp_path.iterdir()) in (["beside"], ["beside", "world"])
    assert (tmp_path / "beside").read_text() == "untouched"


def files_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def manifest_of(*entries):
    return Manifest("ab" * 32, {}, {}, {}, 1, 81, tuple(entries), parents=("x",)).to_bytes()


LAYERS = {
    "a script node": 'def OmniGraphNode "N" {}',
    "a script schema": 'def Xform "N" (prepend apiSchemas = ["OmniScriptingAPI"]) {}',
    "a reference": 'def Xform "N" (prepend references = @http://elsewhere/x.usd@</X>) {}',
    "a payload": 'def Xform "N" (prepend payload = @../../secret.usda@) {}',
    "an inherited class": 'def Xform "N" (prepend inherits = </Chunk>) {}',
    "a shader's source": 'def Shader "S" {\n  uniform asset info:mdl:sourceAsset = @./x.mdl@\n}',
    "a texture": 'def Xform "N" {\n  asset inputs:file = @/etc/passwd@\n}',
    "a clip": 'def Xform "N" (clips = {dictionary d = {asset[] assetPaths = [@./a.usd@]}}) {}',
    "a physics scene": 'def PhysicsScene "P" {}',
}  # fmt: skip


@pytest.mark.parametrize("what", LAYERS)
def test_a_layer_that_is_more_than_geometry_is_thrown_away(client, hostile, folder, what):
    pytest.importorskip("pxr")
    layer = GOOD_LAYER + LAYERS[what].encode() + b"\n"
    hostile.put("splats", "splats/{}.usda", layer)
    hostile.end()
    with pytest.raises(CorruptData, match=r"more than geometry .* not to be trusted"):
        follow(client, JOB, folder)
    assert files_in(folder) == []


def test_a_sublayer_and_a_file_that_is_no_layer_are_thrown_away(client, hostile, folder):
    pytest.importorskip("pxr")
    for data, text in [
        (b"#usda 1.0\n(\n    subLayers = [@./x.usda@]\n)\n", "more than geometry"),
        (b"#usda 1.0\ndef Xform {{{", "damaged"),
        (b"#!/usr/bin/env python\n", "does not begin like"),
        (b"PXR-USDC" + bytes(80), "does not begin like"),
    ]:
        hostile.events.clear()
        hostile.put("collision", "collision/{}.usda", data)
        hostile.end()
        with pytest.raises(CorruptData, match=text):
            follow(client, JOB, folder)
        assert files_in(folder) == []


def test_plain_geometry_of_the_same_server_is_taken(client, hostile, folder):
    """The refusals above are worth what this acceptance is."""
    fields = hostile.put("splats", "splats/{}.usda", GOOD_LAYER)
    entry = FileEntry(fields["path"], fields["sha256"], fields["bytes"], "splats", 0)
    hostile.put("manifest", "manifest.json", manifest_of(entry))
    hostile.end()
    assert follow(client, JOB, folder).files == (entry,)


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("scale", "world.usda"),
        ("run", "world.usda"),
        ("run", "manifest.json"),
        ("splats", "world.usda"),
        ("splats", "splats/x.usda"),
        ("splats", "splats/" + "ab" * 32 + ".usda"),
        ("cameras_usd", "collision/x.usd"),
        ("later", "sitecustomize.py"),
        ("scale", "splats/../../beside"),
        ("splats", "../beside"),
        ("scale", "/etc/passwd"),
        ("scale", ".revisions/0001/manifest.json"),
    ],
)
def test_a_file_goes_to_its_place_or_nowhere(client, hostile, folder, kind, path):
    hostile.put(kind, path, GOOD_LAYER)
    hostile.end()
    with pytest.raises(CorruptData, match=r"outside the world|none lies there"):
        follow(client, JOB, folder)
    assert hostile.reads == 0
    assert not folder.exists()


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        (FileEntry("world.usda", "ab" * 32, 5, "splats"), "none lies there"),
        (FileEntry("../x.json", "ab" * 32, 5, "scale"), "not inside the world"),
        (FileEntry(f"splats/{'cd' * 32}.usdc", "ab" * 32, 5, "splats"), "none lies there"),
        (FileEntry("scale.json", "ab" * 32, 5, "scale"), "incomplete"),
        (FileEntry(f"splats/{'ab' * 32}.usdc", "ab" * 32, 10**18, "splats"), "incomplete"),
    ],
)
def test_a_manifest_cannot_name_what_is_not_in_the_world(client, hostile, folder, entry, text):
    hostile.put("manifest", "manifest.json", manifest_of(entry))
    hostile.end()
    with pytest.raises(CorruptData, match=text):
        follow(client, JOB, folder)
    assert not (folder / "manifest.json").exists()
    assert not (folder / "world.usda").exists()


def test_a_manifest_that_is_a_bomb_is_refused(client, hostile, folder):
    deep = b'{"schema": "worldloom.world/1", "request": ' + b"[" * 100_000
    hostile.put("manifest", "manifest.json", deep)
    with pytest.raises(CorruptData, match=r"nested too deeply|cannot be read"):
        follow(client, JOB, folder)
    hostile.events.clear()
    hostile.put("manifest", "manifest.json", b"x", bytes=65 * MIB)
    with pytest.raises(CorruptData, match="manifest of 68157440 bytes"):
        follow(client, JOB, folder)


def test_other_content_than_its_name_says_is_thrown_away(client, hostile, folder):
    fields = hostile.put("splats", "splats/{}.usda", GOOD_LAYER)
    hostile.blobs[fields["sha256"]] = GOOD_LAYER.replace(b"Chunk", b"chunk")
    with pytest.raises(CorruptData, match="other content than its sha256"):
        follow(client, JOB, folder)
    assert hostile.reads == 2
    assert files_in(folder) == []


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
        streams.time.sleep(2.5)
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


def test_files_without_end_are_refused(client, hostile, folder, monkeypatch):
    monkeypatch.setattr("worldloom.bridge.worldcache.MOST_FILES", 50)
    for n in range(60):
        hostile.put("splats", "splats/{}.usda", GOOD_LAYER + b"# %d\n" % n)
    with pytest.raises(CorruptData, match="more than 50 files"):
        follow(client, JOB, folder)


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
