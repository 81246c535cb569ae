"""A capture archive is untrusted: what is no capture is refused in words, and nothing breaks."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from tests.generator.captures import Shot
from worldloom.generator.capture.archive import open_archive
from worldloom.generator.capture.plan import plan_frames
from worldloom.generator.capture.sizes import depth_at, scaled_intrinsics, working_size
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.capture import capture_cameras, capture_layout
from worldloom.scene.errors import InvalidCapture
from worldloom.scene.frame import rigid, rotation_about

SMALL = (48, 32)


def png(size=SMALL):
    out = io.BytesIO()
    Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(out, "PNG")
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def cameras(n=2, **changed):
    arrays = {"c2w": np.tile(np.eye(4), (n, 1, 1)), "K": np.tile(intrinsics(80, *SMALL), (n, 1, 1))}
    return npz(**arrays | changed)


def members(n=2):
    return {f"frames/{i:05d}.png": png() for i in range(n)} | {"cameras.npz": cameras(n)}


def archive(folder, files, **options):
    file = folder / "capture.zip"
    with zipfile.ZipFile(file, "w", options.get("how", zipfile.ZIP_STORED)) as out:
        for name, data in files.items() if isinstance(files, dict) else files:
            out.writestr(zipfile.ZipInfo(name), data, options.get("how", zipfile.ZIP_STORED))
    return file


def refused(folder, files, text, **options):
    with pytest.raises(InvalidCapture, match=text):
        open_archive(archive(folder, files, **options))


def test_a_good_archive_is_read_frame_by_frame(tmp_path):
    shot = Shot(every=80)
    shot.up = np.array([0, 0, 2.0])
    capture = open_archive(shot.packed(tmp_path / "c", depth=".png"))
    assert (capture.n, capture.size) == (3, (160, 96))
    np.testing.assert_array_equal(capture.cameras.c2w, shot.c2w)
    np.testing.assert_array_equal(capture.cameras.up, [0, 0, 1])
    frames = list(capture.read([2, 0], (160, 96)))
    assert [frame.number for frame in frames] == [2, 0]
    assert np.abs(frames[1].rgb - shot.rgb[0]).max() < 0.003
    assert np.abs(frames[0].depth - shot.depth[2]).max() < 0.6e-3
    assert next(iter(capture.read([1], (80, 48), depth=False))).depth is None


@pytest.mark.parametrize(
    "name",
    ["../cameras.npz", "/etc/passwd", "frames/../x.png", "frames/0.png", "frames/00000.gif",
     "notes.txt", "frames/00000.png/", "frames\\00000.png", "frames/00002.png\0.jpg"],
)  # fmt: skip
def test_names_outside_the_pattern_are_refused(tmp_path, name):
    refused(tmp_path, members() | {name: b"x"}, "cannot be used: it holds|no PNG")


def test_the_same_name_twice_and_two_kinds_of_one_frame_are_refused(tmp_path):
    twice = [*members().items(), ("frames/00001.png", png())]
    with pytest.warns(UserWarning, match="Duplicate"):
        refused(tmp_path, twice, "'frames/00001.png' twice")
    refused(tmp_path, members() | {"frames/00001.jpg": png()}, "is there twice")


def test_compressed_members_are_refused(tmp_path):
    refused(tmp_path, members(), "compressed", how=zipfile.ZIP_DEFLATED)


def test_members_inside_of_each_other_are_refused(tmp_path):
    file = archive(tmp_path, members())
    data = bytearray(file.read_bytes())
    # Point the second entry of the directory at the first one's data, as zip bombs do.
    with zipfile.ZipFile(file) as whole:
        first = whole.start_dir
    second = data.index(b"PK\1\2", first + 4)
    data[second + 42 : second + 46] = data[first + 42 : first + 46]
    file.write_bytes(data)
    with pytest.raises(InvalidCapture, match="inside of another file"):
        open_archive(file)


def test_a_picture_that_claims_to_be_huge_is_refused_from_its_header(tmp_path):
    ihdr = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + ihdr
    bomb += struct.pack(">I", zlib.crc32(ihdr)) + png()[33:]
    refused(tmp_path, members() | {"frames/00001.png": bomb}, "60000 x 60000 px; the limit is 50")


def test_a_depth_map_that_claims_to_be_huge_is_refused_from_its_header(tmp_path):
    head = io.BytesIO()
    shape = {"descr": "<f4", "fortran_order": False, "shape": (1 << 20, 1 << 20)}
    np.lib.format.write_array_header_1_0(head, shape)
    refused(tmp_path, members() | {"depth/00000.npy": head.getvalue()}, "limit is 8 Mpx")


def test_pickles_text_and_cut_files_are_refused(tmp_path):
    objects = npz(c2w=np.array([{}], object), K=np.zeros((2, 3, 3)))
    refused(tmp_path, members() | {"cameras.npz": objects}, "holds object; numbers are needed")
    refused(tmp_path, members() | {"frames/00001.png": b"a letter"}, "no PNG or JPEG")
    refused(tmp_path, members() | {"cameras.npz": b"a letter"}, "cannot be decoded")
    (tmp_path / "x.zip").write_bytes(archive(tmp_path, members()).read_bytes()[:-200])
    with pytest.raises(InvalidCapture, match="cannot be used"):
        open_archive(tmp_path / "x.zip")


def test_a_frame_that_is_missing_or_alone_is_named(tmp_path):
    files = members(4)
    del files["frames/00002.png"]
    refused(tmp_path, files, "frame 00002 is missing")
    refused(tmp_path, members(1), r"1 frame\(s\); at least 2")
    files = members()
    del files["cameras.npz"]
    refused(tmp_path, files, "no cameras.npz")
    refused(tmp_path, members() | {"depth/00007.npy": b""}, "no numpy|cannot be decoded|no frame")
    with pytest.raises(InvalidCapture, match=r"depth/00007\.npy belongs to no frame"):
        capture_layout([*members(), "depth/00007.npy"])


def test_cameras_that_do_not_fit_are_named(tmp_path):
    refused(tmp_path, members(3) | {"cameras.npz": cameras(2)}, "2 poses and there are 3 frames")
    skewed, mirrored, lost = (np.tile(np.eye(4), (2, 1, 1)) for _ in range(3))
    skewed[1, 0, 1], mirrored[1, 0, 0], lost[1, 2, 3] = 0.1, -1, np.nan
    for c2w in (skewed, mirrored):
        refused(tmp_path, members() | {"cameras.npz": cameras(c2w=c2w)}, "pose 1 is not a rotation")
    refused(tmp_path, members() | {"cameras.npz": cameras(c2w=lost)}, "pose 1 has a NaN")
    refused(tmp_path, members() | {"cameras.npz": npz(c2w=np.eye(4))}, "no array K")
    refused(tmp_path, members() | {"cameras.npz": cameras(up=np.zeros(3))}, "up = ")
    shape = cameras(K=np.zeros((2, 2, 3)))
    refused(tmp_path, members() | {"cameras.npz": shape}, r"K of shape \[2, 2, 3\]")
    flat = cameras(K=np.zeros((2, 3, 3)))
    refused(tmp_path, members() | {"cameras.npz": flat}, "K of frame 0 is")


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_intrinsics_of_another_size_are_refused(tmp_path, factor):
    K = np.tile(intrinsics(80, SMALL[0] * factor, SMALL[1] * factor), (2, 1, 1))
    refused(tmp_path, members() | {"cameras.npz": cameras(K=K)}, "Give K in pixels of the frames")


def test_frames_and_depth_of_different_shape_are_refused(tmp_path):
    refused(tmp_path, members() | {"frames/00001.png": png((96, 64))}, "all frames need one size")
    deep = io.BytesIO()
    np.save(deep, np.ones((48, 48), np.float32))
    refused(tmp_path, members() | {"depth/00000.npy": deep.getvalue()}, "the same shape within")
    number = io.BytesIO()
    np.save(number, np.ones((32, 48), np.int32))
    refused(tmp_path, members() | {"depth/00000.npy": number.getvalue()}, "float metres")
    eight = members() | {"depth/00000.png": png()}
    refused(tmp_path, eight, "8-bit PNG; 16-bit grey")


def test_one_matrix_serves_all_frames():
    found = capture_cameras(np.tile(np.eye(4), (3, 1, 1)), intrinsics(80, 8, 6), None, frames=3)
    assert found.K.shape == (3, 3, 3)


def test_depth_of_a_plane_stays_exact_at_another_size():
    K, normal = intrinsics(80, 96, 64), np.array([0.1, 0.3, 1.0])
    fine = scaled_intrinsics(K[None], (96, 64), (208, 136))[0]
    coarse_z = (2 / (pixel_rays(K, 96, 64) @ normal)).astype(np.float32)
    fine_z = 2 / (pixel_rays(fine, 208, 136) @ normal)
    inside = (slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(depth_at(coarse_z, 208, 136)[inside], fine_z[inside], rtol=1e-5)
    edge = np.full((40, 40), 1.0, np.float32)
    edge[:, 20:], edge[:, :5] = 3.0, 0.0
    assert set(np.unique(depth_at(edge, 120, 120))) == {0.0, 1.0, 3.0}


def test_the_working_size_is_no_larger_than_the_frames():
    assert working_size((1920, 1080), 832) == (832, 464)
    assert working_size((100, 60), 832) == (96, 56)


def test_frames_are_spread_over_whole_chunks_and_keyframes_follow_the_motion():
    c2w = rigid(rotation_about([0, 1, 0], np.linspace(0, 1.2, 200)), np.zeros((200, 3)))
    still = np.concatenate([c2w[:100], np.tile(c2w[100], (100, 1, 1))])
    plan = plan_frames(still, np.ones(200, bool), 241, 2.0)
    assert len(plan.shown) == 241
    assert set(plan.shown) == set(range(200))
    assert (np.diff(plan.shown) >= 0).all()
    moving = [i for i in plan.keyframes if plan.shown[i] < 101]
    assert 4 <= len(moving) <= 6
    assert len(plan.keyframes) - len(moving) <= 2
    for chunk in (range(1, 81), range(81, 161), range(161, 241)):
        assert not plan.keyframes.isdisjoint(chunk)


def test_long_captures_have_no_more_keyframes_than_other_engines():
    c2w = rigid(np.eye(3), np.arange(4000)[:, None] * [0.5, 0, 0])
    plan = plan_frames(c2w, np.ones(4000, bool), 4001, 1.0)
    assert 300 < len(plan.keyframes) <= 502
