"""Evidence that comes after the seed changes how sure a scale is, never the scale."""

import numpy as np
import pytest

from worldloom.generator.later_scale import SOURCE, later_scale
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame

RECORD = {
    "schema": "worldloom.scale/1", "value": 2.0, "sigma": 0.05, "sources": [],
    "status": "calibrated", "up_in_photo_camera": [0.0, -1.0, 0.0], "level_rms_deg": 0.3,
}  # fmt: skip
HEIGHT = 1.2


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    place = scene("room")
    cameras = walkthrough(place, 161, size=(208, 120))
    out = []
    for i in range(0, 80, 16):
        view = render_view(place, cameras.c2w[i], cameras.K[i], (208, 120), supersample=1)
        origin = (view.depth > 0).astype(np.uint8)
        out.append(Frame(i, view.rgb, view.depth, origin, cameras.c2w[i], cameras.K[i]))
    return out


def test_a_floor_that_agrees_makes_the_scale_surer(frames: list[Frame]) -> None:
    later = later_scale(RECORD, frames, HEIGHT)
    assert later["value"] == RECORD["value"]
    assert later["status"] == "calibrated"
    assert 0.02 <= later["sigma"] < RECORD["sigma"]
    assert later["sources"][-1]["name"] == SOURCE
    assert later["sources"][-1]["value"] == pytest.approx(2.0, rel=0.01)


def test_a_floor_that_disagrees_makes_it_less_sure(frames: list[Frame]) -> None:
    later = later_scale(RECORD | {"sigma": 0.02}, frames, HEIGHT * 1.1)
    assert later["value"] == RECORD["value"]
    assert later["sigma"] > 0.04


def test_without_a_told_height_nothing_changes(frames: list[Frame]) -> None:
    assert later_scale(RECORD, frames, None) is RECORD
    assert later_scale(RECORD, frames[:1], HEIGHT) is RECORD
