"""Metrics of pictures: known values, other people's implementations, and pictures that are none."""

import numpy as np
import pytest

from worldloom.generator.evaluate.pixels import is_black
from worldloom.generator.evaluate.similarity import ms_ssim, psnr, ssim
from worldloom.generator.evaluate.subjective import (
    NORMS,
    normalised,
    read_scores,
    subjective_quality,
)
from worldloom.scene.errors import InvalidRequest


@pytest.fixture(scope="module")
def pair():
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    smooth = gaussian_filter(rng.random((240, 416, 3)), (3, 3, 0))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    return smooth, np.clip(smooth + 0.1 * rng.normal(size=smooth.shape), 0, 1)


def test_psnr_of_a_known_offset_is_twenty_decibels():
    grey = np.full((20, 30, 3), 0.5)
    assert psnr(grey + 0.1, grey) == pytest.approx(20.0)
    assert psnr(grey, grey) == 100.0
    assert psnr(np.full((4, 4, 3), 51, np.uint8), np.zeros((4, 4, 3))) == pytest.approx(
        13.979, 1e-3
    )


def test_psnr_counts_only_the_pixels_of_its_mask():
    a, b = np.zeros((4, 4, 3)), np.zeros((4, 4, 3))
    a[0] = 1.0
    mask = np.ones((4, 4), bool)
    mask[0] = False
    assert psnr(a, b, mask=mask) == 100.0
    with pytest.raises(InvalidRequest, match="selects 0 pixels"):
        psnr(a, b, mask=np.zeros((4, 4), bool))


def test_ssim_is_that_of_scikit_image(pair):
    from skimage.metrics import structural_similarity

    wanted = structural_similarity(
        *pair, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=2,
        data_range=1.0,
    )  # fmt: skip
    assert ssim(*pair) == pytest.approx(wanted, abs=1e-12)


def test_ssim_of_constant_pictures_is_its_luminance_term():
    a, b = np.full((11, 11, 3), 0.2), np.full((11, 11, 3), 0.6)
    assert ssim(a, b) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4))


def test_ms_ssim_is_that_of_a_public_implementation(pair):
    # pytorch-msssim 1.0.0 on the same arrays, run once; it computes in float32.
    assert ms_ssim(*pair) == pytest.approx(0.877155, abs=2e-6)
    assert ms_ssim(pair[0], pair[0]) == pytest.approx(1.0)
    assert ms_ssim(*pair) == pytest.approx(ms_ssim(*pair[::-1]))


@pytest.mark.parametrize("metric", [psnr, ssim, ms_ssim])
def test_pictures_that_cannot_be_compared_are_refused_in_words(metric):
    good = np.zeros((180, 200, 3))
    bad = good.copy()
    bad[3, 4, 1] = np.nan
    with pytest.raises(InvalidRequest, match="has 1 of 36000 pixels with NaN or infinity"):
        metric(bad, good)
    with pytest.raises(InvalidRequest, match=r"190 x 180 and reference is 200 x 180 pixels"):
        metric(good[:, :190], good)
    with pytest.raises(InvalidRequest, match=r"shape \(180, 200\)"):
        metric(good[..., 0], good)
    with pytest.raises(InvalidRequest, match="needs an sRGB picture"):
        metric(good[:0], good[:0])


def test_pictures_that_are_too_small_are_refused_with_the_limit():
    small = np.zeros((10, 300, 3))
    with pytest.raises(InvalidRequest, match=r"300 x 10 pixels; SSIM needs 11"):
        ssim(small, small)
    with pytest.raises(InvalidRequest, match=r"MS-SSIM needs 176"):
        ms_ssim(np.zeros((175, 300, 3)), np.zeros((175, 300, 3)))


def test_black_pictures_are_told_from_dark_ones():
    assert is_black(np.zeros((4, 4, 3), np.uint8))
    assert not is_black(np.full((4, 4, 3), 1, np.uint8))


def test_subjective_scores_at_the_stated_bounds_become_a_quarter_and_three_quarters():
    for norm in NORMS.values():
        assert normalised([norm.mean + norm.low * norm.std], norm) == pytest.approx(0.25)
        assert normalised([norm.mean + norm.high * norm.std], norm) == pytest.approx(0.75)
        assert normalised([norm.mean - 99], norm) == 0
        assert normalised([norm.mean + 99], norm) == 1
    assert subjective_quality([99.0], [-99.0]) == 50
    # Mean scores of both networks give z = 0.
    at_mean = subjective_quality([0.5842], [5.5952])
    assert at_mean == pytest.approx(100 * np.mean([0.25 + 0.5 * 1.8342 / 3.7045,
                                                   0.25 + 0.5 * 2.9342 / 4.9083]))  # fmt: skip


def test_scores_that_are_none_are_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="0 scores were given"):
        subjective_quality([], [5.0])
    with pytest.raises(InvalidRequest, match="1 of them not finite"):
        subjective_quality([np.nan], [5.0])
    file = tmp_path / "scores.json"
    file.write_text('{"clip_iqa": [0.6]}')
    with pytest.raises(InvalidRequest, match="KeyError: 'aesthetic'"):
        read_scores(file)
