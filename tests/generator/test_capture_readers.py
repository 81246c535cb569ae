"""Folders of public data sets become frames with cameras in our axes."""

import json

import numpy as np
import pytest
from PIL import Image

from worldloom.generator.capture.readers import (
    read_posed_folder,
    read_tanks_and_temples,
    read_transforms,
)
from worldloom.generator.truth.walk import camera_pose
from worldloom.scene.errors import InvalidCapture

POSES = np.stack([camera_pose((0.1 * i, 0.5, 1.2), 10.0 * i, -5.0) for i in range(12)])


def picture(file, size=(64, 36)):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size).save(file)
    return file


def tanks(folder, n=12):
    for i in range(n):
        picture(folder / "images" / f"{i + 1:06d}.jpg")
    rows = []
    for i, pose in enumerate(POSES):
        rows += [f"{i} {i} 0", *(" ".join(f"{x:.12g}" for x in row) for row in pose)]
    (folder / "cameras_sfm.log").write_text("\n".join(rows) + "\n")
    return folder


def dl3dv(folder, **changed):
    for i in range(12):
        picture(folder / "images_4" / f"frame_{i + 1:05d}.png")
    frames = [
        {"file_path": f"images/frame_{i + 1:05d}.png",
         "transform_matrix": (POSES[i] @ np.diag([1, -1, -1, 1])).tolist()}
        for i in range(12)
    ]  # fmt: skip
    head = {"w": 256, "h": 144, "fl_x": 200.0, "fl_y": 202.0, "cx": 129.0, "cy": 71.0,
            "camera_model": "OPENCV", "k1": -0.2, "k2": 0.01, "p1": 0, "p2": 0}  # fmt: skip
    folder.mkdir(exist_ok=True)
    (folder / "transforms.json").write_text(json.dumps(head | {"frames": frames[::-1]} | changed))
    return folder


def test_tanks_and_temples_logs_are_camera_to_world_in_our_axes(tmp_path):
    posed = read_posed_folder(tanks(tmp_path))
    np.testing.assert_allclose(posed.c2w, POSES, atol=1e-9)
    assert posed.size == (64, 36)
    assert [f.name for f in posed.frames[:2]] == ["000001.jpg", "000002.jpg"]
    assert posed.K[0, 0, 0] == pytest.approx(0.6 * 64)
    assert "focal length is taken" in posed.notes[0]
    assert read_tanks_and_temples(tmp_path, focal_px=50.0).K[3, 1, 1] == 50
    (tmp_path / "cameras.txt").write_text("# COLMAP\n1 PINHOLE 128 72 90 91 63 37\n")
    K = read_tanks_and_temples(tmp_path).K[0]
    np.testing.assert_allclose(K, [[45, 0, 31.5], [0, 45.5, 18.5], [0, 0, 1]])
    (tmp_path / "intrinsics.txt").write_text("40 0 32\n0 40 18\n0 0 1\n")
    assert read_tanks_and_temples(tmp_path).K[0, 0, 0] == 40


def test_broken_tanks_and_temples_folders_are_refused(tmp_path):
    tanks(tmp_path / "a", n=11)
    with pytest.raises(InvalidCapture, match=r"12 poses and .* has 11 pictures"):
        read_posed_folder(tmp_path / "a")
    log = tanks(tmp_path / "b") / "cameras_sfm.log"
    log.write_text(log.read_text() + "12 12 0\n")
    with pytest.raises(InvalidCapture, match="five for each pose"):
        read_posed_folder(tmp_path / "b")
    log.write_text("0 0 0\n1 0 0 0\n0 1 0 0\n0 0 -1 0\n0 0 0 1\n")
    with pytest.raises(InvalidCapture, match="pose 0 is not a rotation"):
        read_posed_folder(tmp_path / "b")
    with pytest.raises(InvalidCapture, match="no posed data set"):
        read_posed_folder(tmp_path / "c")


def test_dl3dv_folders_with_reduced_pictures_are_read_in_our_axes(tmp_path):
    posed = read_posed_folder(dl3dv(tmp_path))
    np.testing.assert_allclose(posed.c2w, POSES, atol=1e-12)
    np.testing.assert_allclose(posed.K[5], [[50, 0, 32.25], [0, 50.5, 17.75], [0, 0, 1]])
    assert posed.frames[1].parent.name == "images_4"
    assert posed.depth == (None,) * 12
    assert "bends the corners by" in posed.notes[0]


def test_transforms_that_are_broken_or_lead_outside_are_refused(tmp_path):
    with pytest.raises(InvalidCapture, match="KeyError"):
        read_transforms(dl3dv(tmp_path / "a", frames=[{"file_path": "x.png"}]))
    pose = np.eye(4).tolist()
    away = [{"file_path": "../../secret.png", "transform_matrix": pose}]
    with pytest.raises(InvalidCapture, match="outside its folder"):
        read_transforms(dl3dv(tmp_path / "b", frames=away))
    gone = [{"file_path": "images/none.png", "transform_matrix": pose}]
    with pytest.raises(InvalidCapture, match="has no picture"):
        read_transforms(dl3dv(tmp_path / "c", frames=gone))
    with pytest.raises(InvalidCapture, match="no frames"):
        read_transforms(dl3dv(tmp_path / "d", frames=[]))
