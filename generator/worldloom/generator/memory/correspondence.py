"""Remembered frames and the cameras of a chunk -> where each new pixel lies in each memory slot.

Lyra 2.0 is told by four channels per slot: canonical X, Y and Z of the slot and the depth of the
surface, warped to every fourth new frame, normalised together, and folded to latent cells (spec
generation 4.4 and 4.5). The released code warps all frames of the chunk and keeps a quarter. Here
only that quarter is warped, straight into the result, and the two things that hang on the others
are found without them: the largest log depth of each warp chunk by a pass over depths, and the
range of the blended depths by summing only those pixels that can hold its maximum. Both are exact.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from worldloom.generator.memory import splat_kernels
from worldloom.generator.memory.rays import (
    BLOCK,
    FRAMES_PER_LATENT,
    canonical_coordinates,
    fold_blocks,
)
from worldloom.generator.memory.sources import WARP_CHUNK, Aim, SourceFrame, Targets
from worldloom.scene.errors import EngineFailed

CHANNELS = 4  # X, Y, Z and depth of a slot (spec generation 4.4).
SPAN_LEAST = 1e-6  # Depth ranges are not taken as smaller than this (spec generation 4.4).
PEAK_VIEWS = 8  # Views searched for the deepest blend before the bound is raised.

Array = NDArray[np.float32]
Indices = NDArray[np.int64]


def warp_views(
    source: SourceFrame,
    values: Array,
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    warp_chunk: int = WARP_CHUNK,
    used: Sequence[int] | Indices | None = None,
    fill: float = -1.0,
    clamp: bool = True,
) -> tuple[Array, Array]:
    """Views of one frame from some of the cameras of a chunk: values [u h w c], depths [u h w].

    The result is that of warping all views in chunks and keeping the `used` ones.

    Args:
        source: The frame.
        values: Its channels, [h w c].
        w2c: World to camera of all views, [n 4 4].
        K: Their intrinsics with integer centres, [n 3 3].
        size: Width and height of the views.
        warp_chunk: Views that share a depth maximum.
        used: Views to make, in this order; all by default.
        fill: Value of pixels that nothing reaches; their depth is 0.
        clamp: Whether values are clamped to -1..1, as colours are.

    Raises:
        EngineFailed: Cameras do not fit together.
    """
    targets = Targets.of(w2c, K, size, warp_chunk=warp_chunk)
    used = np.arange(len(targets.w2c)) if used is None else np.asarray(used, np.int64)
    out = np.empty((len(used), size[1], size[0], values.shape[-1]), np.float32)
    depth = np.empty(out.shape[:3], np.float32)
    limit = 1 if clamp else np.inf
    _splat(Aim.of(source, targets), values, used, out, depth, fill=fill, limit=limit)
    return out, depth


def warp_reference(
    source: SourceFrame,
    rgb: Array,
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    warp_chunk: int = WARP_CHUNK,
) -> Array:
    """The newest frame seen from every new camera, holes -1, [n h w 3].

    The memory holds channels first, as video encoders want them: moving the last axis to the front
    costs nothing.

    Args:
        source: Its depth and camera.
        rgb: Its colours in -1..1, [h w 3].
        w2c: World to camera of the views, [n 4 4].
        K: Their intrinsics with integer centres, [n 3 3].
        size: Width and height of the views.
        warp_chunk: Views that share a depth maximum.

    Raises:
        EngineFailed: Cameras do not fit together.
    """
    targets = Targets.of(w2c, K, size, warp_chunk=warp_chunk)
    out = np.moveaxis(np.empty((3, len(targets.w2c), size[1], size[0]), np.float32), 0, -1)
    _splat(Aim.of(source, targets), rgb, np.arange(len(out)), out, fill=-1, limit=1)
    return out


def _splat(
    aim: Aim,
    values: Array,
    used: Indices,
    out: Array,
    depth: Array | None = None,
    *,
    fill: float,
    limit: float,
) -> None:
    """Splat a frame into the used views; their depth too where there is a place for it."""
    channels, limit = values.shape[-1], np.float32(limit)
    deep = () if depth is None else (0,)
    depth = np.empty((len(used), 0, 0), np.float32) if depth is None else depth
    values = np.ascontiguousarray(values, np.float32).reshape(1, len(aim.valid), channels)
    splat_kernels.warp_views(
        values, aim.points[None], aim.valid[None], *aim.at(used),
        np.zeros((len(used), 1), np.int64), np.float32(fill), -limit, limit, (0,) * channels, deep,
        out, depth,
    )  # fmt: skip


def correspondence_new(
    sources_best_first: Sequence[SourceFrame],
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    slots: int,
    warp_chunk: int = WARP_CHUNK,
) -> Array:
    """Correspondence channels of the new latent frames, [slots x 256, n / 4, h / 8, w / 8].

    See `fill_new`.
    """
    frames = len(np.asarray(w2c)) // FRAMES_PER_LATENT
    out = np.empty(
        (slots * CHANNELS * BLOCK**2, frames, size[1] // BLOCK, size[0] // BLOCK), np.float32
    )
    fill_new(out, sources_best_first, w2c, K, size, slots=slots, warp_chunk=warp_chunk)
    return out


def fill_new(
    out: Array,
    sources_best_first: Sequence[SourceFrame],
    w2c: ArrayLike,
    K: ArrayLike,
    size: tuple[int, int],
    *,
    slots: int,
    warp_chunk: int = WARP_CHUNK,
) -> None:
    """Write the correspondence channels of the new latent frames in place.

    Slot s holds X, Y, Z and depth, folded by 8 x 8, in channels 256 s to 256 s + 255; the best
    frame comes first. Holes are -1 in X, Y and Z, absent slots -1 with depth +1.

    Args:
        out: Where to, [slots x 256, n / 4, h / 8, w / 8]; may be a part of a larger array.
        sources_best_first: Remembered frames that were retrieved, at most `slots`.
        w2c: World to camera of all n frames of the chunk: every fourth is seen, all take part in
            the norms, [n 4 4].
        K: Their intrinsics with integer centres, [n 3 3].
        size: Width and height of the views.
        slots: Memory slots of the network.
        warp_chunk: Views that share a depth maximum.

    Raises:
        EngineFailed: There are more frames than slots, the size is no multiple of 8, or cameras do
            not fit together.
    """
    targets = Targets.of(w2c, K, size, warp_chunk=warp_chunk)
    _check(len(sources_best_first), slots, size)
    # Splitting the first axis makes no copy, whatever `out` is a part of.
    parts = out.reshape(slots, CHANNELS, BLOCK, BLOCK, *out.shape[1:])
    kept = targets.kept
    aims = [Aim.of(source, targets) for source in sources_best_first]
    levels = slot_levels(slots)[::-1]
    span = [_fold(aim, kept, *pair) for aim, *pair in zip(aims, levels, parts, strict=False)]
    parts[len(aims) :, :3], parts[len(aims) :, 3] = -1, 1
    if aims and len(kept):
        low, high = _common_range(aims, np.array(span), targets)
        factor = np.float32(2 / max(high - low, SPAN_LEAST))
        for part in parts[: len(aims), 3]:
            splat_kernels.rescale(part, np.float32(low), factor)


def fill_history_slot(out: Array, slot: int, slots: int, size: tuple[int, int]) -> None:
    """Write the correspondence channels of a memory slot's own place in the history.

    It holds its canonical coordinates once for every slot, with depth -1 in the first copy and +1
    in the others (spec generation 4.5). Temporal places are zero.

    Args:
        out: Where to, [slots x 256, h / 8, w / 8].
        slot: The memory slot, worst first.
        slots: How many there are.
        size: Width and height of the frames.
    """
    image = canonical_coordinates(slots, size)[slot]
    parts = out.reshape(slots, CHANNELS, BLOCK**2, *out.shape[1:])
    parts[:, :3] = fold_blocks(np.moveaxis(image, -1, 0)).reshape(3, *parts.shape[2:])
    parts[0, 3], parts[1:, 3] = -1, 1


def slot_levels(slots: int) -> Array:
    """Canonical Z of the memory slots, worst first; 0 for a single one, [slots]."""
    return np.linspace(-1, 1, slots, dtype=np.float32) if slots > 1 else np.zeros(1, np.float32)


def _check(sources: int, slots: int, size: tuple[int, int]) -> None:
    if sources > slots:
        raise EngineFailed(
            f"{sources} remembered frames were given for {slots} memory slots; "
            f"give the best {slots} at most"
        )
    if size[0] % BLOCK or size[1] % BLOCK:
        raise EngineFailed(
            f"views of {size[0]} x {size[1]} px cannot be folded; both sides must be multiples of "
            f"{BLOCK}. Choose another size"
        )


def _fold(aim: Aim, kept: Indices, z: np.float32, out: Array) -> tuple[float, float]:
    """Fill one slot; lowest and highest blended depth of the views that are kept."""
    height, width = aim.shape
    ramps = np.empty((height, width, 2), np.float32)
    ramps[..., 0] = np.linspace(-1, 1, width, dtype=np.float32)
    ramps[..., 1] = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    span = splat_kernels.fold_views(
        ramps.reshape(-1, 2), aim.points, aim.valid, *aim.at(kept), z, out
    )
    return float(span[:, 0].min(initial=np.inf)), float(span[:, 1].max(initial=0))


def _common_range(
    aims: Sequence[Aim], span: NDArray[np.float64], targets: Targets
) -> tuple[float, float]:
    """Lowest and highest blended depth of all slots and ALL views, holes (0) included.

    Args:
        aims: The slots.
        span: The range of the views that are kept, for each slot, [slots 2].
        targets: All cameras.
    """
    low, high = float(span[:, 0].min()), float(span[:, 1].max())
    others = np.setdiff1d(np.arange(len(targets.w2c)), targets.kept)
    for aim in aims:
        low = low and min(low, _lowest(aim, others, targets.size))
    for aim in aims:
        high = _highest(aim, others, targets.size, high)
    return low, high


def _lowest(aim: Aim, views: Indices, size: tuple[int, int]) -> float:
    """Lowest blended depth of some views: needed only where no view that is kept has a hole."""
    low = np.inf
    nothing = np.zeros((*aim.shape, 0), np.float32)
    for start in range(0, len(views), PEAK_VIEWS):
        some = views[start : start + PEAK_VIEWS]
        out = np.empty((len(some), size[1], size[0], 0), np.float32)
        depth = np.empty(out.shape[:3], np.float32)
        _splat(aim, nothing, some, out, depth, fill=0, limit=np.inf)
        low = min(low, float(depth.min()))
        if low == 0:
            break
    return low


def _highest(aim: Aim, views: Indices, size: tuple[int, int], floor: float) -> float:
    """Highest blended depth of some views where it exceeds `floor`, which is returned otherwise.

    No blend exceeds the deepest valid point of its view: the views are searched in the order of
    that bound until none is left above what was found.
    """
    views = views[np.argsort(-aim.bound[views], kind="stable")]
    for start in range(0, len(views), PEAK_VIEWS):
        some = views[start : start + PEAK_VIEWS]
        some = some[aim.bound[some] > floor]
        if not len(some):
            break
        found = splat_kernels.deepest(
            aim.points, aim.valid, *aim.at(some), np.float64(floor), size[1], size[0]
        )
        floor = max(floor, float(found.max()))
    return floor
