"""Splats, meshes, requests, manifests and world folders keep what they are given."""

import errno
import json
import time

import numpy as np
import pytest

from worldloom.scene import errors
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    StorageFull,
    StorageUnwritable,
)
from worldloom.scene.frame import rigid, rotation_about
from worldloom.scene.limits import Limits
from worldloom.scene.manifest import FileEntry, Manifest, notices_for
from worldloom.scene.mesh import TriMesh
from worldloom.scene.path_presets import preset
from worldloom.scene.request import InputRef, Intrinsics, OutputOptions, ScaleHint, WorldRequest
from worldloom.scene.splats import Splats
from worldloom.scene.worldfolder import (
    check_files,
    open_world,
    put_immutable,
    revert,
    storage_errors,
    write_revision,
    write_whole,
)


def cloud(n=1000, k=1, seed=0):
    rng = np.random.default_rng(seed)
    quats = rng.normal(size=(n, 4)).astype("f4")
    return Splats(
        rng.normal(size=(n, 3)).astype("f4"),
        rng.uniform(0.001, 0.1, (n, 3)).astype("f4"),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.01, 0.99, n).astype("f4"),
        rng.normal(size=(n, k, 3)).astype("f4"),
    )


@pytest.mark.parametrize("k", [1, 16])
def test_splats_survive_a_ply(tmp_path, k):
    splats = cloud(k=k)
    splats.save_ply(tmp_path / "s.ply")
    again = Splats.load_ply(tmp_path / "s.ply")
    for name in ("means", "scales", "quats_wxyz", "opacities", "sh"):
        assert getattr(again, name) == pytest.approx(getattr(splats, name), rel=1e-5, abs=1e-6)


def test_another_reader_sees_the_same_ply(tmp_path):
    plyfile = pytest.importorskip("plyfile")
    splats = cloud(k=16)
    splats.save_ply(tmp_path / "s.ply")
    vertex = plyfile.PlyData.read(tmp_path / "s.ply")["vertex"]
    assert vertex["y"] == pytest.approx(splats.means[:, 1])
    assert vertex["f_rest_0"] == pytest.approx(splats.sh[:, 1, 0])  # channel-major
    assert vertex["f_rest_15"] == pytest.approx(splats.sh[:, 1, 1])
    assert np.exp(vertex["scale_2"]) == pytest.approx(splats.scales[:, 2], rel=1e-5)


def test_a_million_splats_are_written_and_read_in_about_a_second(tmp_path):
    splats = cloud(1_000_000)
    start = time.perf_counter()
    splats.save_ply(tmp_path / "s.ply")
    assert Splats.load_ply(tmp_path / "s.ply").n == 1_000_000
    assert time.perf_counter() - start < 10  # loose: the machine may be busy


def test_a_cut_ply_is_refused(tmp_path):
    cloud().save_ply(tmp_path / "s.ply")
    data = (tmp_path / "s.ply").read_bytes()
    (tmp_path / "s.ply").write_bytes(data[:-10])
    with pytest.raises(CorruptData, match="cut"):
        Splats.load_ply(tmp_path / "s.ply")


def test_every_prefix_of_the_cover_order_covers_the_scene():
    splats = cloud(4096)
    order = splats.cover_order()
    assert np.array_equal(np.sort(order), np.arange(4096))
    first = splats.means[order[:64]]
    naive = splats.means[splats.morton_order()[:64]]
    assert np.ptp(first, axis=0).min() > 2 * np.ptp(naive, axis=0).min()


def test_moving_splats_moves_their_axes_too():
    splats = cloud(10)
    turn = rigid(rotation_about([0, 0, 1], np.pi / 2), [1, 0, 0])
    moved = splats.transformed(turn)
    assert moved.means[:, 1] == pytest.approx(splats.means[:, 0], abs=1e-5)
    back = moved.transformed(np.linalg.inv(turn))
    assert np.abs(np.sum(back.quats_wxyz * splats.quats_wxyz, 1)) == pytest.approx(1, abs=1e-5)


def tetrahedron():
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], "f4")
    faces = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], "i4")
    return TriMesh(points, faces, np.linspace(0, 1, 12, dtype="f4").reshape(4, 3))


def volume(mesh):
    a, b, c = np.moveaxis(mesh.corners(), 1, 0)
    return np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6


def test_a_mesh_survives_a_glb_with_its_winding_and_colours(tmp_path):
    mesh = tetrahedron()
    mesh.save_glb(tmp_path / "m.glb")
    again = TriMesh.load_glb(tmp_path / "m.glb")
    assert again.vertices == pytest.approx(mesh.vertices, abs=1e-6)
    assert np.array_equal(again.faces, mesh.faces)
    assert again.colors == pytest.approx(mesh.colors, abs=1e-5)
    assert volume(again) == pytest.approx(1 / 6, rel=1e-5)


def test_another_reader_sees_the_glb_y_up(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    tetrahedron().save_glb(tmp_path / "m.glb")
    loaded = trimesh.load(tmp_path / "m.glb", force="mesh")
    assert loaded.volume == pytest.approx(1 / 6, rel=1e-4)
    assert loaded.bounds[1] == pytest.approx([0, 1, 0], abs=1e-6)  # world z is up = glTF y


def request(**changes):
    fields = {
        "engine": "preview",
        "path": preset("dolly"),
        "photo": InputRef("photo", "a" * 64, 1000, "png"),
        "prompts": {0: "a garage", 81: "a yard"},
        "intrinsics": Intrinsics(500, 500, 320, 240, 640, 480),
        "scale": ScaleHint(camera_height_m=1.08),
        "output": OutputOptions(formats=("ply",)),
    }
    return WorldRequest(**(fields | changes))


def test_a_request_survives_its_bytes_and_keeps_its_hash():
    original = request(scale=ScaleHint(pixels=((1, 2), (3, 4)), distance_m=2.0))
    again = WorldRequest.from_bytes(original.canonical())
    assert again == original
    assert again.hash() == original.hash() != request(seed=2).hash()


def test_the_hash_does_not_depend_on_the_order_of_keys():
    shuffled = dict(reversed(list(request().to_json().items())))
    assert WorldRequest.from_json(json.loads(json.dumps(shuffled))).hash() == request().hash()


BAD_REQUESTS = {
    "unknown engine preset 'lyra9'": {"engine": "lyra9"},
    "needs a photo": {"photo": None},
    "0 bytes": {"photo": InputRef("photo", "a" * 64, 0)},
    "sha256": {"photo": InputRef("photo", "../../etc/passwd", 10)},
    "seed is -1": {"seed": -1},
    "unknown quality": {"quality": "best"},
    "sh_degree is 2": {"output": OutputOptions(sh_degree=2)},
    "camera height": {"scale": ScaleHint(camera_height_m=-1)},
    "both the two pixels": {"scale": ScaleHint(distance_m=1)},
    "characters": {"prompts": {0: "x" * 5000}},
    "unknown output format": {"output": OutputOptions(formats=("obj",))},
    "focal lengths": {"intrinsics": Intrinsics(0, 1, 0, 0, 1, 1)},
}


@pytest.mark.parametrize("text", sorted(BAD_REQUESTS))
def test_a_bad_request_is_refused_with_what_is_wrong(text):
    with pytest.raises(InvalidRequest, match=text):
        request(**BAD_REQUESTS[text]).check(Limits(), ("preview", "truth"))


def test_a_good_request_passes():
    request().check(Limits(), ("preview", "truth"))


@pytest.mark.parametrize("data", [b"\xff", b"[]", b"{}", b'{"schema":"worldloom.request/1"}'])
def test_nonsense_is_no_request(data):
    with pytest.raises(InvalidRequest):
        WorldRequest.from_bytes(data)


def manifest(files=(), **changes):
    fields = {
        "world_id": "w",
        "request": {"engine": "preview"},
        "engine": {"preset": "preview", "weights": []},
        "scale": {"value": 1.0},
        "chunks": 1,
        "frames": 81,
        "files": tuple(files),
    }
    return Manifest(**(fields | changes))


def entry(path, kind="collision", **changes):
    return FileEntry(path, "0" * 64, 3, kind, **changes)


def test_a_manifest_survives_its_bytes():
    box = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    original = manifest([entry("collision/a.usdc", tile=0, extent=box)], notices=("n",))
    assert Manifest.from_bytes(original.to_bytes()) == original
    assert original.to_bytes() == Manifest.from_bytes(original.to_bytes()).to_bytes()


def test_superseded_files_are_no_longer_live():
    files = [entry("collision/a", tile=0), entry("collision/b", tile=0, supersedes="collision/a")]
    assert [e.path for e in manifest(files).live("collision")] == ["collision/b"]


@pytest.mark.parametrize("path", ["../x", "/etc/passwd", "a/../../b", "a\\b", "", "a//b"])
def test_a_manifest_that_leaves_its_folder_is_refused(path):
    with pytest.raises(CorruptData):
        Manifest.from_bytes(manifest([entry(path)]).to_bytes())


def test_research_weights_put_their_notice_into_the_world():
    assert "research" in notices_for([{"research_only": True}])[0]
    assert notices_for([{"research_only": False}], "made up") == ("made up",)


def test_revisions_replace_each_other_whole_and_can_be_reverted(tmp_path):
    for k in range(2):
        data = manifest(chunks=k).to_bytes()
        write_revision(tmp_path, {"manifest.json": data, "scale.json": b"%d" % k}, revision=k)
    assert open_world(tmp_path).chunks == 1
    assert revert(tmp_path) == 0
    assert open_world(tmp_path).chunks == 0
    assert (tmp_path / "scale.json").read_bytes() == b"0"
    with pytest.raises(NotFound, match="no earlier revision"):
        revert(tmp_path)


def test_a_missing_or_damaged_file_is_named(tmp_path):
    source = tmp_path / "source"
    source.write_bytes(b"abc")
    put_immutable(tmp_path, "collision/a.usdc", source)
    problems = check_files(tmp_path, manifest([entry("collision/a.usdc"), entry("visual/b")]))
    assert [p.split(":")[0] for p in problems] == ["collision/a.usdc", "visual/b"]


def test_no_world_is_said_plainly(tmp_path):
    with pytest.raises(NotFound, match="worldloom generate"):
        open_world(tmp_path)


def test_a_full_disk_leaves_the_old_file(tmp_path):
    file = tmp_path / "f"
    write_whole(file, b"old")
    with pytest.raises(StorageFull, match="free some space"), storage_errors(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert file.read_bytes() == b"old"


def test_a_folder_below_a_file_cannot_be_written(tmp_path):
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(StorageUnwritable, match="choose another folder"):
        write_whole(tmp_path / "f" / "x", b"1")


def test_every_error_has_its_own_code_and_comes_back_from_the_wire():
    classes = errors._descendants(errors.WorldloomError)
    codes = [cls.code for cls in classes]
    assert len(set(codes)) == len(codes)
    assert all(errors.error_class(cls.code) is cls for cls in classes)
    assert errors.error_class("from-the-future") is errors.WorldloomError
