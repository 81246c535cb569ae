"""Dataset folders of the release's layout, and every flaw of them."""

import subprocess
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldloom.generator.training import data
from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.walks import TruthClips, prompt_of
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound, WorldloomError


@pytest.fixture
def folder(tmp_path):
    """One clip of nine frames of 64 x 48, as the release stores it."""
    from imageio_ffmpeg import get_ffmpeg_exe

    for name in ("rgb", "pose", "intrinsics", "depth", "captions"):
        (tmp_path / name).mkdir()
    (tmp_path / "all_filter.lst").write_text("one.mp4\n\n")
    frames = np.full((9, 48, 64, 3), 128, np.uint8)
    subprocess.run(
        [get_ffmpeg_exe(), "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24", "-s",
         "64x48", "-r", "16", "-i", "-", "-pix_fmt", "yuv420p", str(tmp_path / "rgb/one.mp4")],
        input=frames.tobytes(), check=True,
    )  # fmt: skip
    inds = np.arange(9)
    poses = np.tile(np.eye(4), (9, 1, 1))
    poses[:, 0, 3] = inds
    np.savez(tmp_path / "pose/one.npz", inds=inds, data=poses)
    rows = np.tile([60.0, 60.0, 32.0, 24.0], (9, 1))
    np.savez(tmp_path / "intrinsics/one.npz", inds=inds, data=rows)
    np.savez(tmp_path / "depth/one.npz", inds=inds, data=np.full((9, 48, 64), 2.0, np.float32))
    save_file({"5": torch.ones(2, 4), "0": torch.ones(3, 4)}, tmp_path / "captions/one.safetensors")
    return tmp_path


FRAMES = data.Frames(resize=(32, 52), size=(32, 48), count=17)


def test_a_dataset_folder_becomes_a_clip(folder):
    clip = data.FolderClips(folder, frames=FRAMES).clip(3)
    assert clip.video.shape == (1, 3, 17, 32, 48)  # Played back and forth.
    assert clip.video.abs().max() < 0.03
    assert clip.w2c[3][0, 3] == -3
    assert clip.w2c[9][0, 3] == -7
    assert clip.K[0, 0, 0] == pytest.approx(60 * 52 / 64)
    assert clip.K[0, 0, 2] == pytest.approx(32 * 52 / 64 - 2)
    assert clip.depth.shape == (17, 32, 48)
    assert clip.text.shape == (2, 512, 4)
    assert clip.text_keys == (0, 5)
    assert clip.text_index(4) == 0
    assert clip.text_index(5) == 1


def test_depth_may_be_a_zip_of_exr_files(folder):
    openexr = pytest.importorskip("OpenEXR")
    (folder / "depth/one.npz").unlink()
    with zipfile.ZipFile(folder / "depth/one.zip", "w") as archive:
        for t in range(9):
            file = folder / "frame.exr"
            channels = {"Z": np.full((48, 64), 1.0 + t, np.float32)}
            header = {"compression": openexr.ZIP_COMPRESSION, "type": openexr.scanlineimage}
            openexr.File(header, channels).write(str(file))
            archive.write(file, f"{t:05d}.exr")
    clip = data.FolderClips(folder, frames=FRAMES).clip(0)
    assert clip.depth[4].mean() == pytest.approx(5)


def test_captions_as_texts_need_an_encoder(folder):
    (folder / "captions/one.safetensors").unlink()
    (folder / "captions/one.json").write_text('{"0": {"caption": "a room"}, "5": "a door"}')
    with pytest.raises(InvalidRequest, match="no text encoder"):
        data.FolderClips(folder, frames=FRAMES).clip(0)
    clip = data.FolderClips(folder, frames=FRAMES, embed=lambda t: prompt_of(t, 4)[0]).clip(0)
    assert clip.text_keys == (0, 5)


def spoil(folder, what):
    if what == "pickle":
        (folder / "captions/one.safetensors").rename(folder / "captions/one.pkl")
    elif what == "caption":
        (folder / "captions/one.safetensors").unlink()
    elif what == "list":
        (folder / "all_filter.lst").unlink()
    elif what == "empty list":
        (folder / "all_filter.lst").write_text("\n")
    elif what == "video":
        (folder / "all_filter.lst").write_text("two\n")
    elif what == "mp4":
        (folder / "rgb/one.mp4").write_bytes(b"no video")
    elif what == "pose":
        np.savez(folder / "pose/one.npz", inds=np.arange(4), data=np.zeros((4, 4, 4)))
    elif what == "object":
        np.savez(folder / "pose/one.npz", inds=np.arange(9), data=np.array([{}] * 9))
    elif what == "nan":
        np.savez(folder / "intrinsics/one.npz", inds=np.arange(9), data=np.full((9, 4), np.nan))
    elif what == "depth":
        (folder / "depth/one.npz").unlink()


@pytest.mark.parametrize(
    ("what", "kind", "words"),
    [
        ("pickle", InvalidRequest, "a pickle can run any program. Store their embeddings in one.s"),
        ("caption", NotFound, "caption the clip"),
        ("list", NotFound, "write one clip name a line"),
        ("empty list", InvalidRequest, "lists no clip"),
        ("video", NotFound, "no mp4 in a folder called rgb, such as 'two'"),
        ("mp4", CorruptData, "cannot be decoded"),
        ("pose", CorruptData, "lacks 5 of the 9 frames"),
        ("object", CorruptData, "write it again"),
        ("nan", InvalidRequest, "not finite; leave it out"),
        ("depth", NotFound, "estimate its depth"),
    ],
)
def test_every_flaw_of_a_dataset_is_named(folder, what, kind, words):
    spoil(folder, what)
    with pytest.raises(kind, match=words):
        data.FolderClips(folder, frames=FRAMES).clip(0)


def test_a_clip_whose_parts_do_not_fit_is_refused():
    clip = TruthClips(9, (48, 32), 4, scenes=("room",)).clip(0)
    with pytest.raises(WorldloomError, match="depth has shape"):
        TrainingClip("odd", clip.video, clip.depth[:4], clip.w2c, clip.K, clip.text).check()
    video, depth = clip.video[..., :40], clip.depth[..., :40]
    narrow = TrainingClip("odd", video, depth, clip.w2c, clip.K, clip.text)
    with pytest.raises(WorldloomError, match="multiples of 16"):
        narrow.check()
