"""Tests of the 3D memory: what is kept, what is found again, and how it looks from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from worldloom.generator.memory import retrieval, splat, unproject
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.memory.warp import forward_warp
from worldloom.scene.cameras import intrinsics, project
from worldloom.scene.frame import invert_rigid, rotation_about

WIDTH, HEIGHT = 96, 64
K = intrinsics(70.0, WIDTH, HEIGHT)


@dataclass
class Shot:
    rgb: np.ndarray
    depth: np.ndarray
    origin: np.ndarray
    solid: np.ndarray
    c2w: np.ndarray
    K: np.ndarray


def pose(*position: float, yaw: float = 0.0) -> np.ndarray:
    """A camera looking along +z of the world, moved and turned about its y axis."""
    c2w = np.eye(4)
    c2w[:3, :3] = rotation_about([0, 1, 0], np.radians(yaw))
    c2w[:3, 3] = position
    return c2w


def wall(distance: float, c2w: np.ndarray) -> Shot:
    """A ramp of colours painted on the plane z = distance, seen without rotation."""
    u = (np.arange(WIDTH) + 0.5 - K[0, 2]) / K[0, 0] * (distance - c2w[2, 3]) + c2w[0, 3]
    rgb = np.zeros((HEIGHT, WIDTH, 3), np.float32)
    rgb[..., 0] = 0.5 + 0.1 * u
    depth = np.full((HEIGHT, WIDTH), distance - c2w[2, 3], np.float32)
    full = np.ones_like(depth, np.uint8)
    return Shot(rgb, depth, full, full > 0, c2w, K)


def remembered(*poses: tuple[int, np.ndarray], distance: float = 3.0) -> FrameCache:
    cache = FrameCache()
    for number, c2w in poses:
        shot = wall(distance, c2w)
        cache.add(number, shot.rgb, shot.depth, shot.origin, c2w, K)
    return cache


def test_a_wall_seen_from_the_side_shows_the_same_paint_at_the_same_place() -> None:
    target = pose(0.4, 0.1, 0.5)
    out = forward_warp([wall(3.0, np.eye(4))], target, K, (WIDTH, HEIGHT))
    want = wall(3.0, target)
    inner = np.s_[16:-16, 8:-24]
    assert out.filled[inner].all()
    assert np.abs(out.rgb[inner] - want.rgb[inner]).max() < 0.01
    assert np.abs(out.depth[inner] - 2.5).max() < 1e-3


def test_the_same_camera_gets_its_own_frame_back() -> None:
    shot = wall(3.0, np.eye(4))
    shot.rgb = np.random.default_rng(0).random(shot.rgb.shape).astype(np.float32)
    out = forward_warp([shot], np.eye(4), K, (WIDTH, HEIGHT))
    np.testing.assert_allclose(out.rgb, shot.rgb, atol=1e-3)


def test_a_near_thing_hides_what_is_behind_it_without_ghosts() -> None:
    far, near = wall(4.0, np.eye(4)), wall(2.0, np.eye(4))
    near.rgb[:], far.rgb[:] = (0, 1, 0), (1, 0, 0)
    near.solid = np.zeros_like(near.solid)
    near.solid[20:44, 30:66] = True
    out = forward_warp([far, near], pose(0.1, 0, 0), K, (WIDTH, HEIGHT))
    green = out.rgb[..., 1] > 0.5
    assert green.sum() > 600
    mixed = np.minimum(out.rgb[..., 0], out.rgb[..., 1]) > 0.05
    assert not mixed[out.filled].any()


def test_a_depth_edge_tears_open_and_is_no_rubber_sheet() -> None:
    cache = FrameCache()
    depth = np.full((HEIGHT, WIDTH), 4.0, np.float32)
    depth[:, : WIDTH // 2] = 1.5
    rgb = np.full((HEIGHT, WIDTH, 3), 0.5, np.float32)
    cache.add(0, rgb, depth, np.ones_like(depth, np.uint8), np.eye(4), K)
    out = forward_warp([cache.get(0)], pose(0.5, 0, 0), K, (WIDTH, HEIGHT))
    between = (out.depth > 1.6) & (out.depth < 3.9)
    assert not between.any()
    assert (~out.filled[:, 20:60]).mean() > 0.1


def test_what_was_seen_and_what_was_made_up_travel_with_the_pixels() -> None:
    shot = wall(3.0, np.eye(4))
    shot.origin[:, : WIDTH // 2] = 2
    out = forward_warp([shot], pose(0.2, 0, 0), K, (WIDTH, HEIGHT))
    edge = int(project([[0.0, 0.0, 3.0]], K, invert_rigid(pose(0.2, 0, 0)))[0][0, 0])
    assert (out.seen[8:-8, 4 : edge - 2] < 0.1).all()
    assert (out.seen[8:-8, edge + 2 : -20] > 0.9).all()


def test_the_first_frame_of_a_number_stays() -> None:
    cache = remembered((8, np.eye(4)))
    first = cache.get(8)
    cache.add(8, first.rgb * 0, first.depth, first.origin, first.c2w, K)
    assert len(cache) == 1
    assert cache.get(8).rgb.max() > 0
    with pytest.raises(KeyError):
        cache.get(16)


def test_the_frame_that_sees_most_comes_first_and_twins_add_nothing() -> None:
    left, right = pose(-2.0, 0, 0), pose(2.0, 0, 0)
    cache = remembered((0, left), (8, right), (16, left), (24, pose(0, 0, 0, yaw=180)))
    assert cache.retrieve(pose(-1.5, 0, 0), K, (WIDTH, HEIGHT)) == [0, 8]
    assert cache.retrieve(left, K, (WIDTH, HEIGHT)) == [0]
    assert cache.retrieve(left, K, (WIDTH, HEIGHT), already=(0,)) == []
    assert FrameCache().retrieve(left, K, (WIDTH, HEIGHT)) == []


def test_hidden_points_do_not_count_as_seen() -> None:
    front = unproject.strided_points(
        np.full((HEIGHT, WIDTH), 2.0, np.float32), unproject.to_integer_centres(K), np.eye(4),
        stride=4,
    )  # fmt: skip
    clouds = [front.reshape(-1, 3), front.reshape(-1, 3) * 2]
    seen = retrieval.coverage(clouds, np.eye(4), K, (WIDTH, HEIGHT), stride=4, visible_within=0.1)
    assert seen[0].mean() > 0.9
    assert not seen[1].any()


def test_half_and_integer_centres_convert_both_ways() -> None:
    np.testing.assert_allclose(unproject.to_half_centres(unproject.to_integer_centres(K)), K)


def clouds_and_views(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    clouds = [
        rng.normal([0, 0, 4], [2, 1, 2], (int(n), 3)).astype(np.float32)
        for n in rng.integers(0, 400, 9)
    ]
    return clouds, np.stack([invert_rigid(pose(0.3 * i, 0, -0.2 * i, yaw=9.0 * i)) for i in (0, 1)])


@pytest.mark.parametrize("seed", range(4))
def test_coverage_and_gains_are_those_of_a_plain_count(seed: int) -> None:
    clouds, views = clouds_and_views(seed)
    grid = retrieval.lyra_grids(np.stack([K, K]), 8)
    shape = (HEIGHT // 8, WIDTH // 8)
    seen = np.zeros((len(clouds), 2, *shape), bool)
    for v, w2c in enumerate(views):
        at = [c.astype(np.float64) @ w2c[:3, :3].T + w2c[:3, 3] for c in clouds]
        cells = [np.floor((p @ grid[v].T)[:, :2] / (p[:, 2:] + 1e-7)) for p in at]
        nearest = np.full(shape, np.inf)
        for p, cell in zip(at, cells, strict=True):
            for (x, y), z in zip(cell, p[:, 2], strict=True):
                if z > 0 and 0 <= x < shape[1] and 0 <= y < shape[0]:
                    nearest[int(y), int(x)] = min(nearest[int(y), int(x)], z)
        for c, (p, cell) in enumerate(zip(at, cells, strict=True)):
            for (x, y), z in zip(cell, p[:, 2], strict=True):
                if z > 0 and 0 <= x < shape[1] and 0 <= y < shape[0]:
                    seen[c, v, int(y), int(x)] |= z <= nearest[int(y), int(x)] + 0.1
        have = retrieval.grid_coverage(clouds, w2c, grid[v], shape[::-1], 0.1)
        np.testing.assert_array_equal(have, seen[:, v])
    flat = seen.reshape(len(clouds), -1)
    covered, want = flat[8].copy(), []
    for _ in range(4):
        gain = (flat & ~covered).sum(1)
        gain[[8, *want]] = -1
        want.append(int(gain.argmax()))
        covered |= flat[want[-1]]
    store = retrieval.PointStore.of(clouds)
    chosen, _ = retrieval.lyra_retrieve(
        store, np.arange(9), views, np.stack([K, K]), (WIDTH, HEIGHT), count=4, stride=8
    )
    assert chosen == want[::-1]


def test_threads_do_not_change_what_is_retrieved() -> None:
    import numba

    clouds, views = clouds_and_views(7)
    args = (clouds, np.arange(9), views, np.stack([K, K]), (WIDTH, HEIGHT))
    before = numba.get_num_threads()
    many, gains = retrieval.lyra_retrieve(*args, count=5, stride=4)
    numba.set_num_threads(1)
    one, same = retrieval.lyra_retrieve(*args, count=5, stride=4)
    numba.set_num_threads(before)
    assert many == one
    np.testing.assert_array_equal(gains, same)


def test_threads_do_not_change_a_soft_warp() -> None:
    import numba

    rng = np.random.default_rng(3)
    depth = (3 + rng.random((HEIGHT, WIDTH))).astype(np.float32)
    points = unproject.world_points(depth, unproject.pixel_directions(K, HEIGHT, WIDTH), np.eye(4))
    values = rng.random((1, HEIGHT, WIDTH, 3)).astype(np.float32)
    views = np.stack([invert_rigid(pose(0.05 * i, 0, 0)) for i in range(4)])
    args = (values, points[None], depth[None] > 0, views, np.stack([K] * 4), (WIDTH, HEIGHT))
    before = numba.get_num_threads()
    many = splat.soft_warp(*args)
    numba.set_num_threads(1)
    one = splat.soft_warp(*args)
    numba.set_num_threads(before)
    assert many.values.tobytes() == one.values.tobytes()
    assert many.depth.tobytes() == one.depth.tobytes()


def test_a_whole_number_of_pixels_of_motion_shifts_the_picture_exactly() -> None:
    # Spec generation 12: a ramp moved by one pixel, the uncovered column is a hole.
    ramp = np.tile(np.linspace(-1, 1, 16, dtype=np.float32)[None, :, None], (12, 1, 1))
    small = np.array([[8.0, 0, 8], [0, 8, 6], [0, 0, 1]])
    depth = np.full((12, 16), 2.0, np.float32)
    points = unproject.world_points(depth, unproject.pixel_directions(small, 12, 16), np.eye(4))
    inner = unproject.reliable_depth(depth, ratio=10.0)
    w2c = np.eye(4)
    w2c[0, 3] = -0.25
    out = splat.soft_warp(ramp[None], points[None], inner[None], w2c[None], small[None], (16, 12))
    np.testing.assert_allclose(out.values[0, 6, :15, 0], ramp[6, 1:, 0], atol=1e-5)
    assert out.values[0, 6, 15, 0] == -1
    assert not out.known[0, 6, 15]


def test_near_samples_outweigh_far_ones_as_the_weights_learnt() -> None:
    # Spec generation 12: depths 1 and 1.1 on one pixel with 3 as the largest depth of the call.
    weight = splat.depth_weights(np.array([[1.0], [1.1]]), np.log(4.0))
    values = np.array([[[1.0]], [[-1.0]]], np.float32)
    at = np.full((2, 1, 2), 2.0, np.float32)
    out, _ = splat.splat(values, at, weight, (5, 5), groups=np.zeros(2, int))
    assert out[0, 2, 2, 0] == pytest.approx(0.706352, abs=1e-4)
