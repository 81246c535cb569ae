"""Splats of a Gaussian head on their way into a world, with tiny random weights."""

from dataclasses import replace

import numpy as np
import pytest

from worldloom.generator.depth.da3.lifter import Da3Lifter
from worldloom.generator.depth.da3.window_lifter import WindowLifter
from worldloom.generator.splats.covered import Covered
from worldloom.generator.splats.thin import thin_splats
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.generator.video.lyra.tiny import tiny_depth
from worldloom.scene.frame import rigid, rotation_about

SIZE = (112, 70)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    place = scene("room")
    cameras = walkthrough(place, 161, size=SIZE)
    out = []
    for i in (0, 8, 16):
        view = render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=1)
        origin = (view.depth > 0).astype(np.uint8)
        out.append(Frame(i, view.rgb, view.depth, origin, cameras.c2w[i], cameras.K[i]))
    return out


def test_a_window_becomes_splats_in_metres_that_are_thinned(frames: list[Frame]) -> None:
    splats = WindowLifter(Da3Lifter(tiny_depth()))(frames)
    assert splats.n > 1000
    assert np.isfinite(splats.means).all()
    near = np.linalg.norm(splats.means - frames[0].c2w[:3, 3], axis=1)
    assert 0.3 < np.median(near) < 10  # Known depth tells random weights how large a metre is.
    covered = Covered()
    thin = thin_splats(splats, frames, covered=covered)
    assert 0 < thin.n < splats.n / 2
    assert len(covered.points) > 0
    again = thin_splats(splats, frames, covered=covered)
    assert again.n < thin.n / 4, "what an older chunk shows is not shown twice"


def test_nothing_finite_gives_nothing(frames: list[Frame]) -> None:
    splats = WindowLifter(Da3Lifter(tiny_depth()))(frames)
    broken = replace(splats, means=np.full_like(splats.means, np.nan))
    assert thin_splats(broken, frames, covered=Covered()).n == 0


def test_a_window_tells_the_cameras_that_it_sees(frames: list[Frame]) -> None:
    lifter = WindowLifter(Da3Lifter(tiny_depth()))
    track = lifter.track(frames)
    assert track.shape == (3, 4, 4)
    np.testing.assert_allclose(track[0], frames[0].c2w, atol=1e-6)
    np.testing.assert_allclose(np.linalg.det(track[:, :3, :3]), 1, atol=1e-6)
    # Only the pictures count: other directions of the given cameras change nothing but the scale.
    turn = rigid(rotation_about([0, 0, 1], 0.15), np.zeros(3))
    other = lifter.track([frames[0], *(replace(f, c2w=f.c2w @ turn) for f in frames[1:])])
    np.testing.assert_allclose(other[:, :3, :3], track[:, :3, :3], atol=1e-5)
