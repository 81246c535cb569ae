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
