"""`worldloom generate DIR --engine capture` through a real server: a good capture, and bad ones."""

import contextlib
import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.generator.captures import Shot
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.worldcache import follow
from worldloom.cli.localserver import local_server
from worldloom.cli.main import main
from worldloom.cli.requests import input_ref
from worldloom.generator.layers.read import read_mesh_layer
from worldloom.generator.truth import measure
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.surface import mesh
from worldloom.scene.cameras import Cameras
from worldloom.scene.capture import capture_path
from worldloom.scene.errors import InvalidCapture
from worldloom.scene.mesh import TriMesh
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import check_files, file_sha256, open_world


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server(tmp_path_factory.mktemp("store"), engine="capture") as running:
        yield running


@pytest.fixture(scope="module")
def shot():
    return Shot("corridor", every=10, size=(208, 120))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, shot):
    return shot.write(tmp_path_factory.mktemp("capture") / "c", depth=".png")


def call(*arguments):
    """Exit code and everything that was printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(a) for a in arguments])
    return code, out.getvalue() + err.getvalue()


def generate(source, out, server, *more):
    where = ["--server", server.address] if server else []
    more = [*more, "--quality", "draft"]
    return call("generate", source, "--engine", "capture", "--out", out, *where, *more)


def test_a_folder_of_posed_frames_becomes_a_level_world_with_its_surface(
    tmp_path, server, folder, shot
):
    code, text = generate(folder, tmp_path / "w", server)
    assert code == 0, text
    assert "extend" not in text
    manifest = open_world(tmp_path / "w")
    assert manifest.complete
    assert check_files(tmp_path / "w", manifest) == []
    assert manifest.photo_sha256 is None
    assert manifest.request["capture"]["media"] == "zip"
    assert manifest.scale["status"] == "calibrated"
    assert not (tmp_path / "w" / ".capture.zip").exists()
    cameras = Cameras.load(tmp_path / "w" / "cameras.npz")
    shown = np.rint(np.linspace(0, shot.cameras.n - 1, cameras.n)).astype(int)
    up = cameras.c2w[:, :3, :3] @ np.linalg.inv(shot.cameras.c2w[shown, :3, :3])
    assert np.degrees(np.arccos(np.minimum(up[:, 2, 2], 1))).max() < 0.2
    np.testing.assert_allclose(cameras.centres, shot.cameras.centres[shown], atol=0.03)
    files = [tmp_path / "w" / entry.path for entry in manifest.live("collision")]
    collider = TriMesh.concat([read_mesh_layer(file) for file in files])
    place = scene("corridor")
    score = measure.score_collider(place, mesh(place), collider, shot.cameras, reach_m=8.0)
    assert score.accurate > 0.97
    assert score.f_score > 0.9
    code, text = call("check", tmp_path / "w")
    assert code == 0, text


def test_the_same_folder_packs_to_the_same_bytes(tmp_path, folder):
    from worldloom.cli.capture import check_folder, pack

    hashes = set()
    for name in ("a.zip", "b.zip"):
        pack(folder, check_folder(folder), tmp_path / name)
        hashes.add(file_sha256(tmp_path / name))
    assert len(hashes) == 1
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}


def test_pictures_without_depth_say_which_weights_and_how(tmp_path, server, shot, monkeypatch):
    small = Shot(every=80)
    code, text = generate(small.write(tmp_path / "c", depth=""), tmp_path / "w", server)
    assert code == 2
    assert "worldloom weights convert da3" in text


def test_what_the_client_sees_at_once_needs_no_server(tmp_path, folder):
    code, text = generate(tmp_path / "none", tmp_path / "w", None)
    assert (code, "no capture folder at" in text) == (2, True)
    code, text = generate(folder, tmp_path / "w", None, "--path", "dolly")
    assert (code, "has the cameras of the capture" in text) == (2, True)
    code, text = call("generate", folder, "--out", tmp_path / "w")
    assert (code, "add --engine capture" in text) == (2, True)
    spoilt = Shot(every=80).write(tmp_path / "c")
    (spoilt / "frames" / "00001.png").rename(spoilt / "frames" / "IMG_1.png")
    code, text = generate(spoilt, tmp_path / "w", None)
    assert (code, "IMG_1.png" in text) == (2, True)
    (spoilt / "frames" / "IMG_1.png").unlink()
    code, text = generate(spoilt, tmp_path / "w", None)
    assert (code, "frame 00001 is missing" in text) == (2, True)
    (tmp_path / "x.zip").write_bytes(b"a letter")
    code, text = generate(tmp_path / "x.zip", tmp_path / "w", None)
    assert (code, "neither a capture folder" in text) == (2, True)


def test_an_archive_that_no_client_of_ours_packs_fails_in_the_server(tmp_path, server, folder):
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, str(file.relative_to(folder)))
        archive.writestr("../../etc/cron.d/x", b"* * * * * root true\n")
    request = WorldRequest(
        "capture", capture_path(81), capture=input_ref("capture", evil), quality="draft"
    )
    with WorldsClient(server.address) as client:
        job = client.submit(request, {"capture": evil})
        with pytest.raises(InvalidCapture, match="no part of a capture"):
            follow(client, job, tmp_path / "w")


def test_a_data_set_is_imported_and_makes_a_world(tmp_path):
    small = Shot(every=40)
    source = tmp_path / "set"
    (source / "images").mkdir(parents=True)
    frames = []
    for i, rgb in enumerate(small.rgb):
        Image.fromarray((255 * np.clip(rgb, 0, 1)).astype(np.uint8)).save(
            source / "images" / f"frame_{i + 1}.png"
        )
        depth = f"depth_{i + 1}.png"
        Image.fromarray((1000 * small.depth[i]).astype(np.uint16)).save(source / depth)
        pose = (small.c2w[i] @ np.diag([1, -1, -1, 1])).tolist()
        frames.append(
            {"file_path": f"images/frame_{i + 1}.png", "transform_matrix": pose,
             "depth_file_path": depth}
        )  # fmt: skip
    f = float(small.K[0, 0, 0])
    head = {"w": 160, "h": 96, "fl_x": f, "fl_y": f, "cx": 80, "cy": 48, "frames": frames[::-1]}
    (source / "transforms.json").write_text(json.dumps(head))
    code, text = call("capture", "import", source, "--out", tmp_path / "c", "--every", "2")
    assert code == 0, text
    assert "3 frames written" in text
    with np.load(tmp_path / "c" / "cameras.npz") as data:
        np.testing.assert_allclose(data["c2w"], small.c2w[::2], atol=1e-9)
        np.testing.assert_allclose(data["K"], small.K[::2])
    from worldloom.cli.capture import check_folder

    assert check_folder(tmp_path / "c").has_depth
    code, text = call("capture", "import", source, "--out", tmp_path / "c")
    assert (code, "holds a capture already" in text) == (2, True)
