"""Of several camera tracks the one is chosen with which the frames agree."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from worldloom.generator.poses.select import choose_track, track_cost
from worldloom.generator.truth.render import render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.scene.errors import InvalidRequest

SIZE = (208, 120)


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    place = scene("room")
    cameras = walkthrough(place, 161, size=SIZE)
    out = []
    for i in (0, 8, 16, 24):
        view = render_view(place, cameras.c2w[i], cameras.K[i], SIZE, supersample=1)
        origin = (view.depth > 0).astype(np.uint8)
        out.append(Frame(i, view.rgb, view.depth, origin, cameras.c2w[i], cameras.K[i]))
    return out


def turned(frames: list[Frame], degrees: float) -> np.ndarray:
    rng = np.random.default_rng(1)
    c2w = np.stack([f.c2w for f in frames])
    for pose in c2w[1:]:
        turn = Rotation.from_rotvec(np.radians(degrees) * rng.standard_normal(3))
        pose[:3, :3] = pose[:3, :3] @ turn.as_matrix()
    return c2w


def test_the_better_track_is_chosen(frames: list[Frame]) -> None:
    true = np.stack([f.c2w for f in frames])
    found = choose_track(frames, {"commanded": turned(frames, 2.0), "predicted": true})
    assert found.name == "predicted"
    assert found.costs["predicted"] < found.costs["commanded"] / 2


def test_a_window_keeps_its_track_unless_another_is_clearly_better(frames: list[Frame]) -> None:
    true = np.stack([f.c2w for f in frames])
    one, same = turned(frames, 1.0), turned(frames, 1.01)
    assert choose_track(frames, {"a": one, "b": same}, before="b").name == "b"
    assert choose_track(frames, {"a": true, "b": turned(frames, 2.0)}, before="b").name == "a"


def test_the_cost_grows_with_the_error(frames: list[Frame]) -> None:
    costs = [track_cost(frames, turned(frames, degrees)) for degrees in (0.0, 0.5, 1.0, 2.0)]
    assert costs == sorted(costs)


def test_frames_that_share_nothing_leave_the_first_track(frames: list[Frame]) -> None:
    one = [frames[0]]
    found = choose_track(one, {"a": np.eye(4)[None], "b": np.eye(4)[None]})
    assert found.name == "a"
    assert found.costs["a"] == float("inf")


def test_wrong_tracks_are_refused(frames: list[Frame]) -> None:
    with pytest.raises(InvalidRequest, match="no camera track"):
        choose_track(frames, {})
    with pytest.raises(InvalidRequest, match="4 frames need"):
        choose_track(frames, {"a": np.eye(4)[None]})
