"""Engine truth: exact frames, noise of the promised spread, scores that can be trusted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from worldloom.generator.engines import load_engine
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.truth import measure
from worldloom.generator.truth.model import TruthModel
from worldloom.generator.truth.noise import DRIFT_FRAMES, frame_noise
from worldloom.generator.truth.opening import named_scene, open_truth, walkthrough_path
from worldloom.generator.truth.render import depth_view, render_view
from worldloom.generator.truth.scene import scene
from worldloom.generator.truth.surface import mesh
from worldloom.generator.truth.trial import Trial
from worldloom.generator.truth.walk import walkthrough
from worldloom.scene.errors import InvalidRequest, JobCancelled
from worldloom.scene.limits import Limits
from worldloom.scene.mesh import TriMesh
from worldloom.scene.request import WorldRequest

SIZE = (104, 60)


def test_the_model_gives_every_frame_and_remembers_the_keyframes():
    place = scene("corridor")
    cameras = walkthrough(place, 81, size=SIZE).select(slice(1, 25))
    cache, seen = FrameCache(), []
    keyframes = TruthModel(place, SIZE).chunk(cameras, cache, on_frame=seen.append)
    assert [f.frame_id for f in seen] == list(range(1, 25))
    assert [f.frame_id for f in keyframes] == [8, 16, 24]
    at = cameras.frame_id == 16
    np.testing.assert_array_equal(
        keyframes[1].depth, depth_view(place, cameras.c2w[at][0], cameras.K[0], SIZE)
    )
    assert (keyframes[1].origin == 1).all()
    assert cache.retrieve(cameras.c2w[at][0], cameras.K[0], SIZE)


def test_the_model_stops_when_it_is_told_to():
    cameras = walkthrough(scene("room"), 81, size=SIZE).select(slice(1, 9))
    with pytest.raises(JobCancelled, match="finished chunks are kept"):
        TruthModel(scene("room"), SIZE).chunk(cameras, FrameCache(), cancelled=lambda: True)


def test_opening_gives_a_level_metric_seed():
    request = WorldRequest("truth", walkthrough_path("street", 81), scene="street")
    opening = open_truth(request, {}, load_engine("truth").qualities["draft"], Limits())
    seed = opening.seed
    assert seed.rgb.shape == (240, 416, 3)
    assert seed.scale["status"] == "calibrated"
    assert seed.sky.any()
    assert (seed.depth[seed.sky] == 0).all()
    assert 0.1 < seed.floor.mean() < 0.9
    assert seed.c2w[2, 3] == pytest.approx(1.2)
    np.testing.assert_array_equal(opening.model.first().depth, seed.depth)


def test_names_carry_the_noise_preset():
    assert named_scene("room-drift")[1] == "drift"
    assert named_scene("two_rooms")[1] == "exact"
    with pytest.raises(InvalidRequest, match="use room-noisy or room-drift"):
        named_scene("room-foggy")


def test_noisy_has_the_spread_of_the_architecture_page():
    draws = [frame_noise("noisy", 0, k, SIZE) for k in range(300)]
    fields = np.stack([d.field for d in draws])
    assert fields.std() == pytest.approx(1, abs=0.06)
    assert fields.mean() == pytest.approx(0, abs=0.06)
    # The same everywhere: the borders are no smoother than the middle.
    assert fields[:, 0, 0].std() == pytest.approx(fields[:, 30, 52].std(), rel=0.2)
    # A field smoothed with sigma s is correlated as exp(-d^2 / 4 s^2); s = W / 8 = 13 pixels.
    near = np.mean(fields[:, 30, 40] * fields[:, 30, 66])
    assert near == pytest.approx(np.exp(-(26**2) / (4 * 13**2)), abs=0.15)
    poses = np.stack([d.pose(np.eye(4)) for d in draws])
    assert poses[:, :3, 3].std(0) == pytest.approx([0.01] * 3, rel=0.15)
    turns = np.degrees(poses[:, [2, 0, 1], [1, 2, 0]])
    assert turns.std(0) == pytest.approx([1.0] * 3, rel=0.15)
    half = np.full((60, 104, 3), 0.5, np.float32)
    assert np.std([d.rgb(half).mean() for d in draws]) == pytest.approx(0.025, rel=0.15)
    depth = np.full((60, 104), 2.0, np.float32)
    assert np.stack([d.depth(depth) for d in draws]).std() == pytest.approx(0.06, rel=0.06)


def test_drift_spreads_as_far_as_noisy_after_eighty_frames():
    ends = [frame_noise("drift", seed, DRIFT_FRAMES, SIZE) for seed in range(60)]
    assert np.std([e.centre for e in ends]) == pytest.approx(1, abs=0.25)
    assert np.std([e.field for e in ends]) == pytest.approx(1, abs=0.15)
    walk = [frame_noise("drift", 3, k, SIZE).centre for k in range(0, 40)]
    assert (walk[0] == 0).all()
    assert np.abs(np.diff(walk, axis=0)).max() < 0.5
    step = frame_noise("drift", 3, 39, SIZE).field - frame_noise("drift", 3, 38, SIZE).field
    assert step.std() < 0.3


def test_noise_depends_on_seed_and_frame_alone():
    first, again, other = (frame_noise("noisy", s, 7, SIZE).field for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.5
    assert frame_noise("exact", 1, 7, SIZE) is None


@pytest.fixture(scope="module")
def corridor():
    place = scene("corridor")
    return place, mesh(place), measure.keyframes_of(walkthrough(place))


def test_the_true_surface_scores_one(corridor):
    place, surface, witnesses = corridor
    score = measure.score_collider(place, surface, surface, witnesses, reach_m=20.0)
    assert score.f_score > 0.999
    assert score.accuracy_m < 1e-3
    assert score.completeness_m < 0.012
    assert 50 < score.seen_m2 < surface.areas().sum()


def test_a_shifted_a_torn_and_a_padded_surface_score_less(corridor):
    place, surface, witnesses = corridor
    moved = replace(surface, vertices=surface.vertices + np.float32([0, 0, 0.08]))
    score = measure.score_collider(place, surface, moved, witnesses, reach_m=20.0)
    assert score.accurate < 0.9
    floor = surface.corners()[:, :, 2].max(1) < 0.01
    torn = measure.score_collider(
        place, surface, surface.select_faces(~floor), witnesses, reach_m=20.0
    )
    assert torn.accurate > 0.999
    assert torn.complete < 0.9
    ghost = TriMesh(np.float32([[1, -0.5, 1], [3, -0.5, 1], [3, 0.5, 1.2]]), np.int32([[0, 1, 2]]))
    padded = measure.score_collider(
        place, surface, TriMesh.concat([surface, ghost]), witnesses, reach_m=20.0
    )
    assert padded.accurate < 0.997
    assert padded.complete > 0.999


def test_exact_pictures_and_depths_score_best(corridor):
    place, _, witnesses = corridor
    cameras = walkthrough(place)
    views = measure.held_out(cameras).select([3]).scaled(208, 120)
    on, off = (measure.truth_views(place, c) for c in (views, measure.off_path(place, views)))

    def exact(c2w, K, size):
        return render_view(place, c2w, K, size).rgb

    def darker(c2w, K, size):
        return exact(c2w, K, size) - 0.1

    best = measure.score_pictures(place, exact, on, off, witnesses)
    worse = measure.score_pictures(place, darker, on, off, witnesses)
    assert best.seen_db == best.off_path_db == 100
    assert worse.whole_db == pytest.approx(20, abs=0.2)
    assert 0.8 < best.seen_share <= 1
    some = witnesses.select([0, 5])
    depth = np.stack([depth_view(place, some.c2w[k], some.K[k], (416, 240)) for k in range(2)])
    exact_depth = measure.score_depth(place, depth, some.K, some)
    assert exact_depth.abs_rel == 0
    off_depth = measure.score_depth(place, depth * 1.1, some.K, some)
    assert off_depth.abs_rel == pytest.approx(0.1, abs=1e-5)
    assert off_depth.within_5_percent == 0


def test_views_off_the_path_are_moved_and_turned_and_stay_free():
    for name in ("corridor", "street"):
        place = scene(name)
        views = measure.held_out(walkthrough(place))
        beside = measure.off_path(place, views)
        away = np.linalg.norm(beside.centres - views.centres, axis=1)
        assert away == pytest.approx([0.3] * views.n)
        turn = np.einsum("nij,nij->n", views.c2w[:, :3, :3], beside.c2w[:, :3, :3])
        assert np.degrees(np.arccos((turn - 1) / 2)) == pytest.approx([10.0] * views.n)


def test_points_behind_a_wall_were_not_seen(corridor):
    place, _, witnesses = corridor
    photo = witnesses.select([0])
    points = np.array([[3.0, 0.8, 1.2], [6.2, 5.0, 0.0], [-0.9, 0.0, 0.0]])
    assert measure.seen_points(place, points, photo).tolist() == [True, False, False]
    assert not measure.seen_points(place, points, photo, reach_m=1.0).any()


def test_the_photo_of_row_b_is_the_scene(tmp_path: Path):
    trial = Trial("room", frames=81, quality="draft")
    request, inputs = trial.request("B", tmp_path)
    request.check(Limits(), ("preview", "truth"))
    assert set(inputs) == {"photo", "depth"}
    assert np.load(inputs["depth"]).shape == (480, 832)
    assert request.scale.camera_height_m == 1.2
