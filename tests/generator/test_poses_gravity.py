"""Up, the floor and the scale from the frames of a walk, exact, noisy and bad."""

from dataclasses import replace

import numpy as np
import pytest

from worldloom.generator.poses import scale as scales
from worldloom.generator.poses.gravity import camera_up, estimate_up
from worldloom.generator.poses.similarity import Similarity
from worldloom.generator.truth.measure import keyframes_of
from worldloom.generator.truth.noise import frame_noise
from worldloom.generator.truth.render import depth_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.walk import walkthrough
from worldloom.generator.video.frame import Frame
from worldloom.scene.errors import InvalidRequest

SIZE = (208, 120)
MOVED = Similarity.exp([3.0, 2.0, 1.0, 0.7, -0.4, 1.1, np.log(2.7)])
"""The world that the frames are given in: neither level nor in metres."""


@pytest.fixture(scope="module")
def walk():
    place = scene("corridor")
    cameras = keyframes_of(walkthrough(place, size=SIZE))
    frames = []
    for i in range(cameras.n):
        depth = depth_view(place, cameras.c2w[i], cameras.K[i], SIZE)
        rgb, origin = np.zeros((*depth.shape, 3), np.float32), np.ones(depth.shape, np.uint8)
        number = int(cameras.frame_id[i])
        frames.append(Frame(number, rgb, depth, origin, cameras.c2w[i], cameras.K[i]))
    return frames


def moved(frames):
    return [
        replace(f, c2w=MOVED.apply_cameras(f.c2w), depth=MOVED.apply_depth(f.depth)) for f in frames
    ]


def with_noise(frames, seed):
    out = []
    for f in frames:
        error = frame_noise("noisy", seed, f.frame_id, SIZE)
        c2w = f.c2w if f.frame_id == 0 else error.pose(f.c2w)
        out.append(replace(f, depth=error.depth(f.depth), c2w=c2w))
    return out


def errors(frames):
    """Angle of up [degrees] and relative error of the scale with the camera height told."""
    frames = moved(frames)
    up = estimate_up(frames)
    angle = np.degrees(np.arccos(np.clip(MOVED.R[:, 2] @ up.direction, -1, 1)))
    told = scales.camera_height_evidence(up, frames[0].c2w[:3, 3], 1.2)
    return angle, abs(told.value * MOVED.scale - 1)


def test_exact_frames_give_up_and_scale(walk):
    angle, scale = errors(walk)
    assert angle <= 0.2
    assert scale <= 0.01


def test_noisy_frames_give_up_and_scale(walk):
    found = np.array([errors(with_noise(walk, seed)) for seed in range(5)])
    assert np.median(found[:, 0]) <= 0.5
    assert np.median(found[:, 1]) <= 0.03


def test_one_frame_knows_less_than_many(walk):
    frames = with_noise(walk, 0)
    assert estimate_up(frames[1:2]).sigma_deg > estimate_up(frames).sigma_deg


def test_a_camera_that_only_turns_finds_the_floor(walk):
    place, still = scene("corridor"), []
    for f in walk[:8]:
        c2w = f.c2w.copy()
        c2w[:3, 3] = walk[0].c2w[:3, 3]
        still.append(replace(f, c2w=c2w, depth=depth_view(place, c2w, f.K, SIZE)))
    up = estimate_up(still)
    assert up.direction[2] > np.cos(np.radians(0.2))
    assert up.floor.height(still[0].c2w[:3, 3]) == pytest.approx(1.2, rel=0.01)


def test_a_principal_point_off_centre_is_honoured(walk):
    cut = []
    for f in walk:
        K = f.K.copy()
        K[0, 2] -= 60
        cut.append(replace(f, depth=f.depth[:, 60:], rgb=f.rgb[:, 60:], K=K))
    angle, scale = errors(cut)
    assert angle <= 0.2
    assert scale <= 0.01


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -1.0])
def test_frames_without_depth_leave_up_to_the_cameras(walk, value):
    blind = [replace(f, depth=np.full_like(f.depth, value)) for f in walk]
    up = estimate_up(blind)
    assert up.floor is None
    assert up.sigma_deg >= 5
    assert np.isfinite(up.direction).all()
    assert scales.camera_height_evidence(up, walk[0].c2w[:3, 3], 1.2) is None


def test_holes_of_nan_do_not_spread(walk):
    frames = []
    for f in walk:
        depth = f.depth.copy()
        depth[::7] = np.nan
        frames.append(replace(f, depth=depth))
    assert errors(frames)[0] <= 0.5


def test_nothing_below_the_horizon_is_no_floor(walk):
    high = []
    for f in walk:
        depth = f.depth.copy()
        depth[f.depth.shape[0] // 4 :] = 0
        high.append(replace(f, depth=depth))
    up = estimate_up(high)
    assert np.isfinite(up.direction).all()
    assert np.isfinite(up.sigma_deg)


def test_no_frames_and_broken_cameras_are_refused(walk):
    with pytest.raises(InvalidRequest, match="0 frames"):
        estimate_up([])
    with pytest.raises(InvalidRequest, match="frame 8 has a number"):
        estimate_up([walk[0], replace(walk[1], c2w=walk[1].c2w * np.nan)])
    with pytest.raises(InvalidRequest, match="cancel out"):
        camera_up([np.eye(4), np.diag([1.0, -1.0, -1.0, 1.0])])


def test_the_best_kind_of_evidence_decides():
    told = scales.Evidence("camera-height", 1.3, 0.02, "told")
    sensor = scales.Evidence("supplied-depth", 1.31, 0.01, "measured")
    network = scales.Evidence("network", 1.5, 0.08, "network")
    habit = scales.Evidence("habit", 1.2, 0.3, "prior")
    joined = scales.fuse([told, sensor, network, habit])
    assert joined.status == "calibrated"
    assert 1.3 < joined.value < 1.31
    assert joined.sigma < 0.01
    assert scales.fuse([told]).value == pytest.approx(1.3)
    assert scales.fuse([network]).status == "estimated"
    assert scales.fuse([habit]).status == "unknown"
    assert scales.fuse([habit, replace(habit, value=1.4)]).status == "estimated"
    assert scales.fuse([]).status == "unknown"


def test_contradictions_widen_sigma_and_keep_the_users_word():
    told = scales.Evidence("camera-height", 1.3, 0.02, "told")
    sensor = scales.Evidence("supplied-depth", 1.0, 0.01, "measured")
    assert scales.fuse([sensor, told]).value == 1.3
    other = replace(told, name="pixel-distance", value=2.0, sigma=0.04)
    both = scales.fuse([told, other])
    assert both.value == 1.3
    assert both.sigma > 0.2


def test_later_evidence_changes_sigma_and_status_only():
    first = scales.fuse([scales.Evidence("habit", 1.2, 0.3, "prior")])
    later = scales.with_later(first, [scales.Evidence("network", 1.26, 0.08, "network")])
    assert later.value == first.value
    assert later.status == "estimated"
    assert 0.05 < later.sigma < first.sigma


@pytest.mark.parametrize(("value", "sigma"), [(np.nan, 0.1), (0.0, 0.1), (1.0, np.inf)])
def test_impossible_evidence_is_refused_by_name(value, sigma):
    with pytest.raises(InvalidRequest, match="'tape'"):
        scales.fuse([scales.Evidence("tape", value, sigma, "told")])


def test_metric_depth_gives_the_median_ratio(walk):
    frames = moved(walk[:4])
    metric = [f.depth.copy() for f in walk[:4]]
    metric[2][:10] = np.nan
    found = scales.depth_ratio_evidence(frames, metric, name="net")
    assert found.value * MOVED.scale == pytest.approx(1, rel=1e-4)
    blank = [np.zeros_like(m) for m in metric]
    assert scales.depth_ratio_evidence(frames, blank, name="net") is None


def test_the_record_is_the_same_every_time(walk):
    up = estimate_up(walk)
    told = scales.camera_height_evidence(up, walk[0].c2w[:3, 3], 1.2)
    records = [scales.scale_record(scales.fuse([told]), [0, -1, 0], 0.1) for _ in range(2)]
    assert records[0] == records[1]
    assert set(records[0]) == {
        "schema", "value", "sigma", "sources", "status", "up_in_photo_camera", "level_rms_deg",
    }  # fmt: skip
