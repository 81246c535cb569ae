"""What a capture folder is: names of its files, and cameras that can have taken them.

`frames/00000.png|jpg ...`, `cameras.npz` and maybe `depth/00000.png|npy` (architecture page 3.3).
The client checks a folder with this before it packs it, the generator checks the archive with the
same, so that both refuse the same things in the same words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.scene.cameras import check_poses
from worldloom.scene.errors import InvalidCameraPath, InvalidCapture
from worldloom.scene.path import CameraPath, Keyframe

CAMERAS_FILE = "cameras.npz"
CAPTURE_PATH = "capture"
"""Name of the camera path of a capture's request: the cameras are the capture's own."""
MEMBER = re.compile(r"(?:frames/(\d{5})\.(?:png|jpe?g)|depth/(\d{5})\.(?:png|npy)|cameras\.npz)")
FRAMES_MIN = 2  # One posed frame is a photo, and engines for photos do better with it.
CENTRE_SHARES = (0.3, 0.7)
"""Where a principal point may lie, in frame sides: a wider one is a K of another size."""
FOCAL_SHARES = (0.1, 20.0)
"""Focal length over the longer side: a 157 degree fisheye to an 800 mm lens."""
SKEW_PX = 0.5  # Largest skew of K that counts as none.
PATTERN_HELP = (
    "a capture holds frames/00000.png (or jpg) and on, cameras.npz, and maybe depth/00000.png "
    "(16-bit, mm) or .npy (float metres)"
)


@dataclass(frozen=True)
class CaptureLayout:
    """Names of a capture's files, by frame."""

    frames: tuple[str, ...]
    """Name of each frame's picture."""
    depth: tuple[str | None, ...]
    """Name of each frame's depth, None where it has none."""

    @property
    def has_depth(self) -> bool:
        """Whether any frame has a depth file."""
        return any(name is not None for name in self.depth)

    def names(self) -> list[str]:
        """All names, in the order in which they are packed."""
        return [CAMERAS_FILE, *self.frames, *(name for name in self.depth if name)]


@dataclass(frozen=True)
class CaptureCameras:
    """The content of `cameras.npz`."""

    c2w: NDArray[np.float64]
    """Camera to world, OpenCV axes, any world frame, metres, shape [n 4 4]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels of the frames, pixel centres at +0.5, shape [n 3 3]."""
    up: NDArray[np.float64] | None = None
    """Up in that world frame, unit vector, shape [3]; None where nobody says."""


def capture_layout(names: Iterable[str]) -> CaptureLayout:
    """Sort the names of a capture's files by frame.

    Raises:
        InvalidCapture: A name does not follow the pattern or is there twice, a frame is missing.
    """
    frames: dict[int, str] = {}
    depth: dict[int, str] = {}
    seen: set[str] = set()
    for name in names:
        match = MEMBER.fullmatch(name)
        if match is None:
            raise _bad(f"it holds {name[:120]!r}, which is no part of a capture; {PATTERN_HELP}")
        kind, number = (frames, match[1]) if match[1] else (depth, match[2])
        if name in seen or (number and int(number) in kind):
            raise _bad(f"{name} is there twice (or as both kinds of file); keep one")
        seen.add(name)
        if number:
            kind[int(number)] = name
    if CAMERAS_FILE not in seen:
        raise _bad(f"it has no {CAMERAS_FILE}; {PATTERN_HELP}")
    if len(frames) < FRAMES_MIN:
        raise _bad(
            f"it has {len(frames)} frame(s); at least {FRAMES_MIN} are needed. For a single photo "
            "use: worldloom generate PHOTO --depth FILE"
        )
    _check_whole(frames, depth)
    n = len(frames)
    return CaptureLayout(tuple(frames[i] for i in range(n)), tuple(depth.get(i) for i in range(n)))


def capture_cameras(
    c2w: ArrayLike, K: ArrayLike, up: ArrayLike | None, *, frames: int
) -> CaptureCameras:
    """Check the arrays of `cameras.npz`.

    Args:
        c2w: Camera to world, [n 4 4].
        K: Intrinsics, [n 3 3], or [3 3] for all.
        up: Up in the world frame, [3], or None.
        frames: Number of frames that the capture has.

    Raises:
        InvalidCapture: A count, shape, pose or number is wrong; names the first bad one.
    """
    c2w, K = np.array(c2w, float), np.array(K, float)
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4):
        raise _bad(f"{CAMERAS_FILE} has c2w of shape {list(c2w.shape)}; [n 4 4] is needed")
    if len(c2w) != frames:
        raise _bad(
            f"{CAMERAS_FILE} has {len(c2w)} poses and there are {frames} frames; one pose a frame "
            "is needed"
        )
    if K.shape == (3, 3):
        K = np.broadcast_to(K, (frames, 3, 3)).copy()
    if K.shape != (frames, 3, 3):
        raise _bad(f"{CAMERAS_FILE} has K of shape {list(K.shape)}; [{frames} 3 3] is needed")
    try:
        check_poses(c2w)
    except InvalidCameraPath as error:
        raise _bad(f"{CAMERAS_FILE}: {error}") from error
    wrong = np.abs(c2w[:, 3] - [0, 0, 0, 1]).max(1) > 1e-6
    if wrong.any():
        bad = int(np.argmax(wrong))
        raise _bad(f"pose {bad} has {c2w[bad, 3].tolist()} as its last row; 0, 0, 0, 1 is needed")
    _check_matrices(K)
    return CaptureCameras(c2w, K, _direction(up))


def check_intrinsics(K: NDArray[np.float64], size: tuple[int, int]) -> None:
    """Refuse intrinsics [n 3 3] that belong to frames of another size.

    Args:
        K: In pixels of the frames.
        size: Width and height of the frames [px].

    Raises:
        InvalidCapture: A principal point or focal length no camera of that size has.
    """
    width, height = size
    centre = K[:, :2, 2] / [width, height]
    focal = K[:, [0, 1], [0, 1]] / max(width, height)
    low, high = CENTRE_SHARES
    off = (centre < low).any(1) | (centre > high).any(1)
    off |= (focal < FOCAL_SHARES[0]).any(1) | (focal > FOCAL_SHARES[1]).any(1)
    if off.any():
        bad = int(np.argmax(off))
        fx, fy, cx, cy = (float(K[bad][at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
        raise _bad(
            f"K of frame {bad} (focal {fx:.4g}, {fy:.4g} px, principal point {cx:.4g}, {cy:.4g} "
            f"px) does not fit frames of {width} x {height} px: the point must lie between "
            f"{low:g} and {high:g} of each side. Give K in pixels of the frames as they are"
        )


def capture_path(frames: int) -> CameraPath:
    """The path of a capture's request: it says how many frames, the capture says where."""
    return CameraPath(
        (Keyframe(0.0, (0.0, 0.0, 0.0)), Keyframe(1.0, (0.0, 0.0, 0.0))),
        frames,
        "level",
        CAPTURE_PATH,
    )


def _check_whole(frames: dict[int, str], depth: dict[int, str]) -> None:
    last = max(frames)
    if last + 1 != len(frames):
        gap = next(i for i in range(last) if i not in frames)
        raise _bad(
            f"frame {gap:05d} is missing: there are {len(frames)} frames up to {frames[last]}. "
            "Number them from 00000 without gaps"
        )
    lone = [name for i, name in sorted(depth.items()) if i not in frames]
    if lone:
        raise _bad(f"{lone[0]} belongs to no frame; there are frames 00000 to {last:05d}")


def _check_matrices(K: NDArray[np.float64]) -> None:
    """Refuse what is no pinhole matrix."""
    finite = np.isfinite(K).all((1, 2))
    plain = np.abs(K[:, 2] - [0, 0, 1]).max(1) < 1e-6
    plain &= (np.abs(K[:, 0, 1]) <= SKEW_PX) & (np.abs(K[:, 1, 0]) <= 1e-6)
    good = finite & plain & (np.minimum(K[:, 0, 0], K[:, 1, 1]) > 0)
    if not good.all():
        bad = int(np.argmin(good))
        raise _bad(
            f"K of frame {bad} is {K[bad].tolist()}; [[fx 0 cx] [0 fy cy] [0 0 1]] with finite "
            "numbers and focal lengths above zero is needed"
        )


def _direction(up: ArrayLike | None) -> NDArray[np.float64] | None:
    if up is None:
        return None
    up = np.array(up, float)
    size = float(np.linalg.norm(up)) if up.shape == (3,) else 0.0
    if not (np.isfinite(size) and size > 1e-6):
        raise _bad(f"{CAMERAS_FILE} has up = {up.tolist()}; a finite vector [3] is needed")
    return up / size


def _bad(text: str) -> InvalidCapture:
    return InvalidCapture(f"the capture cannot be used: {text}", field="capture")
