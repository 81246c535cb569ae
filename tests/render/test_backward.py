"""Gradients of the rasteriser agree with finite differences, on any number of threads.

Differences are taken without the cuts at 1/255, whose jumps have no derivative: the same kernels,
run as plain Python with another opacity function and one tile.
"""

import math
from dataclasses import replace

import numba
import numpy as np
import pytest

from worldloom.render import backward as module
from worldloom.render.backward import backward, record
from worldloom.render.rasterise import rasterise
from worldloom.scene.cameras import intrinsics
from worldloom.scene.frame import look_at
from worldloom.scene.splats import Splats

SIZE = (30, 24)
K = intrinsics(70.0, *SIZE)
CAMERA = look_at([0.0, 0.1, 1.0], [2.0, 0.0, 0.9])


def cloud(n=25, degree=0):
    rng = np.random.default_rng(3)
    quats = rng.normal(size=(n, 4))
    arrays = (
        rng.uniform([1.5, -1.0, 0.3], [4.0, 1.0, 1.7], (n, 3)),
        rng.uniform(0.05, 0.25, (n, 3)),
        quats / np.linalg.norm(quats, axis=1, keepdims=True),
        rng.uniform(0.2, 0.9, n),
        rng.normal(0, 0.5, (n, (degree + 1) ** 2, 3)),
    )
    return Splats(*(np.ascontiguousarray(a, np.float32) for a in arrays))


WEIGHTS = np.random.default_rng(5).normal(size=(SIZE[1], SIZE[0], 3))


def loss(splats):
    return float((record(splats, CAMERA, K, SIZE).image.astype(float) * WEIGHTS).sum())


@pytest.mark.parametrize("degree", [0, 3])
def test_the_tape_shows_the_same_picture_as_the_rasteriser(degree):
    splats = cloud(degree=degree)
    tape, view = record(splats, CAMERA, K, SIZE), rasterise(splats, CAMERA, K, SIZE)
    assert np.allclose(tape.image, view.rgb, atol=1e-6)
    assert np.allclose(1 - tape.left, view.alpha, atol=1e-6)


def uncut(mean2d, conic, opacity, i, x, y):
    dx, dy = x - float(mean2d[i, 0]), y - float(mean2d[i, 1])
    power = 0.5 * (conic[i, 0] * dx * dx + conic[i, 2] * dy * dy) + conic[i, 1] * dx * dy
    fall = math.exp(-power)
    return dx, dy, opacity[i] * fall, fall


@pytest.fixture
def _without_cuts(monkeypatch):
    monkeypatch.setattr(module, "_alpha", uncut)
    monkeypatch.setattr(module, "OPAQUE", 0.0)
    monkeypatch.setattr(module, "FINE_TILE", 64)
    for name in ("_blend", "_unblend"):
        monkeypatch.setattr(module, name, getattr(module, name).py_func)


@pytest.mark.usefixtures("_without_cuts")
@pytest.mark.parametrize(
    ("name", "step"),
    [("means", 1e-3), ("scales", 1e-3), ("opacities", 1e-3), ("sh", 1e-2), ("quats_wxyz", 1e-2)],
)
def test_gradients_agree_with_finite_differences(name, step):
    splats = cloud(12)
    gradients = backward(record(splats, CAMERA, K, SIZE), WEIGHTS)
    found = gradients.dc[:, None] if name == "sh" else getattr(gradients, name)
    rng = np.random.default_rng(7)
    analytic, numeric = [], []
    for _ in range(6):
        direction = rng.normal(size=found.shape)
        values = []
        for sign in (1, -1):
            moved = getattr(splats, name).astype(float) + sign * step * direction
            if name == "quats_wxyz":
                moved /= np.linalg.norm(moved, axis=1, keepdims=True)
            values.append(loss(replace(splats, **{name: moved.astype(np.float32)})))
        numeric.append((values[0] - values[1]) / (2 * step))
        analytic.append(float((found * direction).sum()))
    numeric, analytic = np.array(numeric), np.array(analytic)
    assert np.linalg.norm(numeric - analytic) < 0.01 * np.linalg.norm(numeric)


def test_gradients_do_not_depend_on_the_number_of_threads():
    splats, results = cloud(200), []
    before = numba.get_num_threads()
    for threads in (1, before):
        numba.set_num_threads(threads)
        results.append(backward(record(splats, CAMERA, K, SIZE), WEIGHTS))
    numba.set_num_threads(before)
    for name in ("means", "scales", "quats_wxyz", "opacities", "dc"):
        assert getattr(results[0], name).tobytes() == getattr(results[1], name).tobytes()


def test_splats_out_of_the_picture_have_no_gradient():
    splats = cloud()
    splats.means[:5, 0] = -3.0
    gradients = backward(record(splats, CAMERA, K, SIZE), WEIGHTS)
    assert not gradients.drawn[:5].any()
    assert (gradients.means[:5] == 0).all()
    assert gradients.drawn[5:].mean() > 0.5
