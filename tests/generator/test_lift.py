"""Frames are lifted to splats that look like them, once for every surface."""

import numpy as np
import pytest

from worldloom.generator.splats.lift import Covered, lift, lift_frames
from worldloom.generator.video.frame import Frame
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.frame import look_at, matrix_from_quat_wxyz
from worldloom.scene.splats import Splats

SIZE = (208, 136)
K = intrinsics(65.0, *SIZE)
SAMPLES = 3  # Colours are means over 3 x 3 samples, as a real pixel's are.


def paint(points, axis):
    """A smooth texture with edges, sRGB."""
    a, b = points[..., (axis + 1) % 3], points[..., (axis + 2) % 3]
    checks = (np.floor(a / 0.35) + np.floor(b / 0.35)) % 2
    wave = 0.5 + 0.25 * np.sin(9 * a) * np.cos(7 * b)
    return np.stack([0.25 + 0.5 * checks * wave, wave, 0.9 - 0.6 * wave], -1)


def trace(rays, origin):
    """First hit of rays with a floor z = 0, a wall x = 4 and a panel at x = 2: depth, colour."""
    depth, rgb = np.full(rays.shape[:2], np.inf), np.zeros((*rays.shape[:2], 3))
    with np.errstate(all="ignore"):
        for axis, at in ((2, 0.0), (0, 4.0), (0, 2.0)):
            t = (at - origin[axis]) / rays[..., axis]
            point = origin + rays * t[..., None]
            inside = (t > 0) & (t < depth)
            if at == 2.0:
                inside &= (np.abs(point[..., 1] - 0.4) < 0.4) & (np.abs(point[..., 2] - 1.2) < 0.3)
            depth = np.where(inside, t, depth)
            rgb = np.where(inside[..., None], paint(point, axis), rgb)
    return depth, rgb


def frame(eye, target, number=0):
    c2w = look_at(eye, target)
    grid = np.array([[K[0, 0], 0, K[0, 2]], [0, K[1, 1], K[1, 2]], [0, 0, 1]])
    fine = grid * [[SAMPLES], [SAMPLES], [1]]
    rays = pixel_rays(fine, SIZE[0] * SAMPLES, SIZE[1] * SAMPLES) @ c2w[:3, :3].T
    _, colour = trace(rays, c2w[:3, 3])
    colour = colour.reshape(SIZE[1], SAMPLES, SIZE[0], SAMPLES, 3).mean((1, 3))
    depth, _ = trace(pixel_rays(K, *SIZE) @ c2w[:3, :3].T, c2w[:3, 3])
    depth = np.where(np.isfinite(depth), depth, 0).astype(np.float32)
    origin = (depth > 0).astype(np.uint8)
    return Frame(number, colour.astype(np.float32), depth, origin, c2w, K)


def psnr(a, b, mask):
    return -10 * np.log10(np.mean((np.clip(a, 0, 1) - b)[mask] ** 2))


def walk(n=5):
    return [frame([0.15 * i, 0.1 * i, 1.2], [3.0, 0.1 * i, 0.7], i) for i in range(n)]


def test_splats_show_their_own_frame_and_one_in_between_again():
    frames = walk()
    splats = lift_frames(frames, covered=Covered())
    held = frame([0.22, 0.18, 1.22], [3.0, 0.1, 0.72])
    for view, least in ((frames[0], 28.0), (held, 26.0)):
        drawn = rasterise(splats, view.c2w, K, SIZE)
        seen = (view.depth > 0) & (drawn.alpha > 0.5)
        assert seen.mean() > 0.97
        assert psnr(drawn.rgb, view.rgb, seen) > least
        error = np.abs(drawn.depth - view.depth)[seen] / view.depth[seen]
        assert np.median(error) < 0.01


def test_discs_lie_in_the_surface_and_grow_with_the_footprint():
    view = frame([0, 0, 1.2], [3.0, 0, 0.7])
    splats = lift_frames([view], covered=Covered())
    normals = matrix_from_quat_wxyz(splats.quats_wxyz)[..., 2]
    floor = np.abs(splats.means[:, 2]) < 1e-4
    wall = np.abs(splats.means[:, 0] - 4) < 1e-4
    assert floor.sum() > 5000
    assert wall.sum() > 1000
    # In the crease between the two a pixel may take the slope of either.
    assert (np.abs(normals[floor][:, 2]) > 0.999).mean() > 0.97
    assert (np.abs(normals[wall][:, 0]) > 0.999).mean() > 0.95
    assert np.all(splats.scales[:, 2] < 0.2 * splats.scales[:, :2].max(1))
    distance = np.linalg.norm(splats.means[floor] - view.c2w[:3, 3], axis=1)
    near, far = distance < 2.4, distance > 3.6
    long_axis = splats.scales[floor].max(1)
    assert np.median(long_axis[far]) > 1.8 * np.median(long_axis[near])


def test_a_second_look_from_the_same_distance_adds_almost_nothing():
    covered = Covered()
    first = lift_frames([frame([0, 0, 1.2], [3.0, 0, 0.7])], covered=covered)
    again = lift_frames([frame([0, 0, 1.2], [3.0, 0, 0.7])], covered=covered)
    shifted = lift_frames([frame([0.05, 0.03, 1.2], [3.0, 0.03, 0.7])], covered=covered)
    assert again.n == 0
    assert 0 < shifted.n < 0.1 * first.n


def test_a_much_closer_look_adds_finer_splats():
    covered = Covered()
    far = lift_frames([frame([0, -0.6, 1.2], [4.0, -0.6, 1.2])], covered=covered)
    near = lift_frames([frame([2.5, -0.6, 1.2], [4.0, -0.6, 1.2])], covered=covered)
    wall = np.abs(near.means[:, 0] - 4) < 1e-4
    assert wall.sum() > 0.9 * SIZE[0] * SIZE[1] * 0.6
    assert np.median(near.scales[wall].max(1)) < 0.6 * np.median(far.scales.max(1))


def test_of_one_chunk_the_nearest_look_gives_the_splats():
    far = frame([0, -0.6, 1.2], [4.0, -0.6, 1.2], 0)
    near = frame([2.5, -0.6, 1.2], [4.0, -0.6, 1.2], 8)
    apart = Covered()
    separate = [lift_frames([f], covered=apart) for f in (far, near)]
    together = lift_frames([far, near], covered=Covered())
    assert together.n < separate[0].n + separate[1].n - 3000
    # What only the far look shows is still there, and nothing of the near view is missing.
    for view in (far, near):
        drawn = rasterise(together, view.c2w, K, SIZE)
        assert (drawn.alpha > 0.5)[view.depth > 0].mean() > 0.97
    sharp = rasterise(together, near.c2w, K, SIZE).rgb
    mixed = rasterise(Splats.concat(separate), near.c2w, K, SIZE).rgb
    seen = near.depth > 0
    assert psnr(sharp, near.rgb, seen) > psnr(mixed, near.rgb, seen)


def test_depth_edges_and_pixels_without_origin_get_no_splats():
    view = frame([0, 0, 1.2], [3.0, 0, 1.0])
    splats = lift(view.rgb, view.depth, view.origin, view.c2w, K, covered=Covered())
    # Nothing hangs between the panel at 2 m and the wall behind it at 4 m.
    x, z = splats.means[:, 0], splats.means[:, 2]
    assert not ((x > 2.02) & (x < 3.98) & (z > 0.02)).any()
    masked = view.origin.copy()
    masked[:, : SIZE[0] // 2] = 0
    half = lift(view.rgb, view.depth, masked, view.c2w, K, covered=Covered())
    assert 0 < half.n < 0.6 * splats.n
    nothing = np.zeros_like(view.depth)
    assert lift(view.rgb, nothing, view.origin, view.c2w, K, covered=Covered()).n == 0


def test_a_floor_towards_the_horizon_is_no_depth_edge():
    view = frame([0, 0, 0.35], [3.0, 0, 0.35])
    splats = lift_frames([view], covered=Covered())
    floor = (view.depth > 0) & (view.depth < 3.9)
    floor[: SIZE[1] // 2 + 6] = False
    assert (np.abs(splats.means[:, 2]) < 1e-4).sum() > 0.95 * floor.sum()


def test_the_state_survives_a_checkpoint_and_the_result_is_the_same_bytes(tmp_path):
    frames = walk(4)
    whole = Covered()
    expected = [lift_frames(frames[:2], covered=whole), lift_frames(frames[2:], covered=whole)]
    covered = Covered()
    first = lift_frames(frames[:2], covered=covered)
    covered.save(tmp_path / "covered.npz")
    second = lift_frames(frames[2:], covered=Covered.load(tmp_path / "covered.npz"))
    for one, two in zip(expected, (first, second), strict=True):
        assert one.means.tobytes() == two.means.tobytes()
        assert one.quats_wxyz.tobytes() == two.quats_wxyz.tobytes()


@pytest.mark.parametrize("seed", range(2))
def test_every_splat_is_finite_and_has_a_unit_rotation(seed):
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 8, (SIZE[1] // 4, SIZE[0] // 4)).astype(np.float32)
    depth = np.repeat(np.repeat(depth, 4, 0), 4, 1)
    depth[rng.random(depth.shape) < 0.05] = 0
    rgb = rng.random((*depth.shape, 3)).astype(np.float32)
    c2w = look_at([0, 0, 1.2], [3.0, 0, 0.7])
    origin = np.ones(depth.shape, np.uint8)
    splats = lift(rgb, depth, origin, c2w, K, covered=Covered())
    assert splats.n > 0
    for array in (splats.means, splats.scales, splats.quats_wxyz, splats.sh):
        assert np.isfinite(array).all()
    assert np.allclose(np.linalg.norm(splats.quats_wxyz, axis=1), 1, atol=1e-5)
    assert (splats.scales > 0).all()
