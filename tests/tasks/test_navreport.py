"""The navigability report: each defect moves its own number, and the gates name it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from worldloom.scene.errors import GateNotMet
from worldloom.scene.mesh import TriMesh
from worldloom.tasks.levels import find_levels, fit_level
from worldloom.tasks.navgrid import GridParams, build_navgrid
from worldloom.tasks.navreport import (
    check_gates,
    draw_map,
    floor_holes,
    narrowest_passage,
    navigability,
)
from worldloom.tasks.robots import load_robot

ROBOT = load_robot("jetbot_body")
SCALE = {"status": "calibrated", "value": 1.0, "sigma": 0.02}


def report_of(mesh, *, scale=SCALE, robot=ROBOT):
    grid = build_navgrid(mesh, robot, params=GridParams(0.025, 0.5))
    return navigability(SimpleNamespace(collider=mesh, scale=scale), grid), grid


@pytest.fixture(scope="module")
def clean(rooms):
    return report_of(rooms)


def missed(report):
    return {name for name, gate in report["gates"].items() if not gate["met"]}


def test_a_clean_world_meets_every_gate(clean):
    report, _ = clean
    assert missed(report) == set()
    assert report["tilt_deg"] < 0.01
    assert report["relief_rms_mm"] < 0.1
    assert report["hole_share"] == 0
    assert report["islands"] == 1
    check_gates(report, min_area_m2=3, strict=True)
    json.dumps(report, allow_nan=False)


def test_the_passage_is_as_wide_as_the_door(clean, shapes):
    _, _, y0, y1, _ = shapes.DOOR
    assert clean[0]["narrowest_passage_m"] == pytest.approx(y1 - y0, abs=0.08)


def test_one_open_room_has_no_passage(shapes):
    floor = shapes.patch((0, 0, 0), (3, 0, 0), (0, 3, 0), 0.1)
    grid = build_navgrid(floor, ROBOT, params=GridParams(0.05, 0.5))
    assert narrowest_passage(grid) is None


def test_furniture_is_no_hole_and_a_hole_is(rooms, clean):
    assert floor_holes(clean[1]).size == 0
    centre = rooms.corners().mean(1)
    hole = (centre[:, 2] < 0.05) & (np.hypot(centre[:, 0] - 1.5, centre[:, 1] - 3.8) < 0.4)
    report, grid = report_of(rooms.select_faces(~hole))
    assert report["largest_hole_m2"] == pytest.approx(np.pi * 0.4**2, rel=0.15)
    assert len(floor_holes(grid)) == 1
    assert missed(report) == {"hole_share"}
    with pytest.raises(GateNotMet, match="hole_share is 0"):
        check_gates(report, min_area_m2=3, strict=True)
    check_gates(report, min_area_m2=3)


def test_scattered_missing_triangles_are_found(rooms):
    centre = rooms.corners().mean(1)
    gone = (centre[:, 2] < 0.05) & (np.random.default_rng(0).random(len(centre)) < 0.05)
    assert "hole_share" in missed(report_of(rooms.select_faces(~gone))[0])


def test_tilt_is_measured_and_gated(rooms, shapes):
    report, _ = report_of(shapes.turned(rooms, 2.0))
    assert report["tilt_deg"] == pytest.approx(2.0, abs=0.1)
    with pytest.raises(GateNotMet, match=r"tilted by 2\.0\d degrees; 0\.5 are allowed"):
        check_gates(report, min_area_m2=3)


def test_a_platform_beside_the_floor_does_not_lean_the_level(rooms, shapes):
    step = shapes.box((3.2, 0.1, -0.1), (5.9, 4.9, 0.07))
    mesh = TriMesh.concat([rooms, step])
    assert fit_level(mesh, find_levels(mesh, ROBOT.height)[0]).tilt_deg < 0.02
    tilted = shapes.turned(mesh, 1.0)
    found = fit_level(tilted, find_levels(tilted, ROBOT.height)[0]).tilt_deg
    assert found == pytest.approx(1.0, abs=0.1)


def test_a_bumpy_floor_is_measured_and_gated(rooms, shapes):
    report, _ = report_of(shapes.noisy(rooms, 0.02))
    assert "relief_p95_mm" in missed(report)
    assert report["noise_mm"] == pytest.approx(14, rel=0.2)


def test_an_unknown_scale_is_gated(rooms):
    report, _ = report_of(rooms, scale={"status": "unknown"})
    assert missed(report) == {"scale"}


def test_rooms_that_a_robot_cannot_join_are_gated(rooms):
    report, _ = report_of(rooms, robot=replace(ROBOT, radius=0.47))
    assert report["islands"] == 2
    assert "largest_island_share" in missed(report)


def test_too_little_floor_says_what_was_found_and_why(clean):
    with pytest.raises(GateNotMet, match=r"be driven by jetbot_body; at least 99 m"):
        check_gates(clean[0], min_area_m2=99)


def test_a_world_without_walkable_floor_still_has_a_report(shapes):
    slope = shapes.turned(shapes.patch((0, 0, 0), (3, 0, 0), (0, 3, 0), 0.1), 20)
    report, _ = report_of(slope)
    assert report["navigable_m2"] == 0
    with pytest.raises(GateNotMet, match=r"0\.00 m\^2 of floor"):
        check_gates(report, min_area_m2=3)


def test_the_dominant_floor_is_found_under_noise_and_beside_tables(rooms, shapes):
    table = shapes.box((4, 3, 0.7), (5.2, 4.6, 0.74))
    for sigma in (0.0, 0.02):
        mesh = shapes.noisy(TriMesh.concat([rooms, table]), sigma)
        levels = find_levels(mesh, ROBOT.height)
        assert len(levels) == 1
        assert levels[0] == pytest.approx(0, abs=0.005)
        assert fit_level(mesh, levels[0]).tilt_deg < 0.15


def test_the_map_is_a_picture_and_the_same_every_time(clean):
    grid = clean[1]
    path = [(np.array([[1.0, 1.0], [2.0, 3.0]]), "#1f4e8c")]
    first = draw_map(grid, paths=path, starts=[(1, 1, 0)], goals=[(2, 3, 0)], title="rooms")
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert first == draw_map(
        grid, paths=path, starts=[(1, 1, 0)], goals=[(2, 3, 0)], title="rooms"
    )
