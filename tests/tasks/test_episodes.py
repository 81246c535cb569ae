"""Episodes: filters as written, the same draw whatever the count, files that round-trip."""

import json
from dataclasses import replace

import numpy as np
import pytest

from worldloom.scene.errors import CorruptData, InvalidRequest
from worldloom.tasks.dataset import check_episodes
from worldloom.tasks.episodes import (
    Sampling,
    read_episodes,
    reference_time,
    sample_episodes,
    write_episodes,
)
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.robots import load_robot

ROBOT = load_robot("jetbot_body")
LOOSE = Sampling(geodesic=(1.0, 6.0), ratio_threshold=None, min_island_area=1.0)


@pytest.fixture(scope="module")
def grid(rooms):
    return build_navgrid(rooms, ROBOT, params=GridParams(0.05, 0.5))


@pytest.fixture(scope="module")
def drawn(grid):
    return sample_episodes(grid, "rooms", 40, sampling=LOOSE, seed=7)


def test_episode_i_does_not_depend_on_how_many_are_drawn(grid, drawn):
    few, _ = sample_episodes(grid, "rooms", 9, sampling=LOOSE, seed=7)
    assert few == drawn[0][:9]


def test_another_seed_or_world_gives_other_episodes(grid, drawn):
    for world, seed in (("rooms", 8), ("other", 7)):
        others, _ = sample_episodes(grid, world, 5, sampling=LOOSE, seed=seed)
        assert all(a.start != b.start for a, b in zip(others, drawn[0], strict=False))


def test_every_episode_keeps_the_filters(grid, drawn):
    episodes, tally = drawn
    assert len(episodes) == tally.kept == 40
    assert tally.tries == tally.kept + sum(tally.rejected.values())
    floor = grid.floors[0]
    for e in episodes:
        assert 1.0 <= e.geodesic <= 6.0
        assert e.geodesic >= e.euclid - 1e-9
        assert e.ratio == pytest.approx(e.geodesic / e.euclid)
        for place in (e.start.position, e.goals[0].position):
            room = float(grid.lookup(floor.clearance, place[:2], outside=0.0))
            assert room >= ROBOT.radius + LOOSE.min_clearance
            assert place[2] == pytest.approx(0.0, abs=1e-5)
        assert e.min_clearance >= ROBOT.radius
        assert e.reference_path[0] == e.start.position
        assert e.reference_path[-1] == e.goals[0].position
        assert -np.pi <= e.start.yaw <= np.pi


def test_the_ratio_filter_keeps_straight_ways_at_habitats_rate(grid):
    strict = replace(LOOSE, ratio_threshold=1.1)
    episodes, tally = sample_episodes(grid, "rooms", 60, sampling=strict, seed=3)
    assert tally.rejected["too straight"] > 0
    straight = [e for e in episodes if e.ratio < 1.1]
    loose, _ = sample_episodes(grid, "rooms", 60, sampling=LOOSE, seed=3)
    assert len(straight) < 0.5 * sum(e.ratio < 1.1 for e in loose)
    assert episodes
    assert any(e.turns for e in episodes)


def test_only_seen_floor_is_used_and_made_up_floor_is_tagged(grid, shapes):
    floor = grid.floors[0]
    half = np.zeros_like(floor.observed)
    half[:, : half.shape[1] // 2] = True
    made = replace(floor, made_up=half & floor.observed)
    episodes, _ = sample_episodes(
        replace(grid, floors=(made,)), "rooms", 40, sampling=LOOSE, seed=1
    )
    border = grid.origin_xy[0] + (half.shape[1] // 2) * grid.cell
    for e in episodes:
        touches = bool(min(p[0] for p in e.reference_path) < border)
        assert ("made-up" in e.tags) is touches


def test_islands_that_are_too_small_give_no_episodes_and_say_so(grid):
    large = replace(LOOSE, min_island_area=1000.0)
    episodes, tally = sample_episodes(grid, "rooms", 3, sampling=large, seed=1)
    assert episodes == []
    assert tally.rejected == {"no eligible floor": 3}


def test_files_round_trip_sorted_and_rounded(drawn, tmp_path):
    episodes, _ = drawn
    write_episodes(list(reversed(episodes)), tmp_path / "a.jsonl")
    write_episodes(episodes, tmp_path / "b.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()
    loaded = read_episodes(tmp_path / "a.jsonl")
    assert [e.id for e in loaded] == sorted(e.id for e in episodes)
    write_episodes(loaded, tmp_path / "c.jsonl")
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    line = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert line["start"]["position"][0] == round(line["start"]["position"][0], 6)
    wanted = {"id", "world", "floor", "seed", "start", "goals", "geodesic", "euclid", "ratio",
              "reference_time", "min_clearance", "turns", "difficulty", "reference_path",
              "verified", "tags"}  # fmt: skip
    assert set(line) == wanted


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"id": 3}', "5"])
def test_a_line_that_is_no_episode_is_named(line, tmp_path):
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(CorruptData, match=r"x\.jsonl line 1 is no episode"):
        read_episodes(tmp_path / "x.jsonl")


def test_a_missing_split_says_how_to_draw_one(tmp_path):
    with pytest.raises(InvalidRequest, match="nav sample"):
        read_episodes(tmp_path / "val.jsonl")


def test_episodes_that_no_longer_hold_on_a_grid_are_found(grid, drawn):
    good = drawn[0][0]
    longer = replace(good, id="longer", geodesic=good.geodesic + 0.1)
    outside = replace(good, id="outside", start=replace(good.start, position=(99.0, 0.0, 0.0)))
    upstairs = replace(good, id="upstairs", floor=3)
    assert check_episodes(drawn[0], grid) == []
    text = "\n".join(check_episodes([good, longer, outside, upstairs], grid))
    assert "longer: the way is" in text
    assert "outside: its start is not on walkable floor" in text
    assert "upstairs: there is no floor 3" in text
    assert good.id not in text


def test_reference_times_match_a_hand_calculation():
    robot = {"v_max": 0.5, "w_max": 1.0, "a_max": 0.5, "alpha_max": 2.0}
    # 2 m straight on: 0.5 s up, 0.5 s down over 0.25 m each, 1.5 m at 0.5 m/s.
    straight = np.array([[0.0, 0.0], [2.0, 0.0]])
    along = 2 / 0.5 + 0.5 / 0.5
    assert reference_time(straight, robot, yaw=0.0) == pytest.approx(along)
    # Facing away: half a turn first, pi rad at 1 rad/s with 0.5 s ramps.
    half_turn = np.pi / 1.0 + 1.0 / 2.0
    assert reference_time(straight, robot, yaw=np.pi) == pytest.approx(along + half_turn)
    # 0.1 m is too short to reach full speed: 2 sqrt(s / a).
    short = np.array([[0.0, 0.0], [0.1, 0.0]])
    assert reference_time(short, robot, yaw=0.0) == pytest.approx(2 * np.sqrt(0.1 / 0.5))
    assert reference_time(np.zeros((2, 2)), robot, yaw=1.0) == 0.0
