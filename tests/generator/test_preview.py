"""The preview engine in a small analytic room: no holes, a flat floor, a faithful memory."""

from __future__ import annotations

import numpy as np
import pytest

from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.seed import Seed
from worldloom.generator.video.fill import membrane, push_pull
from worldloom.generator.video.frame import ORIGIN_MADE_UP, ORIGIN_SEEN, Frame
from worldloom.generator.video.preview import PreviewModel, floor_depth, snap_to_floor
from worldloom.generator.video.texture import TILE, make_grain, plain_colour
from worldloom.scene.cameras import Cameras, intrinsics, unproject
from worldloom.scene.errors import JobCancelled
from worldloom.scene.frame import level_from_up, rigid
from worldloom.scene.path_presets import preset

SIZE = WIDTH, HEIGHT = 192, 128
K = intrinsics(65.0, WIDTH, HEIGHT)
PITCH = np.radians(14.0)
C2W = rigid(level_from_up([0, -np.cos(PITCH), -np.sin(PITCH)]), [0, 0, 1.0])
WALL_X, BOX_X = 4.0, 2.2


def room() -> Seed:
    """A camera 1 m above a grey floor, a wall at 4 m, a red box on the floor at 2.2 m."""
    rays = unproject(np.ones((HEIGHT, WIDTH)), K, C2W) - C2W[:3, 3]
    with np.errstate(divide="ignore"):
        depth = np.where(rays[..., 2] < 0, -1 / rays[..., 2], np.inf)
    kind = np.zeros(depth.shape, int)
    at_wall = WALL_X / rays[..., 0]
    kind[at_wall < depth] = 1
    depth = np.minimum(depth, at_wall)
    at_box = BOX_X / rays[..., 0]
    y, z = at_box * rays[..., 1], 1 + at_box * rays[..., 2]
    box = (np.abs(y) < 0.3) & (z > 0) & (z < 0.6) & (at_box < depth)
    depth, kind = np.where(box, at_box, depth), np.where(box, 2, kind)
    colours = np.array([(0.6, 0.6, 0.58), (0.7, 0.65, 0.55), (0.8, 0.1, 0.1)])
    noise = np.random.default_rng(5).normal(0, 0.02, (*depth.shape, 1))
    rgb = np.clip(colours[kind] + noise, 0, 1).astype(np.float32)
    nothing = np.zeros(depth.shape, bool)
    return Seed(rgb, depth.astype(np.float32), kind == 0, nothing, K, C2W, {}, "truth")


@pytest.fixture(scope="module")
def seed() -> Seed:
    return room()


@pytest.fixture(scope="module")
def model(seed: Seed) -> PreviewModel:
    return PreviewModel(seed, seed_number=3)


def walk(name: str = "pull-back", frames: int = 81, **numbers: float) -> Cameras:
    cameras = preset(name, frames=frames, **numbers).resolve(C2W, K, SIZE)
    return cameras.select(slice(1, None))


def start(model: PreviewModel) -> FrameCache:
    cache = FrameCache()
    remember(cache, model.first())
    return cache


def remember(cache: FrameCache, frame: Frame) -> None:
    cache.add(frame.frame_id, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)


@pytest.fixture(scope="module")
def visit(model: PreviewModel) -> list[Frame]:
    """Keyframes of a walk that goes back, looks left and right, and looks ahead again."""
    return model.chunk(walk(distance=1.0, pan=30.0), start(model))


def test_every_frame_is_shown_in_order_and_every_eighth_is_kept(model: PreviewModel) -> None:
    shown: list[int] = []
    cache = start(model)
    cameras = walk(distance=0.5, pan=10.0)
    kept = model.chunk(cameras, cache, on_frame=lambda frame: shown.append(frame.frame_id))
    assert shown == cameras.frame_id.tolist()
    assert [frame.frame_id for frame in kept] == list(range(8, 81, 8))
    assert len(cache) == 11


def test_no_frame_has_a_hole_or_a_colour_that_is_none(visit: list[Frame]) -> None:
    for frame in visit:
        assert (frame.depth > 0).all()
        assert np.isfinite(frame.rgb).all()
        assert set(np.unique(frame.origin)) <= {ORIGIN_SEEN, ORIGIN_MADE_UP}


def test_the_made_up_floor_is_flat_enough_to_drive_on(visit: list[Frame]) -> None:
    for frame in visit:
        x, _, z = np.moveaxis(unproject(frame.depth, frame.K, frame.c2w), -1, 0)
        relief = z[(z < 0.05) & (x < BOX_X - 0.1)]
        assert relief.size > 1000
        assert np.sqrt(np.mean(relief**2)) < 0.001
        assert z.min() > -0.005


def test_a_place_seen_again_looks_as_it_did(model: PreviewModel) -> None:
    cache = start(model)
    away = walk(distance=1.5, pan=40.0)
    first = {frame.frame_id: frame for frame in model.chunk(away, cache)}
    turned = first[int(away.frame_id[np.abs(away.frame_id - 40).argmin()])]
    made_up = turned.origin == ORIGIN_MADE_UP
    assert made_up.mean() > 0.2
    i = int(np.nonzero(away.frame_id == turned.frame_id)[0][0])
    again = Cameras(away.c2w[i : i + 1], away.K[i : i + 1], away.size[i : i + 1], np.array([160]))
    back = model.chunk(again, cache)[0]
    error = np.mean((back.rgb - turned.rgb)[made_up] ** 2)
    assert -10 * np.log10(error) >= 30


def test_a_job_that_goes_on_from_its_frames_makes_the_same_frames(model: PreviewModel) -> None:
    cameras = walk(frames=161, distance=1.0, pan=20.0)
    first, second = cameras.select(slice(0, 80)), cameras.select(slice(80, 96))
    cache = start(model)
    kept = model.chunk(first, cache)
    straight = model.chunk(second, cache)
    resumed = start(PreviewModel(room(), seed_number=3))
    for frame in kept:
        remember(resumed, frame)
    again = PreviewModel(room(), seed_number=3).chunk(second, resumed)
    for a, b in zip(straight, again, strict=True):
        assert a.rgb.tobytes() == b.rgb.tobytes()
        assert a.depth.tobytes() == b.depth.tobytes()
        assert a.origin.tobytes() == b.origin.tobytes()


def test_what_a_thing_hid_is_filled_from_behind_it(model: PreviewModel, seed: Seed) -> None:
    frame = model.chunk(walk("truck", distance=0.8), start(model))[-1]
    points = unproject(frame.depth, frame.K, frame.c2w)
    made_up = frame.origin == ORIGIN_MADE_UP
    above = points[..., 2] > 0.1
    # Right of the box, from the left, lies wall that the photo did not show.
    behind = made_up & above & (points[..., 0] > 1.0) & (np.abs(points[..., 1]) < 1.5)
    assert behind.sum() > 50
    assert np.median(np.abs(points[behind][:, 0] - WALL_X)) < 0.15
    red = (frame.rgb[..., 0] > 2 * frame.rgb[..., 1]) & behind
    assert red.sum() < 0.05 * behind.sum()


def test_the_photo_itself_is_frame_zero_and_all_seen(model: PreviewModel, seed: Seed) -> None:
    frame = model.first()
    assert (frame.origin == ORIGIN_SEEN).all()
    assert np.abs(frame.rgb - seed.rgb).max() <= 0.5 / 255 + 1e-6


def test_a_cancelled_chunk_says_at_which_frame(model: PreviewModel) -> None:
    with pytest.raises(JobCancelled, match="frame 8"):
        model.chunk(walk(), start(model), cancelled=lambda: True)


def test_a_photo_without_floor_or_walls_still_makes_frames() -> None:
    seed = room()
    flat = np.full((HEIGHT, WIDTH), 2.0, np.float32)
    bare = Seed(seed.rgb, flat, np.zeros_like(seed.floor), seed.sky, K, C2W, {}, "truth")
    model = PreviewModel(bare, seed_number=0)
    frame = model.chunk(walk(distance=0.5), start(model))[-1]
    assert np.isfinite(frame.rgb).all()


def test_an_outdoor_photo_keeps_its_sky_without_depth() -> None:
    seed = room()
    up = unproject(np.ones((HEIGHT, WIDTH)), K, C2W)[..., 2] - 1 > 0
    depth = np.where(up, 0, seed.depth).astype(np.float32)
    rgb = np.where(up[..., None], np.float32([0.5, 0.7, 0.9]), seed.rgb)
    model = PreviewModel(Seed(rgb, depth, seed.floor, up, K, C2W, {}, "truth"), seed_number=0)
    frame = model.chunk(walk(distance=0.5), start(model))[-1]
    sky = frame.depth == 0
    assert sky.mean() > 0.1
    assert (frame.rgb[sky][:, 2] > frame.rgb[sky][:, 0]).mean() > 0.9


def test_floor_pixels_snap_onto_the_plane_and_others_stay() -> None:
    plane = floor_depth(C2W, K, SIZE)
    row = np.s_[-8:, :]
    depth = np.where(np.isfinite(plane), plane, 3.0).astype(np.float32)
    bumpy = depth * np.where(np.arange(WIDTH) % 2, 1.005, 0.9).astype(np.float32)
    out = snap_to_floor(bumpy, C2W, K)
    np.testing.assert_allclose(out[row][:, 1::2], depth[row][:, 1::2], rtol=1e-6)
    np.testing.assert_array_equal(out[row][:, ::2], bumpy[row][:, ::2])


def test_holes_take_the_values_around_them_and_known_pixels_stay() -> None:
    values = np.zeros((40, 50, 1), np.float32)
    values[:, 25:] = 1
    known = np.ones((40, 50), bool)
    known[10:30, 5:15] = False
    known[10:30, 35:45] = False
    out = push_pull(np.where(known[..., None], values, 9), known)
    np.testing.assert_array_equal(out[known], values[known])
    assert out[10:30, 5:15].max() < 0.1
    assert out[10:30, 35:45].min() > 0.9
    assert not push_pull(values, np.zeros_like(known)).any()


def test_a_dark_thing_at_the_rim_does_not_dye_the_wall() -> None:
    known = np.zeros((64, 128, 3), np.float32)
    wall = np.full_like(known, 0.6)
    trusted = np.zeros((64, 128), bool)
    trusted[:, :8] = True
    out = membrane(known, wall, trusted, np.zeros_like(trusted))
    assert out[:, 20:].min() > 0.4
    assert np.abs(out[:, 100:] - 0.6).max() < 0.01
    floor = membrane(known, wall, trusted, np.ones_like(trusted))
    assert floor[:, 8:12].max() < 0.3


def test_grain_has_the_contrast_and_the_colours_of_its_patch_up_to_a_limit() -> None:
    rng = np.random.default_rng(0)
    speckle = rng.normal(0, 0.01, (256, 256, 1)) * [1.0, 0.5, 0.2]
    rgb = (0.5 + speckle).astype(np.float32)
    known = np.ones((256, 256), bool)
    tile = make_grain(rgb, known, step=0.01, spread=1.0, seed=1).levels[: TILE * TILE]
    np.testing.assert_allclose(tile.std(0), [0.01, 0.005, 0.002], rtol=0.15)
    assert np.abs(tile.mean(0)).max() < 1e-4
    limited = make_grain(rgb, known, step=0.01, spread=0.002, seed=1).levels[: TILE * TILE]
    assert limited.mean(-1).std() == pytest.approx(0.002, rel=0.05)
    assert not make_grain(rgb, ~known, step=0.01, spread=1.0, seed=1).levels.any()


def test_a_shadow_is_not_the_colour_of_a_floor() -> None:
    rgb = np.full((100, 100, 3), 0.6, np.float32)
    rgb[:, :35] = 0.2
    np.testing.assert_allclose(plain_colour(rgb, np.ones((100, 100), bool)), 0.6, atol=0.01)
