"""A chunk's keyframes become few splats, the same ones every time, whatever the input."""

import numba
import numpy as np
import pytest

from worldloom.generator.splats.build import SplatOptions, chunk_splats
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.merge import (
    Marks,
    adaptive_groups,
    merge_groups,
    voxel_groups,
)
from worldloom.generator.splats.prune import consistency, keep_splats
from worldloom.generator.video.frame import Frame
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.frame import look_at
from worldloom.scene.splats import Splats

SIZE = (96, 64)
K = intrinsics(65.0, *SIZE)


def paint(y, z):
    """A wall: plain on the left, striped on the right, sRGB."""
    stripes = (0.5 + 0.5 * np.sin(30 * y) * np.sin(26 * z)) * (y < 0)
    return np.stack([0.3 + 0.5 * stripes, 0.5 + 0.02 * z, 0.7 - 0.4 * stripes], -1)


def wall(number=0, *, sideways=0.0, distance=3.0, scale=1.0, rgb_gain=1.0):
    """A frame of a wall at x = distance, everything times `scale`."""
    eye = np.array([0.0, sideways, 1.0])
    c2w = look_at(eye, [distance, sideways, 1.0])
    rays = pixel_rays(K, *SIZE) @ c2w[:3, :3].T
    t = distance / rays[..., 0]
    point = eye + rays * t[..., None]
    c2w = c2w.copy()
    c2w[:3, 3] *= scale
    rgb = np.clip(paint(point[..., 1], point[..., 2]) * rgb_gain, 0, 1).astype(np.float32)
    depth = (t * scale).astype(np.float32)
    return Frame(number, rgb, depth, np.ones(depth.shape, np.uint8), c2w, K)


def psnr(splats, frame):
    drawn = rasterise(splats, frame.c2w, frame.K, SIZE).rgb
    inner = (slice(3, -3), slice(3, -3))
    return -10 * np.log10(np.mean((np.clip(drawn, 0, 1) - frame.rgb)[inner] ** 2))


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a._arrays(), b._arrays(), strict=True))


@pytest.fixture(scope="module")
def frames():
    return [wall(i, sideways=0.12 * i) for i in range(4)]


def test_merging_keeps_the_picture_with_a_quarter_of_the_splats(frames):
    single = chunk_splats(frames, covered=Covered(), options=SplatOptions(merge=False))
    merged = chunk_splats(frames, covered=Covered())
    held = wall(9, sideways=0.18)
    pixels = len(frames) * SIZE[0] * SIZE[1]
    assert single.n < 0.5 * pixels
    assert merged.n < 0.25 * pixels
    assert psnr(single, held) > 26
    assert psnr(merged, held) > psnr(single, held) - 1


def test_plain_regions_merge_more_than_striped_ones(frames):
    merged = chunk_splats(frames, covered=Covered())
    plain = (merged.means[:, 1] > 0.3) & (merged.means[:, 1] < 1.2)
    striped = (merged.means[:, 1] < -0.3) & (merged.means[:, 1] > -1.2)
    assert plain.sum() < 0.7 * striped.sum()


def test_splats_do_not_depend_on_the_number_of_threads(frames):
    results = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        results.append(chunk_splats(frames, covered=Covered()))
        numba.set_num_threads(before)
    assert same(*results)


def test_what_is_covered_gets_no_second_splats(frames):
    covered = Covered()
    first = chunk_splats(frames[:2], covered=covered)
    again = chunk_splats(frames[:2], covered=covered, context=frames[:2])
    assert first.n > 0
    assert again.n < 0.02 * first.n


def test_a_floater_that_other_views_look_through_goes():
    views = [wall(i, sideways=0.12 * i) for i in range(4)]
    depth = views[0].depth.copy()
    depth[30:36, 40:46] = 1.2
    views[0] = Frame(0, views[0].rgb, depth, views[0].origin, views[0].c2w, K)
    kept = chunk_splats(views, covered=Covered(), options=SplatOptions(merge=False))
    raw = chunk_splats(views, covered=Covered(), options=SplatOptions(prune=False, merge=False))
    assert (raw.means[:, 0] < 2).sum() >= 9
    assert (kept.means[:, 0] < 2).sum() == 0
    assert kept.n > 0.97 * (raw.means[:, 0] > 2).sum()


def test_one_view_alone_is_believed():
    view = wall()
    splats = chunk_splats([view], covered=Covered(), options=SplatOptions(merge=False))
    support, through, size = consistency(splats, [view])
    assert (support == 1).all()
    assert (through == 0).all()
    assert size.max() < 1


def test_faint_oversized_and_broken_splats_go(frames):
    splats = chunk_splats(frames[:1], covered=Covered(), options=SplatOptions(merge=False))
    splats.opacities[0] = 0.01
    splats.scales[1] = 0.5
    splats.means[2] = np.nan
    splats.quats_wxyz[3] = 0
    splats.sh[4] = np.inf
    keep = keep_splats(splats, frames)
    assert not keep[:5].any()
    assert keep[5:].mean() > 0.99


def test_a_group_has_the_moments_of_its_members():
    rng = np.random.default_rng(1)
    n = 60
    quats = np.tile([1.0, 0, 0, 0], (n, 1))
    splats = Splats.from_rgb(
        rng.normal(size=(n, 3)) * [2, 1, 0.01], np.full((n, 3), 0.1), quats,
        rng.uniform(0.2, 0.9, n), rng.uniform(size=(n, 3)),
    )  # fmt: skip
    weight = rng.uniform(0.5, 2, n).astype(np.float32)
    groups = np.repeat(np.arange(n // 20), 20)
    merged, marks = merge_groups(splats, Marks(weight, np.ones(n, np.float32)), groups)
    w = weight[:20] / weight[:20].sum()
    assert np.allclose(merged.means[0], w @ splats.means[:20], atol=1e-5)
    assert np.allclose(merged.rgb()[0], w @ splats.rgb()[:20], atol=1e-5)
    clear = np.prod(1 - splats.opacities[:20].astype(float)) ** (1 / 20)
    assert np.isclose(merged.opacities[0], 1 - clear, atol=1e-5)
    assert np.isclose(marks.weight[0], weight[:20].sum(), rtol=1e-5)
    assert (np.diff(merged.scales, axis=1) <= 0).all()
    assert np.allclose(np.linalg.norm(merged.quats_wxyz, axis=1), 1, atol=1e-6)


def test_a_group_of_one_stays_as_it_is():
    splats = chunk_splats([wall()], covered=Covered(), options=SplatOptions(merge=False))
    marks = Marks(np.ones(splats.n, np.float32), np.ones(splats.n, np.float32))
    assert same(splats, merge_groups(splats, marks, np.arange(splats.n))[0])


def test_voxels_join_what_several_views_saw_of_one_place(frames):
    once = [chunk_splats([f], covered=Covered(), options=SplatOptions(merge=False)) for f in frames]
    splats = Splats.concat(once)
    pixel = np.full(splats.n, 3.0 / K[0, 0], np.float32)
    groups = voxel_groups(splats, Marks(np.ones_like(pixel), pixel))
    assert groups.max() + 1 < 0.6 * splats.n


def test_no_splats_and_few_splats_pass():
    nothing = Splats.empty()
    marks = Marks(np.zeros(0, np.float32), np.zeros(0, np.float32))
    none = np.zeros(0, np.int64)
    assert merge_groups(nothing, marks, none)[0].n == 0
    assert len(voxel_groups(nothing, marks)) == 0
    assert keep_splats(nothing, [wall()]).shape == (0,)
    few = chunk_splats([wall()], covered=Covered(), options=SplatOptions(merge=False))
    few = few.select(slice(0, 3))
    assert (adaptive_groups(few, wanted=1, error=1.0, error_max=1.0) == [0, 1, 2]).all()


@pytest.mark.parametrize("scale", [0.015, 1.0, 150.0])
def test_a_world_of_five_centimetres_and_of_five_hundred_metres(scale):
    views = [wall(i, sideways=0.12 * i, scale=scale) for i in range(3)]
    splats = chunk_splats(views, covered=Covered())
    reference = chunk_splats([wall(i, sideways=0.12 * i) for i in range(3)], covered=Covered())
    assert abs(splats.n - reference.n) < 0.25 * reference.n
    for array in splats._arrays():
        assert np.isfinite(array).all()


def test_sky_and_broken_pixels_give_no_splats():
    view = wall()
    sky = Frame(0, view.rgb, np.zeros_like(view.depth), view.origin, view.c2w, K)
    assert chunk_splats([sky], covered=Covered()).n == 0
    assert chunk_splats([], covered=Covered()).n == 0
    depth, rgb = view.depth.copy(), view.rgb.copy()
    depth[:10], depth[10:20], depth[20:30] = np.nan, np.inf, -1
    rgb[30:40, :, 1] = np.nan
    broken = Frame(0, rgb, depth, view.origin, view.c2w, K)
    splats = chunk_splats([broken, wall(1)], covered=Covered())
    assert splats.n > 100
    for array in splats._arrays():
        assert np.isfinite(array).all()


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5])
def test_a_sharp_edge_is_drawn_where_it_is(shift):
    """The edge of a colour lies at the same sub-pixel place in the picture of the splats.

    Splats of one depth hide each other in the order of their numbers, which moves an edge by a
    quarter of a pixel towards the later ones; drawn in both orders, the edge is where it was.
    """
    columns = np.arange(SIZE[0])
    at = 58.0 + shift
    step = np.clip(at - columns, 0, 1).astype(np.float32)
    rgb = np.broadcast_to((0.2 + 0.6 * step)[None, :, None], (SIZE[1], SIZE[0], 3)).copy()
    plain = wall()
    view = Frame(0, rgb, plain.depth, plain.origin, plain.c2w, K)
    splats = chunk_splats([view], covered=Covered(), options=SplatOptions(merge=False))
    found = []
    for order in (slice(None), slice(None, None, -1)):
        drawn = rasterise(splats.select(order), view.c2w, K, SIZE)
        level = (drawn.rgb[20:44, :, 0] / drawn.alpha[20:44]).mean(0)
        found.append((level[10:-10] - 0.2).sum() / 0.6 + 10)
    assert abs(found[0] - found[1]) > 0.3
    assert abs(np.mean(found) - at) < 0.03
