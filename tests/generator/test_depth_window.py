"""The depth network's windows, and the guards that keep its scale when the camera gives none."""

import numpy as np
import pytest
import torch

from worldloom.generator.video.lyra import depth_align as align
from worldloom.generator.video.lyra import depth_window as window
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import invert_rigid, rigid, rotation_about

FRAMES = [80, 88, 96, 104, 112, 120, 128, 136, 144, 152, 160]
SCALE = 1.7  # Network units in one unit of the run.
SIZE = (24, 32)


def walk(step=0.1, turn_deg=1.0, n=11):
    """World to camera of a camera that goes sideways and turns."""
    at = np.arange(n)
    turn = rotation_about([0, 1, 0], np.radians(turn_deg) * at)
    centres = step * np.stack([at, 0.2 * np.sin(at), 0.1 * at**1.5], -1)
    return invert_rigid(rigid(turn, centres))


def as_predicted(w2c, *, noise=0.0, scale=SCALE):
    """The same cameras in the network's frame and units."""
    rng = np.random.default_rng(5)
    other = rigid(rotation_about([1, 2, 3], 0.7), [1.0, -2, 0.5])
    c2w = other @ invert_rigid(w2c)
    c2w[:, :3, 3] = scale * c2w[:, :3, 3] + noise * rng.standard_normal((len(w2c), 3))
    return invert_rigid(c2w)


def depths(n=11):
    """Depth of each frame in the run's units."""
    rng = np.random.default_rng(3)
    return 2 + rng.random((n, *SIZE))


def known(depth, count=2):
    return dict(zip(FRAMES[:count], depth, strict=False))


def test_the_released_windows():
    assert window.SCRIPT_WINDOW.frames(160) == list(range(88, 161, 8))
    assert window.SCRIPT_WINDOW.frames(40) == [0, 8, 16, 24, 32, 40]
    gui = window.GUI_WINDOW.frames(240)
    assert (gui[:3], gui[-1], len(gui)) == ([0, 80, 84], 240, 42)


def test_a_window_shares_the_newest_known_frames():
    cached = list(range(0, 81, 8))
    frames = window.depth_frames(window.SCRIPT_WINDOW, 160, cached=cached)
    assert frames == [72, 80, *range(88, 161, 8)]
    assert window.with_overlap([72, 80, 88], cached) == [72, 80, 88]
    assert window.with_overlap([88, 96], [0, -3]) == [0, 88, 96]
    assert window.with_overlap([88, 96], []) == [88, 96]
    quirky = window.depth_frames(
        window.SCRIPT_WINDOW, 160, cached=cached, real_frames=131, reference_quirks=True
    )
    assert quirky == list(range(88, 161, 8))


def test_padding_never_becomes_history():
    assert window.last_real_frame(160, None) == 160
    assert window.last_real_frame(160, 131) == 130
    frames = window.depth_frames(window.SCRIPT_WINDOW, 160, cached=[80], real_frames=131)
    assert max(frames) == 130
    assert window.new_entries([80, 88, 90, 136], [80], real_frames=131) == [88]
    assert window.new_entries([80, 88, 90, 136], [80]) == [88, 136]


def test_pictures_are_clamped_and_rounded():
    pixels = torch.tensor([-1.5, -1.0, 0.0, 1.0, 1.2]).expand(3, 1, 5)
    assert window.to_uint8(pixels)[0, :, 0].tolist() == [0, 0, 128, 255, 255]
    assert window.to_uint8(np.full((3, 2, 4), np.nan)).shape == (2, 4, 3)


def test_network_sizes_are_the_released_ones():
    assert window.network_size(480, 832) == (476, 826)
    assert window.network_size(448, 768) == (448, 770)
    assert window.fallback_intrinsics(480, 832)[0].tolist() == [1248.0, 0.0, 416.0]


def test_the_first_depth_takes_the_second_networks_scale():
    depth = depths(1)[0]
    other = depth / 2.5
    other[:4] = 1000.0
    assert window.seed_scale(depth, other) == pytest.approx(2.5, rel=1e-4)
    assert window.seed_scale(depth, np.full(SIZE, np.nan)) == 1.0


def test_holes_of_a_depth_are_named():
    depth, valid = window.usable_depth([1.0, np.nan, np.inf, -np.inf, 0.0, -2.0, 2e4])
    assert valid.tolist() == [True, False, False, False, False, False, False]
    assert depth.tolist() == [1.0, 0, 0, 0, 0, 0, 0]
    depth, valid = window.usable_depth([1.0, np.nan, -2.0, 2e4], reference_quirks=True)
    assert depth.tolist() == [1.0, 1e4, 0.0, 1e4]
    assert valid.tolist() == [True, False, True, False]


def test_a_moving_camera_gives_the_scale_of_its_centres():
    w2c, depth = walk(), depths()
    for quirks in (False, True):
        found = align.window_scale(
            FRAMES, w2c, as_predicted(w2c), SCALE * depth, known(depth), reference_quirks=quirks
        )
        assert found.value == pytest.approx(SCALE, rel=1e-6)
        assert (found.source, found.bounded) == ("poses", False)
    ours, valid = align.in_run_units(SCALE * depth, found)
    np.testing.assert_allclose(ours, depth)
    assert valid.all()


def test_outliers_do_not_move_the_scale():
    w2c = walk()
    predicted = as_predicted(w2c, noise=0.002)
    predicted[4, :3, 3] += 1.0
    assert align.pose_scale(w2c, predicted) == pytest.approx(SCALE, rel=0.02)


@pytest.mark.parametrize("step", [0.0, 1e-6, 1e-4])
def test_a_turning_or_hardly_moving_camera_takes_the_scale_of_known_depth(step):
    w2c, depth = walk(step=step), depths()
    predicted = as_predicted(w2c, noise=0.01)
    found = align.window_scale(FRAMES, w2c, predicted, SCALE * depth, known(depth))
    assert found.value == pytest.approx(SCALE, rel=1e-9)
    assert found.source == "overlap"
    released = align.window_scale(
        FRAMES, w2c, predicted, SCALE * depth, known(depth), reference_quirks=True
    )
    assert not 0.5 < released.value / SCALE < 2


def test_without_overlap_the_last_scale_goes_on():
    w2c, depth = walk(step=0.0), depths()
    elsewhere = {0: depth[0]}
    ask = (FRAMES, w2c, as_predicted(w2c, noise=0.01), SCALE * depth)
    assert align.window_scale(*ask, elsewhere, running=1.6) == align.WindowScale(1.6, "running")
    assert align.window_scale(*ask, {}) == align.WindowScale(1.0, "network")


def test_a_scale_may_only_differ_by_a_factor_of_two():
    w2c, depth = walk(), depths()
    wrong = as_predicted(w2c, scale=10 * SCALE)
    found = align.window_scale(FRAMES, w2c, wrong, SCALE * depth, known(depth))
    assert found == align.WindowScale(pytest.approx(2 * SCALE), "poses", bounded=True)
    still = walk(step=0.0)
    jump = align.window_scale(
        FRAMES, still, as_predicted(still), SCALE * depth, known(depth), running=SCALE / 5
    )
    assert jump == align.WindowScale(pytest.approx(2 * SCALE / 5), "overlap", bounded=True)


def test_invalid_pixels_do_not_count():
    w2c, depth = walk(step=0.0), depths()
    seen, network = known(depth.copy()), SCALE * depth
    network[:, :6], network[:, 6:8], network[:, 8:10] = np.nan, 0.0, np.inf
    for old in seen.values():
        old[10:12] = -1.0
    found = align.window_scale(FRAMES, w2c, as_predicted(w2c), network, seen)
    assert (found.value, found.source) == (pytest.approx(SCALE), "overlap")
    empty = np.full_like(depth, np.nan)
    lost = align.window_scale(FRAMES, walk(), as_predicted(walk()), empty, seen, running=1.5)
    assert lost == align.WindowScale(1.5, "running")
    assert align.overlap_scale({80: empty[0]}, seen) is None


def test_predicted_poses_hang_on_the_anchor_in_run_units():
    frames = [0, 8, 16, 24]
    w2c, depth = walk(n=4), depths(4)
    start = invert_rigid(rigid(rotation_about([0, 1, 0], 0.3), [1.0, 0, 2]))
    given = w2c @ start
    for quirks in (False, True):
        got = align.predicted_poses(
            frames, given, as_predicted(given), SCALE * depth, {0: depth[0]}, anchor=0,
            reference_quirks=quirks,
        )  # fmt: skip
        assert got.scale.value == pytest.approx(SCALE)
        np.testing.assert_allclose(got.w2c, given, atol=1e-9)


def test_a_continuation_measures_the_history_only():
    frames = [0, 8, 16, 24]
    given, depth = walk(n=4), depths(4)
    planned = given.copy()
    planned[3, :3, 3] += 5.0
    got = align.predicted_poses(
        frames, planned, as_predicted(given), SCALE * depth, {}, anchor=16
    )
    assert got.scale == align.WindowScale(pytest.approx(SCALE), "poses")
    np.testing.assert_allclose(got.w2c, given, atol=1e-9)


@pytest.mark.parametrize(("step", "noise"), [(0.0, 0.001), (0.0, 0.1), (1e-4, 0.1), (1e-4, 0.0)])
def test_predicted_poses_of_a_hardly_moving_camera_take_the_scale_of_known_depth(step, noise):
    frames = [0, 8, 16, 24]
    given, depth = walk(step=step, n=4), depths(4)
    ask = (frames, given, as_predicted(given, noise=noise), SCALE * depth, {0: depth[0]})
    got = align.predicted_poses(*ask, anchor=0)
    assert got.scale == align.WindowScale(pytest.approx(SCALE), "overlap")
    assert np.abs(invert_rigid(got.w2c)[:, :3, 3]).max() < 4 * noise + 0.01


def test_predicted_poses_without_a_way_or_an_anchor_are_refused():
    frames = [0, 8, 16, 24]
    given, depth = walk(step=0.0, n=4), depths(4)
    ask = (frames, given, as_predicted(given, noise=0.001), SCALE * depth, {0: depth[0]})
    with pytest.raises(EngineFailed, match="their scale is unknown"):
        align.predicted_poses(*ask, anchor=0, reference_quirks=True)
    with pytest.raises(EngineFailed, match="frame 80, which the predicted poses hang on"):
        align.predicted_poses(*ask, anchor=80)


def test_the_released_offsets_are_tiny_and_only_for_still_cameras():
    moving, still = walk(), walk(step=0.0)
    np.testing.assert_array_equal(align.spread_centres(moving), moving)
    moved = invert_rigid(align.spread_centres(still))[:, :3, 3]
    np.testing.assert_allclose(moved[0], [0, 1e-6, 0], atol=1e-15)
    assert np.ptp(moved, axis=0).max() < 1e-9
    with pytest.raises(EngineFailed, match="11 camera centres coincide"):
        align.umeyama(np.zeros((11, 3)), moved)
