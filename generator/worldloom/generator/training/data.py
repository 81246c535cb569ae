"""A dataset folder (spec 8.6) -> training clips: mp4, camera npz, depth zips, caption embeddings.

Nothing is unpickled. Caption embeddings come from `<id>.safetensors` (one tensor per caption, named
by its first frame), or are made of the texts in `<id>.json` by a text encoder that is handed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.depthfile import read_depths
from worldloom.generator.video.lyra.config import TEXT_TOKENS
from worldloom.generator.videofile import read_frames
from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound

LIST_FILE = "all_filter.lst"
BATCH = 32  # Frames that are resized at a time.

Embed = Callable[[str], Tensor]
"""Caption -> prompt embedding [n D], at most 512 rows."""


@dataclass(frozen=True)
class Frames:
    """How stored frames become training frames."""

    resize: tuple[int, int] = (480, 854)
    """Height and width that the stored video is brought to (spec generation 8.6)."""
    size: tuple[int, int] = (480, 832)
    """Height and width that are cut out of its centre."""
    count: int = 1000
    """Frames of a clip; a shorter one is played back and forth."""

    @property
    def corner(self) -> tuple[int, int]:
        """Row and column at which the cut begins."""
        return (self.resize[0] - self.size[0]) // 2, (self.resize[1] - self.size[1]) // 2

    def fit(self, images: Tensor) -> Tensor:
        """Images [n c h w] resized with antialiasing, and cut."""
        made = F.interpolate(images, self.resize, mode="bilinear", antialias=True)
        top, left = self.corner
        return made[:, :, top : top + self.size[0], left : left + self.size[1]]

    def intrinsics(self, K: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
        """Intrinsics [n 3 3] of stored frames of `width` x `height` as those of training frames."""
        K = K.copy()
        K[:, 0] *= self.resize[1] / width
        K[:, 1] *= self.resize[0] / height
        K[:, 0, 2] -= self.corner[1]
        K[:, 1, 2] -= self.corner[0]
        return K


class FolderClips:
    """The clips of a dataset folder, endless: item i is clip i modulo their number."""

    def __init__(
        self, root: Path, *, captions: Path | None = None, frames: Frames | None = None,
        embed: Embed | None = None,
    ) -> None:  # fmt: skip
        self.root = Path(root)
        self.captions = Path(captions) if captions else self.root / "captions"
        self.frames = frames or Frames()
        self.embed = embed
        videos = {file.stem: file for file in sorted(self.root.rglob("rgb/*.mp4"))}
        names = listed(self.root)
        missing = [name for name in names if name not in videos]
        if missing:
            raise NotFound(
                f"{len(missing)} of {len(names)} clips in {self.root / LIST_FILE} have no mp4 in a "
                f"folder called rgb, such as {missing[0]!r}; remove them from the list"
            )
        self.videos = [videos[name] for name in names]

    def __len__(self) -> int:
        return len(self.videos)

    def clip(self, index: int) -> TrainingClip:
        """Read one clip.

        Raises:
            NotFound: A file of the clip is missing.
            CorruptData: A file cannot be read.
            InvalidRequest: Its parts do not fit together.
        """
        file = self.videos[index % len(self.videos)]
        base, name = file.parent.parent, file.stem
        video, (width, height) = read_video(file, self.frames)
        count = len(video)
        pose = read_indexed(base / "pose" / f"{name}.npz", count)
        values = read_indexed(base / "intrinsics" / f"{name}.npz", count)
        depth = read_depths(base / "depth", name, count)
        text, keys = read_captions(self.captions, name, self.embed)
        clip = TrainingClip(
            name=name,
            video=video.permute(1, 0, 2, 3)[None],
            depth=self.frames.fit(torch.from_numpy(depth)[:, None])[:, 0].numpy(),
            w2c=np.linalg.inv(pose.astype(np.float64)),
            K=self.frames.intrinsics(matrices(values, name), width, height),
            text=text,
            text_keys=keys,
        )
        return clip.check().extended(self.frames.count)


def listed(root: Path) -> list[str]:
    """Names of the clips: the list's lines up to their first dot.

    Raises:
        NotFound: There is no list.
        InvalidRequest: It is empty.
    """
    file = root / LIST_FILE
    if not file.is_file():
        raise NotFound(f"{root} has no {LIST_FILE}; write one clip name a line into it")
    names = [line.strip().split(".")[0] for line in file.read_text("utf-8").splitlines()]
    names = [name for name in names if name]
    if not names:
        raise InvalidRequest(f"{file} lists no clip; write one clip name a line into it")
    return names


def read_video(file: Path, frames: Frames) -> tuple[Tensor, tuple[int, int]]:
    """Up to `frames.count` frames [n 3 h w] in -1..1, and width and height as stored.

    Raises:
        CorruptData: ffmpeg cannot read the file.
    """
    parts: list[Tensor] = []
    batch: list[NDArray[np.uint8]] = []
    size = (0, 0)
    try:
        for picture in islice(read_frames(file), frames.count):
            size = (picture.shape[1], picture.shape[0])
            batch.append(picture)
            if len(batch) == BATCH:
                parts.append(_fitted(batch, frames))
                batch = []
    except CorruptData as error:
        raise CorruptData(f"{error}; leave it out") from error
    if batch:
        parts.append(_fitted(batch, frames))
    return torch.cat(parts), size


def _fitted(batch: list[NDArray[np.uint8]], frames: Frames) -> Tensor:
    stack = torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2).float()
    return frames.fit(stack / 127.5 - 1)


def read_indexed(file: Path, count: int) -> NDArray[np.float64]:
    """Rows of an npz with `inds` [n] and `data` [n ...] for the frames 0 to count - 1.

    Raises:
        NotFound: There is no such file.
        CorruptData: It has other contents, or lacks a frame.
    """
    if not file.is_file():
        raise NotFound(f"{file} is missing; every clip needs its cameras there")
    try:
        with np.load(file, allow_pickle=False) as stored:
            inds, data = stored["inds"], stored["data"]
    except (OSError, ValueError, KeyError) as error:
        raise CorruptData(
            f"{file} is no npz with `inds` and `data` ({str(error)[:80]}); write it again"
        ) from error
    place = {int(number): row for row, number in enumerate(inds)}
    lacking = [t for t in range(count) if t not in place]
    if lacking or len(inds) != len(data):
        raise CorruptData(
            f"{file} has {len(data)} rows for {len(inds)} frames and lacks {len(lacking)} of the "
            f"{count} frames of the video; write one row for each frame"
        )
    return np.asarray(data[[place[t] for t in range(count)]], np.float64)


def matrices(values: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Intrinsics [n 3 3] of rows fx, fy, cx, cy.

    Raises:
        CorruptData: There are fewer than four columns.
    """
    if values.ndim != 2 or values.shape[1] < 4:
        raise CorruptData(
            f"the intrinsics of clip {name} have shape {list(values.shape)}; "
            "each row must be fx, fy, cx, cy in pixels"
        )
    K = np.tile(np.eye(3), (len(values), 1, 1))
    K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2] = values[:, :4].T
    return K


def read_captions(
    folder: Path, name: str, embed: Embed | None = None
) -> tuple[Tensor, tuple[int, ...]]:
    """Embeddings [k 512 D] of a clip's captions and their first frames.

    Raises:
        NotFound: The clip has no captions.
        InvalidRequest: They are pickled, or are texts without an encoder for them.
        CorruptData: They cannot be read.
    """
    tensors, texts = folder / f"{name}.safetensors", folder / f"{name}.json"
    if tensors.is_file():
        return _embeddings(tensors)
    if texts.is_file():
        return _encoded(texts, embed)
    if (folder / f"{name}.pkl").is_file():
        raise InvalidRequest(
            f"the captions of clip {name} are pickled, and a pickle can run any program. Store "
            f"their embeddings in {tensors.name}, one tensor named by its first frame, or their "
            f"texts in {texts.name}"
        )
    raise NotFound(f"{folder} has neither {tensors.name} nor {texts.name}; caption the clip")


def _embeddings(file: Path) -> tuple[Tensor, tuple[int, ...]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = {int(key): value.float() for key, value in load_file(file).items()}
        return _stacked(found)
    except (SafetensorError, ValueError, OSError) as error:
        raise CorruptData(
            f"{file} cannot be read ({str(error)[:100]}); give tensors [n D] named by frame numbers"
        ) from error


def _encoded(file: Path, embed: Embed | None) -> tuple[Tensor, tuple[int, ...]]:
    if embed is None:
        raise InvalidRequest(
            f"{file} holds texts and no text encoder is configured; encode them once into "
            f"{file.stem}.safetensors"
        )
    try:
        stored = json.loads(file.read_text("utf-8"))
        words = {int(k): v["caption"] if isinstance(v, dict) else str(v) for k, v in stored.items()}
    except (ValueError, KeyError, AttributeError) as error:
        raise CorruptData(
            f"{file} is not a mapping of first frames to captions ({str(error)[:80]})"
        ) from error
    return _stacked({key: embed(text).float() for key, text in words.items()})


def _stacked(found: dict[int, Tensor]) -> tuple[Tensor, tuple[int, ...]]:
    """Embeddings padded with zeros to 512 rows; ValueError when there is none or one is longer."""
    keys = tuple(sorted(found))
    if not keys:
        raise ValueError("no captions")
    if any(found[k].ndim != 2 or len(found[k]) > TEXT_TOKENS for k in keys):
        raise ValueError(f"an embedding is not [n <= {TEXT_TOKENS}, D]")
    rows = [F.pad(found[k], (0, 0, 0, TEXT_TOKENS - len(found[k]))) for k in keys]
    return torch.stack(rows), keys
