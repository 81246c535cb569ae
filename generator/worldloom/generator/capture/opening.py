"""A request for engine `capture` -> its seed, its model and its own cameras.

The first captured frame that shows a surface is where the world starts. What the capture cannot
give (no depth anywhere, no surface within reach, everything smaller than a voxel) is refused here,
before anything is made; what is merely missing becomes a note.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.capture.archive import Capture, CaptureFrame, open_archive
from worldloom.generator.capture.level import Placement, place_capture
from worldloom.generator.capture.model import STATIONS, CaptureModel, Source
from worldloom.generator.capture.plan import Plan, plan_frames
from worldloom.generator.capture.rgb_depth import capture_depth
from worldloom.generator.capture.sizes import scaled_intrinsics, working_size
from worldloom.generator.engines import QualityLevel
from worldloom.generator.seams import Opening
from worldloom.generator.seed import Seed
from worldloom.generator.video.frame import ORIGIN_NONE, ORIGIN_SEEN, Frame
from worldloom.scene.cameras import Cameras, strided, unproject
from worldloom.scene.capture import CAPTURE_PATH
from worldloom.scene.errors import InvalidCapture, InvalidRequest
from worldloom.scene.limits import Limits
from worldloom.scene.path import lyra_frames
from worldloom.scene.request import WorldRequest

SAMPLES = 16  # Frames that up, floor, reach and typical depth are taken from.
SEEN_SHARE_MIN = 0.01  # Share of pixels with a depth below which a frame shows nothing.
REACH_SHARE_MIN = 0.005  # Share of the depth that must lie within the collider's reach.
WORTH_SAYING = 0.2  # Share of depth beyond reach, or of frames without depth, that is noted.
VOXELS_ACROSS_MIN = 8  # A scene that is smaller than this many voxels has no shape.
FLOOR_SHARE, FLOOR_LEAST_M = 0.012, 0.01
"""Heights within this share of the camera's, or this, belong to the floor."""
POSES_APART_MIN = 1e-3  # Pictures taken closer together than this say nothing of depth [unit].


@dataclass(frozen=True)
class _Look:
    """Some frames of a capture, to learn what it shows."""

    frames: list[Frame]
    start: int
    """Number of the captured frame that the world starts with."""
    typical_depth: float
    """Median depth [unit]."""


def open_capture(
    request: WorldRequest, inputs: Mapping[str, Path], level: QualityLevel, limits: Limits
) -> Opening:
    """Check the capture, and place it in a level metric world.

    Raises:
        InvalidCapture: The archive, or what it shows, cannot be used.
        InvalidRequest: The request has no capture, or a path of its own.
    """
    if "capture" not in inputs:
        raise InvalidRequest("engine 'capture' needs a capture and the request has none")
    if request.path.name != CAPTURE_PATH:
        raise InvalidRequest(
            f"the path is {request.path.name[:40]!r}; a world of engine 'capture' has the cameras "
            "of its capture and cannot be led elsewhere. Leave --path out; to go further, capture "
            "more and generate again",
            field="path",
        )
    capture = open_archive(inputs["capture"], limits)
    source = _source(capture, level)
    notes: list[str] = []
    look = _look(source, notes)
    placement = place_capture(
        look.frames,
        up=capture.cameras.up,
        hint=request.scale,
        source="capture-depth" if source.network is None else "capture-poses",
        pixel_scale=(source.size[0] / capture.size[0], source.size[1] / capture.size[1]),
    )
    _check_reach(look, placement, level, notes)
    plan, cameras = _plan(source, look, placement, lyra_frames(request.path.frames))
    model = CaptureModel(source, plan, cameras, placement.factor)
    seed = _seed(model.first(), placement, source, (*notes, *placement.notes))
    return Opening(seed, model, cameras)


def _source(capture: Capture, level: QualityLevel) -> Source:
    network = None
    if not capture.layout.has_depth:
        network = capture_depth()
        centres = capture.cameras.c2w[:, :3, 3]
        if np.ptp(centres, axis=0).max() < POSES_APART_MIN:
            raise InvalidCapture(
                "the capture has no depth and its camera only turns (all poses lie within "
                f"{POSES_APART_MIN:g}), so nothing tells how far anything is. Capture while "
                "walking, or with depth",
                field="capture",
            )
    size = working_size(capture.size, level.long_side)
    K = scaled_intrinsics(capture.cameras.K, capture.size, size)
    return Source(capture, size, K, network)


def _look(source: Source, notes: list[str]) -> _Look:
    """Decode some frames; the first of them that shows a surface starts the world."""
    usable = _usable(source)
    numbers = np.flatnonzero(usable)
    picked = numbers[np.unique(np.rint(np.linspace(0, len(numbers) - 1, SAMPLES)).astype(int))]
    if source.network is not None:
        # A network compares views, so these must show one place.
        picked = numbers[:: max(1, len(numbers) // STATIONS)][:SAMPLES]
    frames = [_as_frame(source, frame) for frame in source.read(picked.tolist())]
    seen = [float((frame.depth > 0).mean()) for frame in frames]
    good = [frame for frame, share in zip(frames, seen, strict=True) if share >= SEEN_SHARE_MIN]
    if not good:
        raise InvalidCapture(
            f"none of the {len(frames)} frames that were looked at has a finite depth above zero "
            f"in {SEEN_SHARE_MIN:.0%} of its pixels (best: {max(seen):.2%}); 16-bit millimetres or "
            "float metres are needed",
            field="capture",
        )
    without = 1 - usable.mean() * len(good) / len(frames)
    if without > WORTH_SAYING:
        notes.append(
            f"about {without:.0%} of the frames show no depth and only the video uses them"
        )
    start = good[0].frame_id
    if start > 0:
        notes.append(f"the world starts at frame {start}, the first one seen to have a depth")
    depths = np.concatenate([frame.depth[frame.depth > 0] for frame in good])
    return _Look(good, start, float(np.median(depths)))


def _usable(source: Source) -> NDArray[np.bool_]:
    """Which frames have, or will have, a depth."""
    if source.network is not None:
        return np.ones(source.capture.n, bool)
    return np.array([name is not None for name in source.capture.layout.depth])


def _as_frame(source: Source, captured: CaptureFrame) -> Frame:
    """A captured frame in the capture's own frame and unit."""
    depth = captured.depth
    if depth is None:
        depth = np.zeros(captured.rgb.shape[:2], np.float32)
    origin = np.where(depth > 0, ORIGIN_SEEN, ORIGIN_NONE).astype(np.uint8)
    i = captured.number
    c2w = source.capture.cameras.c2w[i]
    return Frame(i, captured.rgb, depth, origin, c2w, source.K[i])


def _check_reach(look: _Look, placement: Placement, level: QualityLevel, notes: list[str]) -> None:
    """Refuse scenes of another size than this engine can make a collider of."""
    depths = placement.factor * np.concatenate([f.depth[f.depth > 0] for f in look.frames])
    near = float((depths <= level.far_m).mean())
    remedy = "Metres are needed: check the unit of poses and depth, or give --camera-height"
    if near < REACH_SHARE_MIN:
        raise InvalidCapture(
            f"the surfaces of the capture are {np.median(depths):.4g} m away (median) and "
            f"{near:.1%} of them within {level.far_m:g} m, as far as colliders are made. {remedy}",
            field="capture",
        )
    extent = _extent(look.frames) * placement.factor
    least = VOXELS_ACROSS_MIN * level.voxel_m[0]
    if extent < least:
        raise InvalidCapture(
            f"the capture shows a space of {extent:.3g} m across; {least:g} m, that is "
            f"{VOXELS_ACROSS_MIN} voxels, is the least. {remedy}",
            field="capture",
        )
    if 1 - near > WORTH_SAYING:
        notes.append(
            f"{1 - near:.0%} of the captured depth is farther than {level.far_m:g} m: it is seen "
            "in the splats but has no collider"
        )


def _extent(frames: Sequence[Frame]) -> float:
    """Largest side of the box of the middle 90 % of the surface points [unit]."""
    points = np.concatenate(
        [
            unproject(f.depth[::4, ::4], strided(f.K, 4), f.c2w)[f.depth[::4, ::4] > 0]
            for f in frames
        ]
    )
    low, high = np.percentile(points, [5, 95], axis=0) if len(points) else np.zeros((2, 3))
    return float((high - low).max())


def _plan(source: Source, look: _Look, placement: Placement, frames: int) -> tuple[Plan, Cameras]:
    """What each frame of the world shows, and its camera."""
    c2w = source.capture.cameras.c2w[look.start :]
    plan = plan_frames(c2w, _usable(source)[look.start :], frames, look.typical_depth)
    shown = plan.shown + look.start
    cameras = Cameras(
        placement.place(source.capture.cameras.c2w[shown]),
        source.K[shown],
        np.broadcast_to(np.array(source.size, np.int64), (frames, 2)).copy(),
        np.arange(frames, dtype=np.int64),
    )
    return Plan(shown, plan.keyframes), cameras


def _seed(first: Frame, placement: Placement, source: Source, notes: tuple[str, ...]) -> Seed:
    heights = unproject(first.depth, first.K, first.c2w)[..., 2]
    tolerance = max(FLOOR_LEAST_M, FLOOR_SHARE * placement.height)
    return Seed(
        rgb=first.rgb,
        depth=first.depth,
        floor=(first.depth > 0) & (np.abs(heights) < tolerance),
        # A captured pixel without depth may be anything: nothing is said to be sky.
        sky=np.zeros(first.depth.shape, bool),
        K=first.K,
        c2w=first.c2w,
        scale=placement.scale,
        depth_source="capture" if source.network is None else source.network.name,
        weights=() if source.network is None else source.network.weights,
        notes=notes,
    )
