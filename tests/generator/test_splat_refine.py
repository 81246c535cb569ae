"""Exposure is evened out, and refinement brings splats nearer to their keyframes."""

from dataclasses import replace

import numba
import numpy as np
import pytest

from worldloom.generator.splats.build import chunk_splats
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.exposure import apply_exposure, solve_exposure
from worldloom.generator.splats.photometric import photometric_loss
from worldloom.generator.splats.refine import Rates, refine_splats
from worldloom.generator.video.frame import Frame
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics, pixel_rays
from worldloom.scene.errors import EngineFailed, JobCancelled
from worldloom.scene.frame import look_at
from worldloom.scene.splats import Splats

SIZE = (96, 64)
K = intrinsics(65.0, *SIZE)


def wall(number=0, *, sideways=0.0):
    """A frame of a wavy wall at x = 3 m, seen a little from the side."""
    eye = np.array([0.0, sideways, 1.0])
    c2w = look_at(eye, [3.0, 0.8 * sideways, 1.0])
    rays = pixel_rays(K, *SIZE) @ c2w[:3, :3].T
    t = 3.0 / rays[..., 0]
    y, z = (eye + rays * t[..., None])[..., 1:].transpose(2, 0, 1)
    wave = 0.5 + 0.3 * np.sin(17 * y) * np.sin(15 * z)
    rgb = np.stack([wave, 0.4 + 0.1 * z, 0.9 - 0.7 * wave], -1).clip(0, 1).astype(np.float32)
    return Frame(number, rgb, t.astype(np.float32), np.ones(t.shape, np.uint8), c2w, K)


def psnr(splats, frame):
    drawn = rasterise(splats, frame.c2w, frame.K, SIZE).rgb
    inner = (slice(3, -3), slice(3, -3))
    return -10 * np.log10(np.mean((np.clip(drawn, 0, 1) - frame.rgb)[inner] ** 2))


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a._arrays(), b._arrays(), strict=True))


@pytest.fixture(scope="module")
def frames():
    return [wall(i, sideways=0.15 * i) for i in range(4)]


@pytest.fixture(scope="module")
def splats(frames):
    return chunk_splats(frames, covered=Covered())


def test_refinement_improves_a_view_that_it_has_not_seen(frames, splats):
    held = wall(9, sideways=0.22)
    told = []
    better = refine_splats(
        splats, frames, steps=40, seed=1, on_step=lambda done, total: told.append((done, total))
    )
    assert psnr(better, held) > psnr(splats, held) + 1.5
    assert told[0] == (1, 40)
    assert told[-1] == (40, 40)
    assert better.n == splats.n
    for array in better._arrays():
        assert np.isfinite(array).all()
    assert np.allclose(np.linalg.norm(better.quats_wxyz, axis=1), 1, atol=1e-5)


def test_refinement_gives_the_same_bytes_on_any_number_of_threads(frames, splats):
    results, before = [], numba.get_num_threads()
    for threads in (1, before):
        numba.set_num_threads(threads)
        results.append(refine_splats(splats, frames, steps=6, seed=3))
    numba.set_num_threads(before)
    assert same(*results)
    assert not same(results[0], refine_splats(splats, frames, steps=6, seed=4))


def test_fixed_properties_stay(frames, splats):
    rates = Rates(opacity=0, scale=0, mean=0, quat=0)
    moved = refine_splats(splats, frames, steps=4, rates=rates)
    assert np.allclose(moved.means, splats.means)
    assert np.allclose(moved.scales, splats.scales, rtol=1e-5)
    assert not np.allclose(moved.sh, splats.sh, atol=1e-3)


def test_harmonics_above_the_constant_stay(frames, splats):
    sh = np.concatenate([splats.sh, np.full((splats.n, 15, 3), 0.01, np.float32)], 1)
    moved = refine_splats(replace(splats, sh=sh), frames, steps=2)
    assert moved.degree == 3
    assert (moved.sh[:, 1:] == sh[:, 1:]).all()


def test_refinement_stops_when_it_is_cancelled(frames, splats):
    asked = iter([False, False, True])
    with pytest.raises(JobCancelled, match="step 2 of 10"):
        refine_splats(splats, frames, steps=10, cancelled=lambda: next(asked))


def test_gsplat_without_a_gpu_is_refused(frames, splats):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EngineFailed, match="use the backend numba"):
        refine_splats(splats, frames, steps=1, backend="gsplat")


@pytest.mark.gpu
def test_gsplat_improves_a_held_out_view_too(frames, splats):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    held = wall(9, sideways=0.22)
    better = refine_splats(splats, frames, steps=40, seed=1, backend="gsplat")
    assert psnr(better, held) > psnr(splats, held) + 1


def test_nothing_to_refine_is_nothing_refined(frames, splats):
    sky = replace(frames[0], depth=np.zeros_like(frames[0].depth))
    assert refine_splats(splats, [], steps=5) is splats
    assert same(refine_splats(splats, [sky], steps=3), splats)
    assert refine_splats(Splats.empty(), frames, steps=3).n == 0


def test_a_broken_frame_does_not_break_the_splats(frames, splats):
    rgb = frames[0].rgb.copy()
    rgb[10:20] = np.nan
    depth = np.where(np.arange(64)[:, None] < 5, np.nan, frames[0].depth).astype(np.float32)
    broken = replace(frames[0], rgb=rgb, depth=depth)
    for array in refine_splats(splats, [broken], steps=3)._arrays():
        assert np.isfinite(array).all()


def test_the_loss_has_the_gradient_that_it_says():
    rng = np.random.default_rng(0)
    image = rng.uniform(size=(20, 24, 3))
    # No pixel is so near that the corner of |x| lies between the two ends of a difference.
    target = image + rng.choice([-1, 1], image.shape) * rng.uniform(0.02, 0.3, image.shape)
    mask = rng.uniform(size=(20, 24)) > 0.2
    _, gradient = photometric_loss(image, target, mask)
    for _ in range(5):
        way = rng.normal(size=image.shape) * mask[..., None]
        ends = [photometric_loss(image + s * 1e-3 * way, target, mask)[0] for s in (1, -1)]
        assert np.isclose((ends[0] - ends[1]) / 2e-3, (gradient * way).sum(), rtol=0.03, atol=1e-4)
    assert photometric_loss(target, target, mask)[0] < 1e-6
    assert (gradient[~mask] == 0).all()


def test_exposure_of_every_frame_and_channel_is_found(frames):
    rng = np.random.default_rng(4)
    gains = rng.normal(1, 0.05, (4, 3))
    gains[0] = 1
    uneven = [apply_exposure(f, g) for f, g in zip(frames, gains, strict=True)]
    found = solve_exposure(uneven)
    assert (found[0] == 1).all()
    assert np.abs(found * gains - 1).max() < 0.005
    even = [apply_exposure(f, g) for f, g in zip(uneven, found, strict=True)]
    assert np.abs(even[2].rgb - frames[2].rgb).max() < 0.01


def test_exposure_of_frames_that_share_nothing_stays(frames):
    away = replace(frames[1], c2w=look_at([0.0, 0.0, 1.0], [-3.0, 0.0, 1.0]))
    sky = replace(frames[2], depth=np.zeros_like(frames[2].depth))
    dark = replace(frames[3], rgb=np.zeros_like(frames[3].rgb))
    broken = replace(frames[3], rgb=np.full_like(frames[3].rgb, np.nan))
    found = solve_exposure([frames[0], away, sky, dark, broken])
    assert (found == 1).all()
    assert solve_exposure([]).shape == (0, 3)
    assert (solve_exposure(frames[:1]) == 1).all()
