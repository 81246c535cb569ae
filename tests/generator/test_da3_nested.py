"""Metres and sky from a second network, and pictures on their way in."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldloom.generator.depth.da3.load import random_network
from worldloom.generator.depth.da3.nested import in_metres, metres, metric_scale
from worldloom.generator.depth.da3.network import Prediction
from worldloom.generator.depth.da3.preprocess import COLOUR_MEAN, COLOUR_STD, prepare, steps
from worldloom.generator.depth.da3.sky import SAMPLES, farthen_sky, quantile
from worldloom.scene.errors import EngineFailed


@pytest.fixture(autouse=True, scope="module")
def few_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) + 0.5


def main(depth):
    w2c = torch.eye(4).repeat(len(depth), 1, 1)
    w2c[:, :3, 3] = torch.arange(len(depth))[:, None] + 1.0
    K = torch.eye(3).repeat(len(depth), 1, 1) * 600
    return Prediction(depth, draw(*depth.shape, seed=9) + 1, w2c, K)


def test_metric_depth_is_scaled_by_the_mean_focal_length():
    K = torch.tensor([[[200.0, 0, 0], [0, 400, 0], [0, 0, 1]]])
    torch.testing.assert_close(metres(torch.full((1, 2, 2), 3.0), K), torch.full((1, 2, 2), 3.0))


def test_the_scale_is_least_squares_over_sure_pixels_that_are_no_sky():
    depth, confidence = draw(2, 6, 8), draw(2, 6, 8, seed=1) + 1
    metric, sky = depth * 2.5 + 0.01 * draw(2, 6, 8, seed=2), torch.zeros(2, 6, 8)
    sky[0, :3] = 0.3
    metric[0, :3] = 1000
    metric[1, 0, 0] = 0.005
    depth[1, 0, 1] = 0.0005
    seen = sky < 0.3
    use = (confidence >= torch.quantile(confidence[seen], 0.5)) & seen
    use &= (metric > 1e-2) & (depth > 1e-3)
    expected = float((metric[use] * depth[use]).sum() / (depth[use] ** 2).sum())
    found = metric_scale(depth, confidence, metric, sky)
    assert found.known
    assert found.value == pytest.approx(expected, rel=1e-6)


def test_depth_and_cameras_become_metres_and_the_sky_far():
    given = main(draw(2, 6, 8))
    sky = torch.zeros(2, 6, 8)
    sky[:, 0] = 1.0
    found = in_metres(given, 3 * given.depth, sky)
    assert found.metric
    assert found.scale == pytest.approx(3)
    torch.testing.assert_close(found.depth[:, 1:], 3 * given.depth[:, 1:])
    limit = torch.quantile(3 * given.depth[:, 1:].flatten(), 0.99)
    torch.testing.assert_close(found.depth[:, 0], limit.expand(2, 8))
    assert (found.confidence[:, 0] == 1).all()
    torch.testing.assert_close(found.w2c[:, :3, 3], 3 * given.w2c[:, :3, 3])
    huge = in_metres(replace(given, depth=given.depth * 1e4), 1e4 * given.depth, sky)
    assert float(huge.depth[0, 0, 0]) == 200


def test_a_clip_of_sky_alone_is_not_metric_but_finite():
    given = main(draw(2, 6, 8))
    for sky in (torch.ones(2, 6, 8), torch.where(torch.arange(96).reshape(2, 6, 8) < 9, 0.0, 1.0)):
        found = in_metres(given, draw(2, 6, 8, seed=4), sky)
        assert not found.metric
        assert found.scale == 1
        assert torch.isfinite(found.depth).all()
    nothing = in_metres(given, torch.zeros(2, 6, 8), torch.zeros(2, 6, 8))
    assert not nothing.metric
    torch.testing.assert_close(nothing.depth, given.depth)


def test_quantiles_of_many_values_are_the_same_every_time():
    values = draw(SAMPLES * 2 + 7)
    found = quantile(values, 0.5)
    assert float(found) == float(quantile(values, 0.5))
    assert float(found) == float(torch.quantile(values[::3], 0.5))
    assert float(found) == pytest.approx(1.0, abs=0.01)


def test_sky_is_as_far_as_the_farthest_seen_when_both_are_there():
    depth, sky = draw(1, 6, 8), torch.zeros(1, 6, 8)
    assert torch.equal(farthen_sky(depth, sky), depth)
    assert torch.equal(farthen_sky(depth, sky + 1), depth)
    sky[0, :2] = 0.3
    found = farthen_sky(depth, sky)
    torch.testing.assert_close(found[0, :2], torch.quantile(depth[0, 2:], 0.99).expand(2, 8))
    assert torch.equal(found[0, 2:], depth[0, 2:])


def test_the_nested_network_is_both_networks():
    network = random_network("tiny-nested")
    pictures = torch.randn(2, 3, 28, 42, generator=torch.Generator().manual_seed(3))
    found = network(pictures, splats=True)
    plain = network.da3(pictures, splats=True)
    alone = network.da3_metric(pictures)
    by_hand = in_metres(plain, metres(alone.depth, plain.K), alone.sky)
    torch.testing.assert_close(found.depth, by_hand.depth)
    assert found.scale == pytest.approx(by_hand.scale)
    # Gaussians stay in the unit of the first network.
    torch.testing.assert_close(found.gaussians.raw, plain.gaussians.raw)


@pytest.mark.parametrize(
    ("size", "side", "shorter", "expected"),
    [
        ((480, 832), 832, False, [(476, 826)]),
        ((480, 832), None, False, [(476, 826)]),
        ((480, 832), 504, False, [(291, 504), (294, 504)]),
        ((1078, 1918), 1918, False, []),
        ((280, 504), 504, False, []),
        ((100, 200), 150, True, [(150, 300), (154, 294)]),
        ((7, 1000), 1000, False, [(14, 994)]),
        ((21, 35), None, False, [(28, 42)]),
        ((20, 34), None, False, [(14, 28)]),
    ],
)
def test_sizes_on_the_way_in(size, side, shorter, expected):
    found = steps(*size, side, shorter=shorter)
    assert found == expected


def test_pictures_are_normalised_and_cameras_follow():
    rgb = np.random.default_rng(0).random((2, 30, 40, 3)).astype(np.float32)
    K = np.array([[50.0, 0, 20], [0, 60.0, 15], [0, 0, 1]])
    found = prepare(rgb, K, side=None)
    assert found.size == (28, 42)
    np.testing.assert_allclose(found.K[1], K * [[42 / 40], [28 / 30], [1]])
    same = prepare(rgb[:, :28, :28], side=None)
    colours = same.images.permute(0, 2, 3, 1).numpy() * COLOUR_STD + COLOUR_MEAN
    np.testing.assert_allclose(colours, rgb[:, :28, :28], atol=1e-6)
    bytes_ = prepare(np.full((1, 28, 28, 3), 255, np.uint8))
    assert bytes_.size == (504, 504)
    np.testing.assert_allclose(bytes_.images[0, 0], (1 - 0.485) / 0.229, atol=1e-4)


def test_pictures_shrink_by_area_and_grow_by_cubics():
    ramp = np.tile(np.arange(56, dtype=np.float32)[None, None, :, None] / 56, (1, 56, 1, 3))
    small = prepare(ramp, side=28).images[0, 0].numpy() * COLOUR_STD[0] + COLOUR_MEAN[0]
    np.testing.assert_allclose(small[0], ramp[0, 0, :, 0].reshape(28, 2).mean(1), atol=1e-5)
    large = prepare(ramp, side=112).images[0, 0].numpy() * COLOUR_STD[0] + COLOUR_MEAN[0]
    # Keys' kernel with a = -0.75 at the fractions 1/4 and 3/4.
    near = np.array([-0.10546875, 0.87890625, 0.26171875, -0.03515625])
    line = ramp[0, 0, :, 0]
    np.testing.assert_allclose(large[5, 41], near @ line[19:23], atol=1e-5)
    np.testing.assert_allclose(large[5, 42], near[::-1] @ line[19:23], atol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "words"),
    [
        (np.zeros((0, 28, 28, 3)), "at least one"),
        (np.zeros((28, 28, 3)), r"\[28, 28, 3\]"),
        (np.zeros((1, 28, 28, 4)), "height, width, 3"),
    ],
)
def test_what_is_no_picture_is_refused(rgb, words):
    with pytest.raises(EngineFailed, match=words):
        prepare(rgb)


def test_pixels_that_are_not_finite_are_refused_by_number():
    rgb = np.zeros((3, 28, 28, 3), np.float32)
    rgb[1, 3, 4, 0] = np.nan
    rgb[1, 5, 6] = np.inf
    with pytest.raises(EngineFailed, match=r"1 of 3 pictures .* \(view 1: 2\)"):
        prepare(rgb)
