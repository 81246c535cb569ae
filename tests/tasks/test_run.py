"""Dataset -> raw logs -> scores: endings, resume, bad policies, failing simulators, agreement."""

import importlib.util
import itertools
import json
import math
import shutil
import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("pxr")


from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.tasks import run as run_module
from worldloom.tasks import score as score_module
from worldloom.tasks.dataset import make_dataset, open_dataset
from worldloom.tasks.ending import EndWatch, Limits
from worldloom.tasks.episodes import Sampling
from worldloom.tasks.geodesic import DistanceField, FloorGraph
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.observed import Observer
from worldloom.tasks.policies import POLICIES, TaskInfo, load_policy, steer
from worldloom.tasks.robots import load_robot
from worldloom.tasks.run import EpisodeLog, read_log, run_dataset
from worldloom.tasks.score import score_episode, score_run
from worldloom.tasks.sim_base import State
from worldloom.tasks.world import open_navworld

ROBOT = load_robot("jetbot_body")
LIMITS = Limits(
    dwell_s=0.5, stop_speed=0.05, stop_yaw_rate=0.1, max_time_s=30.0, stuck_window_s=10.0,
    stuck_distance=0.1, fall_tilt_rad=math.radians(45), fall_drop=0.3, max_collisions=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def dataset(world_folder, tmp_path_factory):
    world = open_navworld(world_folder)
    grid = build_navgrid(
        world.collider, ROBOT, params=GridParams(0.05, 1.0), observer=Observer(world.keyframes),
        collider_sha256=world.collider_sha256,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("data") / "set"
    sampling = Sampling((1.0, 6.0), None, min_island_area=1.0, success_radius=0.15)
    make_dataset(folder, world, grid, ROBOT, name="rooms", count=8, sampling=sampling, seed=3)
    return folder


@pytest.fixture(scope="module")
def oracle_run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "oracle"
    run_dataset(dataset, policy="oracle", backend="kinematic", out=out)
    return out


def state(t, *, x=0.0, z=0.0, v=0.0, w=0.0, contact=False, tilt=0.0):
    pose = np.array([x, 0, z, math.cos(tilt / 2), math.sin(tilt / 2), 0, 0])
    return State(t, pose, np.array([v, 0, 0, 0, 0, w]), contact)


def ending(states, command=(0.2, 0.0)):
    watch = EndWatch(LIMITS)
    for s in states:
        if (reason := watch.look(s, command)) is not None:
            return reason, s.t
    return None, None


def test_a_stop_takes_half_a_second_of_commanded_stillness():
    times = np.arange(1, 20) / 10
    assert ending([state(t) for t in times], (0.0, 0.0)) == ("stop", pytest.approx(0.6))
    assert ending([state(t) for t in times], (0.0, 0.3)) == (None, None)
    assert ending([state(t, v=0.2) for t in times], (0.0, 0.0)) == (None, None)


def test_pushing_against_a_wall_is_stuck_and_not_a_stop():
    assert ending([state(k / 10, contact=True) for k in range(1, 200)])[0] == "stuck"


def test_a_fall_is_seen_by_drop_and_by_tilt_but_not_on_a_ramp():
    assert ending([state(k / 10, x=k, z=-0.1 * k, v=1) for k in range(1, 9)])[0] == "fall"
    assert ending([state(k / 10, x=k, v=1, tilt=0.9) for k in range(1, 9)])[0] == "fall"
    ramp = [state(k / 10, x=k, z=-0.0134 * k, v=0.5) for k in range(1, 99)]
    assert ending(ramp) == (None, None)


def test_time_runs_out_and_collisions_are_counted_as_events():
    moving = [state(k / 10, x=k, v=0.2) for k in range(1, 400)]
    assert ending(moving) == ("timeout", pytest.approx(30.0))
    touching = [state(k / 10, x=k, v=0.2, contact=k % 20 < 3) for k in range(1, 100)]
    assert ending(touching)[0] == "collision_limit"
    flicker = [state(k / 10, x=k, v=0.2, contact=10 < k < 50 and k % 2 == 0) for k in range(1, 99)]
    assert ending(flicker) == (None, None)


def test_the_oracle_reaches_every_goal(oracle_run):
    summary = score_run(oracle_run)
    measures = summary["measures"]
    assert measures["success"]["mean"] == 1.0
    assert measures["spl"]["mean"] > 0.9
    assert measures["collisions"]["mean"] == 0.0
    assert summary["end_reasons"] == {"success": 8}


def test_scores_recomputed_from_the_logs_are_the_same_bytes(oracle_run, tmp_path):
    score_run(oracle_run)
    files = ("results.jsonl", "results.csv", "summary.json")
    before = [(oracle_run / name).read_bytes() for name in files]
    score_run(oracle_run)
    assert [(oracle_run / name).read_bytes() for name in files] == before


def test_a_rerun_writes_the_same_trajectories_and_events(dataset, oracle_run, tmp_path):
    again = run_dataset(dataset, policy="oracle", backend="kinematic", out=tmp_path / "again")
    names = sorted(p.name for p in (oracle_run / "trajectories").iterdir())
    assert names == sorted(p.name for p in (again / "trajectories").iterdir())
    for name in [*(f"trajectories/{n}" for n in names), "events.jsonl"]:
        assert (again / name).read_bytes() == (oracle_run / name).read_bytes()
    score_run(oracle_run)
    score_run(again)
    assert (again / "results.jsonl").read_bytes() == (oracle_run / "results.jsonl").read_bytes()


def test_a_resumed_run_drives_only_what_is_left_and_ends_the_same(dataset, oracle_run, tmp_path):
    out = tmp_path / "resumed"
    shutil.copytree(oracle_run, out)
    files = sorted((out / "trajectories").iterdir())
    for file in files[5:]:
        file.unlink()
    driven = []
    run_dataset(
        dataset, policy="oracle", backend="kinematic", out=out,
        on_episode=lambda number, total, episode, log: driven.append((number, total)),
    )  # fmt: skip
    assert driven == [(6, 8), (7, 8), (8, 8)]
    for file in files:
        original = oracle_run / "trajectories" / file.name
        assert file.read_bytes() == original.read_bytes()


def test_another_policy_in_the_same_folder_is_refused(dataset, oracle_run):
    with pytest.raises(InvalidRequest, match="another policy"):
        run_dataset(dataset, policy="forward", backend="kinematic", out=oracle_run)


def test_unknown_policies_and_backends_are_named(dataset, tmp_path):
    with pytest.raises(InvalidRequest, match="shipped are oracle"):
        run_dataset(dataset, policy="orakel", backend="kinematic", out=tmp_path / "a")
    with pytest.raises(InvalidRequest, match="cannot be loaded"):
        run_dataset(dataset, policy="no_module:X", backend="kinematic", out=tmp_path / "b")
    with pytest.raises(InvalidRequest, match="unknown backend"):
        run_dataset(dataset, policy="oracle", backend="gazebo", out=tmp_path / "c")
    with pytest.raises(InvalidRequest, match="is no run"):
        score_run(tmp_path)


class Bad:
    """A policy that answers something else each time."""

    answers = ()

    def __init__(self):
        self.calls = 0

    def reset(self, task):
        self.calls = 0

    def act(self, observation):
        self.calls += 1
        answer = self.answers[min(self.calls, len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self):
        pass


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (RuntimeError("boom <b>"), "RuntimeError: boom <b>"),
        ((math.nan, 0.0), "must be finite"),
        ((0.1, math.inf), "must be finite"),
        ((0.1,), "not speed and turn rate"),
        (None, "not speed and turn rate"),
        ("ab", "not speed and turn rate"),
        (np.zeros((2, 2)), "not speed and turn rate"),
    ],
)
def test_a_bad_policy_fails_its_episodes_and_the_run_goes_on(
    dataset, tmp_path, monkeypatch, answer, text
):
    module = types.ModuleType("bad_policy")
    module.Policy = type("Policy", (Bad,), {"answers": ((0.1, 0.0), (0.1, 0.0), answer)})
    monkeypatch.setitem(sys.modules, "bad_policy", module)
    out = run_dataset(
        dataset, policy="bad_policy:Policy", backend="kinematic", out=tmp_path / "run", limit=2
    )
    summary = score_run(out)
    assert summary["end_reasons"] == {"policy_error": 2}
    assert summary["measures"]["success"]["mean"] == 0.0
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert all(text in row["detail"] for row in rows)
    assert all(row["path_length"] > 0 for row in rows)


class Flaky:
    """A simulator that fails on some resets."""

    dt_control = 0.1
    made = 0

    def __init__(self, fails):
        self.fails = fails
        type(self).made += 1

    def reset(self, episode):
        if self.fails(episode):
            raise EngineFailed("the engine fell over")
        self.t = 0.0
        return state(0.0)

    def step(self, v, w):
        self.t += 1.0
        return state(self.t, x=self.t, v=v)

    def close(self):
        pass


def test_a_simulator_error_is_listed_and_not_scored(dataset, tmp_path, monkeypatch):
    first = open_dataset(dataset).episodes("test")[0].id
    Flaky.made = 0
    monkeypatch.setattr(
        run_module, "open_simulator", lambda data, backend: Flaky(lambda e: e.id == first)
    )
    out = run_dataset(dataset, policy="forward", backend="kinematic", out=tmp_path / "r", limit=3)
    summary = score_run(out)
    assert summary["excluded_sim_errors"] == [first]
    assert summary["measures"]["success"]["n"] == 2
    assert Flaky.made == 2
    assert "the engine fell over" in (out / "events.jsonl").read_text()


def test_a_run_gives_up_on_a_simulator_that_fails_three_times(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "open_simulator", lambda data, backend: Flaky(lambda e: True))
    with pytest.raises(EngineFailed, match="3 episodes in a row"):
        run_dataset(dataset, policy="forward", backend="kinematic", out=tmp_path / "r")


def test_the_baselines_do_what_they_say(dataset, tmp_path):
    data = open_dataset(dataset)
    episode = data.episodes("test")[0]
    task = TaskInfo(episode, data.robot, (FloorGraph(data.grid(), 0),))
    sight = {"pointgoal": np.array([1.0, 0.0]), "position": np.zeros(3), "yaw": 0.0}
    for name in POLICIES:
        policy = load_policy(name)
        policy.reset(task)
        first = [policy.act(sight) for _ in range(5)]
        policy.reset(task)
        assert [policy.act(sight) for _ in range(5)] == first, name
        assert all(abs(v) <= ROBOT.v_max and abs(w) <= ROBOT.w_max for v, w in first)
        policy.close()
    straight = load_policy("straight_line")
    straight.reset(task)
    assert straight.act(sight | {"pointgoal": np.array([0.01, 0.0])}) == (0.0, 0.0)


def test_steering_turns_first_and_brakes_for_the_goal():
    here = np.zeros(2)
    v, w = steer(here, 0.0, np.array([-1.0, 0.1]), 1.0, ROBOT)
    assert v == 0.0
    assert w > 0
    v, w = steer(here, 0.0, np.array([1.0, 0.0]), 5.0, ROBOT)
    assert v == pytest.approx(ROBOT.v_max)
    assert w == 0.0
    v, _ = steer(here, 0.0, np.array([1.0, 0.0]), 0.01, ROBOT)
    assert v <= math.sqrt(2 * ROBOT.a_max * 0.01)


def made_log(data, episode, *, reason, path, contact=None):
    """A log that walks along points [n 2] at 0.25 m/s."""
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    t = np.concatenate([[0.0], np.cumsum(steps) / 0.25])
    n = len(path)
    pose = np.zeros((n, 7))
    pose[:, :2], pose[:, 3] = path, 1.0
    return EpisodeLog(
        t=t, pose_xyz_wxyz=pose, twist=np.zeros((n, 6)), cmd=np.zeros((n, 2)),
        contact=np.zeros(n, bool) if contact is None else contact, impulse=np.zeros(n),
        penetration=np.zeros(n), end_reason=reason,
    )  # fmt: skip


def test_an_episode_is_scored_as_worked_out_by_hand(dataset):
    data = open_dataset(dataset)
    episode = data.episodes("test")[0]
    field = DistanceField(FloorGraph(data.grid(), 0), episode.goals[0].position[:2])
    reference = np.asarray(episode.reference_path)[:, :2]
    pieces = [np.linspace(a, b, 30)[:-1] for a, b in itertools.pairwise(reference)]
    way = np.concatenate([*pieces, reference[-1:]])
    length = float(np.linalg.norm(np.diff(reference, axis=0), axis=1).sum())
    reached = score_episode(episode, made_log(data, episode, reason="stop", path=way), field, data)
    assert reached["success"]
    assert reached["end_reason"] == "success"
    assert reached["spl"] == pytest.approx(episode.geodesic / max(length, episode.geodesic))
    assert reached["path_length"] == pytest.approx(length)
    assert reached["ndtw"] == pytest.approx(1.0, abs=0.02)
    assert reached["sct"] == pytest.approx(
        episode.reference_time / max(episode.reference_time, length / 0.25)
    )
    # The same way without a stop, and a stop half way: neither is a success.
    late = score_episode(episode, made_log(data, episode, reason="timeout", path=way), field, data)
    assert not late["success"]
    assert late["oracle_success"]
    assert late["end_reason"] == "timeout"
    half = way[: len(way) // 2]
    far = score_episode(episode, made_log(data, episode, reason="stop", path=half), field, data)
    assert not far["success"]
    assert far["end_reason"] == "stop_far"
    assert 0 < far["progress"] < 1
    assert far["spl"] == 0.0
    assert far["soft_spl"] > 0
    contact = np.zeros(len(way), bool)
    contact[10:12] = True
    hit = score_episode(
        episode, made_log(data, episode, reason="stop", path=way, contact=contact), field, data
    )
    assert hit["collisions"] == 1
    assert hit["success"]
    assert not hit["safe_success"]


def test_a_goal_behind_a_wall_is_not_reached(dataset):
    data = open_dataset(dataset)
    graph = FloorGraph(data.grid(), 0)
    episode = data.episodes("test")[0]
    # Both sides of the wall at x = 3 m, a hand's breadth apart in a straight line.
    goal = SimpleNamespace(position=(3.35, 1.0, 0.0), radius=0.8)
    behind = SimpleNamespace(**{**vars(episode), "goals": (goal,), "geodesic": 4.0})
    field = DistanceField(graph, goal.position[:2])
    path = np.array([[2.0, 1.0], [2.65, 1.0]])
    row = score_episode(behind, made_log(data, episode, reason="stop", path=path), field, data)
    assert not row["success"]
    assert not row["oracle_success"]
    assert row["final_distance"] > 3.0


def test_logs_say_how_long_things_took_apart_from_the_scores(oracle_run):
    lines = [json.loads(x) for x in (oracle_run / "timing.jsonl").read_text().splitlines()]
    assert len(lines) == 8
    assert all(line["latency_mean_ms"] >= 0 and line["real_time_factor"] > 1 for line in lines)
    log = read_log(next(iter(sorted((oracle_run / "trajectories").iterdir()))))
    assert log.end_reason == "stop"
    assert log.t[0] == 0.0
    assert "latency" not in (oracle_run / "results.jsonl").read_text()
    assert score_module.SUMMARY_SCHEMA in (oracle_run / "summary.json").read_text()


@pytest.mark.skipif(importlib.util.find_spec("ovphysx") is None, reason="ovphysx is not installed")
def test_the_oracle_drives_the_same_way_in_physx(dataset, oracle_run, tmp_path):
    out = run_dataset(dataset, policy="oracle", backend="physx", out=tmp_path / "px", limit=3)
    for file in sorted((out / "trajectories").iterdir()):
        ours, theirs = read_log(file), read_log(oracle_run / "trajectories" / file.name)
        assert ours.end_reason == theirs.end_reason == "stop"
        n = min(len(ours.t), len(theirs.t))
        apart = ours.pose_xyz_wxyz[:n, :2] - theirs.pose_xyz_wxyz[:n, :2]
        assert np.abs(apart).max() < 0.05
