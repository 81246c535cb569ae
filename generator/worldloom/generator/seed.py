"""A photo, and maybe its depth -> the seed: a metric, level scene that everything stands on.

This is the first arrow. Depth comes from the user's map, else from a network whose weights are
there, else from the layout of the view. Metric scale and gravity are fixed here, once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from worldloom.generator.depth import floor as floors
from worldloom.generator.depth.geometry import ground_inverse
from worldloom.generator.depth.layout import Layout, estimate_layout
from worldloom.generator.depth.metric import align_to_floor, choose_scale
from worldloom.generator.depth.metric_network import network_evidence
from worldloom.generator.depth.model import DepthModel
from worldloom.generator.depth.models import choose_model
from worldloom.generator.depth.prior import standing_inverse
from worldloom.generator.depth.resample import resize
from worldloom.generator.depth.supplied import at_size, fill_holes
from worldloom.generator.photo import DepthFile, Photo, load_depth, load_photo
from worldloom.generator.poses.scale import (
    SCALE_SCHEMA,  # noqa: F401 - other sources of seeds take it from here
    Evidence,
    Scale,
    scale_record,
)
from worldloom.scene.cameras import pixel_rays
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.frame import level_from_up, rigid
from worldloom.scene.limits import Limits
from worldloom.scene.request import Intrinsics, ScaleHint

LONG_SIDE = 832  # Longer side of the frames when nobody says otherwise [px].
SIDE_MULTIPLE = 8  # Frame sides are multiples of this, as video codecs and networks like them.


@dataclass(frozen=True)
class Seed:
    """The photo as a scene."""

    rgb: NDArray[np.float32]
    """sRGB colours in 0..1, shape [h w 3]."""
    depth: NDArray[np.float32]
    """z-depth in metres, shape [h w]; 0 where there is none (sky)."""
    floor: NDArray[np.bool_]
    """Pixels that lie on the floor plane z = 0, shape [h w]."""
    sky: NDArray[np.bool_]
    """Pixels of sky, shape [h w]."""
    K: NDArray[np.float64]
    """Intrinsics in pixels of `rgb`, shape [3 3]."""
    c2w: NDArray[np.float64]
    """Camera to world (OpenCV axes; level, floor at z = 0, above the origin), shape [4 4]."""
    scale: dict
    """The content of scale.json (architecture page, section 2)."""
    depth_source: str
    """`supplied`, a network's name, or `prior`."""
    weights: tuple[dict, ...] = ()
    """Weights that took part: name, sha256, licence, research_only."""
    notes: tuple[str, ...] = ()
    """What the user should know, one sentence each."""


@dataclass(frozen=True)
class _View:
    """The photo at the working size."""

    rgb: NDArray[np.float32]
    K: NDArray[np.float64] | None
    box: tuple[float, float, float, float]
    """The part of the photo that is used: left, top, right, bottom as shares of its sides."""


def make_seed(
    photo_file: Path,
    *,
    work_size: tuple[int, int] | None = None,
    long_side: int = LONG_SIDE,
    depth_file: Path | None = None,
    intrinsics: Intrinsics | None = None,
    scale_hint: ScaleHint | None = None,
    weights_dir: Path | None = None,
    limits: Limits | None = None,
) -> Seed:
    """Turn a photo into a metric level scene.

    Args:
        photo_file: PNG, JPEG or WebP.
        work_size: Width and height of the frames; None keeps the photo's shape at `long_side`.
        long_side: Longer side of the frames where `work_size` does not tell [px].
        depth_file: The user's own depth map.
        intrinsics: The camera matrix, where it is known.
        scale_hint: A camera height, or two pixels of the photo and their distance.
        weights_dir: Where depth networks are looked for; the usual folder by default.
        limits: Byte and pixel caps.

    Raises:
        InvalidPhoto: The photo cannot be used.
        PhotoTooLarge: The photo exceeds a limit.
        InvalidDepth: The depth map cannot be used.
        InvalidRequest: The intrinsics or the hint do not fit the photo.
    """
    photo = load_photo(photo_file, limits=limits)
    notes = list(photo.notes)
    view = _view(photo, work_size or _fit(photo, long_side), intrinsics, notes)
    layout = estimate_layout(view.rgb, K=view.K, detail=_cropped(photo.rgb, view.box))
    if depth_file is not None:
        supplied = load_depth(depth_file, photo=photo, limits=limits)
        notes += supplied.notes
        scene = _from_supplied(supplied, view, layout, notes)
        source, weights = "supplied", ()
    else:
        model = choose_model(weights_dir, notes=notes)
        scene = _from_model(model, photo, view, layout)
        source = model.name if model is not None else "prior"
        weights = model.weights if model is not None else ()
    metric = depth_file is not None
    network = None
    if not metric and scale_hint is None:
        depth = np.where(scene.inverse > 0, scene.height / np.maximum(scene.inverse, 1e-9), 0)
        network, more = network_evidence(view.rgb, scene.K, depth, weights_dir, notes=notes)
        weights = (*weights, *more)
    scale = _scale(scene, view, photo, scale_hint, metric=metric, network=network)
    if scale.status == "unknown":
        notes.append(
            f"nobody told the scale: the camera is taken to be {scene.height * scale.value:.2f} m "
            "above the floor; give --camera-height for true metres"
        )
    return _seed(scene, view, scale, source, tuple(w.to_json() for w in weights), tuple(notes))


@dataclass(frozen=True)
class _Scene:
    """Depth in some unit, standing on its floor."""

    inverse: NDArray[np.float64]
    """Inverse z-depth in 1 / camera heights; 0 in the sky."""
    floor: NDArray[np.bool_]
    sky: NDArray[np.bool_]
    K: NDArray[np.float64]
    up: NDArray[np.float64]
    height: float
    """Camera height in units: 1 for relative depth, metres for supplied depth."""
    level_rms_deg: float


def _view(
    photo: Photo, work_size: tuple[int, int], known: Intrinsics | None, notes: list[str]
) -> _View:
    height, width = photo.rgb.shape[:2]
    box = _crop_box(width / height, work_size[0] / work_size[1])
    left, top, right, bottom = (round(s * n) for s, n in zip(box, (width, height) * 2, strict=True))
    rgb = resize(photo.rgb[top:bottom, left:right], *work_size)
    K = _camera_matrix(photo, known, notes)
    if K is not None:
        K = K.copy()
        K[:2, 2] -= (left, top)
        K[0] *= work_size[0] / (right - left)
        K[1] *= work_size[1] / (bottom - top)
    shares = (left / width, top / height, right / width, bottom / height)
    return _View(np.clip(rgb, 0, 1), K, shares)


def _fit(photo: Photo, long_side: int) -> tuple[int, int]:
    """Frame size with the photo's shape."""
    height, width = photo.rgb.shape[:2]
    factor = long_side / max(width, height)
    return _multiple(width * factor), _multiple(height * factor)


def _multiple(side: float) -> int:
    return max(SIDE_MULTIPLE, SIDE_MULTIPLE * round(side / SIDE_MULTIPLE))


def _crop_box(have: float, want: float) -> tuple[float, float, float, float]:
    """Central part of shape `want` of a picture of shape `have`; all of it when nearly the same."""
    if abs(have / want - 1) < 0.03:
        return 0.0, 0.0, 1.0, 1.0
    if have > want:
        margin = (1 - want / have) / 2
        return margin, 0.0, 1 - margin, 1.0
    margin = (1 - have / want) / 2
    return 0.0, margin, 1.0, 1 - margin


def _camera_matrix(
    photo: Photo, known: Intrinsics | None, notes: list[str]
) -> NDArray[np.float64] | None:
    """Intrinsics in pixels of `photo.rgb`: the given ones, else from EXIF, else None."""
    height, width = photo.rgb.shape[:2]
    if known is not None:
        shape = (known.width / known.height) / (photo.full_width / photo.full_height)
        if abs(shape - 1) > 0.02:
            raise InvalidRequest(
                f"the intrinsics are for {known.width} x {known.height} px and the photo is "
                f"{photo.full_width} x {photo.full_height}; the same shape is needed. Give those "
                "of the upright photo",
                field="intrinsics",
            )
        sx, sy = width / known.width, height / known.height
        return np.array(
            [[known.fx * sx, 0, known.cx * sx], [0, known.fy * sy, known.cy * sy], [0, 0, 1.0]]
        )
    if photo.focal_px is None:
        notes.append("the photo does not tell its focal length; it is estimated from its edges")
        return None
    notes.append(f"focal length taken from EXIF ({photo.focal_source})")
    f = photo.focal_px
    return np.array([[f, 0, width / 2], [0, f, height / 2], [0, 0, 1.0]])


def _from_model(model: DepthModel | None, photo: Photo, view: _View, layout: Layout) -> _Scene:
    prior = standing_inverse(view.rgb, layout)
    inverse = prior
    if model is not None:
        height, width = view.rgb.shape[:2]
        relative = model.inverse_depth(_cropped(photo.rgb, view.box))
        inverse = align_to_floor(resize(relative, width, height), layout, prior)
    ground = layout.ground_inverse()
    inverse, floor = floors.stand_on_floor(inverse, layout.floor, layout.sky, ground)
    return _Scene(inverse, floor, layout.sky, layout.K, layout.up, 1.0, 2.0)


def _from_supplied(supplied: DepthFile, view: _View, layout: Layout, notes: list[str]) -> _Scene:
    height, width = view.rgb.shape[:2]
    depth = at_size(_cropped(supplied.depth, view.box), width, height)
    depth, sky = fill_holes(depth, layout.sky)
    points = pixel_rays(layout.K, width, height) * depth[..., None]
    likely = layout.floor & (depth > 0)
    plane = floors.fit_floor(points[likely], layout.up)
    if plane is None:
        below = points @ layout.up
        plane = floors.fit_floor(points[(below < 0) & (depth > 0)], layout.up)
    if plane is None:
        notes.append("the depth map shows no floor; up is taken from the horizon of the photo")
        lowest = float(np.percentile((points @ layout.up)[depth > 0], 1))
        plane = floors.Plane(layout.up, max(0.05, -lowest), 0.0)
    ground = ground_inverse(layout.K, plane.up, height, width)
    off = np.abs(points @ plane.up + plane.height)
    floor = (off < 2 * floors.PLANE_TOLERANCE * plane.height) & (ground > 0) & (depth > 0)
    inverse = np.where(depth > 0, plane.height / np.where(depth > 0, depth, 1), 0.0)
    inverse = np.maximum(inverse, np.where(sky, 0.0, ground))
    inverse = np.where(floor, ground, inverse)
    spread = float(np.degrees(plane.rms / max(plane.height, 1e-9)))
    return _Scene(inverse, floor, sky, layout.K, plane.up, plane.height, min(spread, 10.0))


def _cropped(image: NDArray, box: tuple[float, float, float, float]) -> NDArray:
    height, width = image.shape[:2]
    left, right = round(box[0] * width), round(box[2] * width)
    return image[round(box[1] * height) : round(box[3] * height), left:right]


def _scale(
    scene: _Scene,
    view: _View,
    photo: Photo,
    hint: ScaleHint | None,
    *,
    metric: bool,
    network: Evidence | None,
) -> Scale:
    points = np.zeros((0, 3))
    if hint is not None and hint.pixels is not None:
        points = _hint_points(scene, view, photo, np.asarray(hint.pixels, float))
    return choose_scale(points, scene.height, hint, metric=metric, network=network)


def _hint_points(scene: _Scene, view: _View, photo: Photo, pixels: NDArray) -> NDArray[np.float64]:
    """Camera-frame points [2 3] in units of two pixels [2 2] of the full photo."""
    height, width = scene.inverse.shape
    left, top, right, bottom = view.box
    u = (pixels[:, 0] / photo.full_width - left) / (right - left) * width
    v = (pixels[:, 1] / photo.full_height - top) / (bottom - top) * height
    column, row = np.floor(u).astype(int), np.floor(v).astype(int)
    if not ((column >= 0) & (column < width) & (row >= 0) & (row < height)).all():
        raise InvalidRequest(
            f"the scale hint's pixels {pixels.tolist()} are not both inside the "
            f"{photo.full_width} x {photo.full_height} photo (or the part of it that is used)",
            field="scale",
        )
    inverse = scene.inverse[row, column]
    if not (inverse > 0).all():
        raise InvalidRequest(
            f"a pixel of the scale hint ({pixels.tolist()}) shows sky, which has no distance; "
            "choose two points on surfaces",
            field="scale",
        )
    rays = np.stack(
        [(u - scene.K[0, 2]) / scene.K[0, 0], (v - scene.K[1, 2]) / scene.K[1, 1], np.ones(2)], -1
    )
    return rays * (scene.height / inverse)[:, None]


def _seed(
    scene: _Scene,
    view: _View,
    scale: Scale,
    source: str,
    weights: tuple[dict, ...],
    notes: tuple[str, ...],
) -> Seed:
    height_m = scene.height * scale.value
    seen = scene.inverse > 0
    depth = np.where(seen, height_m / np.where(seen, scene.inverse, 1.0), 0.0)
    c2w = rigid(level_from_up(scene.up), (0.0, 0.0, height_m))
    return Seed(
        rgb=view.rgb,
        depth=depth.astype(np.float32),
        floor=scene.floor,
        sky=scene.sky,
        K=scene.K,
        c2w=c2w,
        scale=scale_record(scale, scene.up, scene.level_rms_deg),
        depth_source=source,
        weights=weights,
        notes=notes,
    )
