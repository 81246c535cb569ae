"""A server that lies about a world, or smuggles into it: the client keeps none of that."""

# ruff: noqa: F401, F811 - fixtures are imported by their names
import pytest

from tests.faults.hostile import client, hostile
from worldloom.bridge.messages import JobInfo
from worldloom.bridge.worldcache import follow
from worldloom.scene.errors import CorruptData
from worldloom.scene.limits import MIB
from worldloom.scene.manifest import FileEntry, Manifest

JOB = JobInfo("j", "extend", "running", "ab" * 32, "toy", "", "", 0, 0.0)
GOOD_LAYER = b'#usda 1.0\ndef Xform "Chunk" {\n    def Points "Points" {}\n}\n'


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


def test_files_without_end_are_refused(client, hostile, folder, monkeypatch):
    monkeypatch.setattr("worldloom.bridge.worldcache.MOST_FILES", 50)
    for n in range(60):
        hostile.put("splats", "splats/{}.usda", GOOD_LAYER + b"# %d\n" % n)
    with pytest.raises(CorruptData, match="more than 50 files"):
        follow(client, JOB, folder)
