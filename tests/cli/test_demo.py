"""The whole path as a new user runs it, at draft quality, with each depth source that is there.

One real server process, one real job, real OpenUSD, real PhysX where it is installed.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from worldloom.cli.main import main
from worldloom.scene.worldfolder import check_files, open_world
from worldloom.tasks.sim_physx import physx_available

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT.parent / "shared" / "weights" / "tcmonodepth_small.pt.tar"


@pytest.fixture(scope="module", params=["prior", "tcmonodepth"])
def demo(request, tmp_path_factory):
    """A finished demo: its folder and the depth source that it was made with."""
    pytest.importorskip("skimage", reason="the sample photo is part of scikit-image")
    weights = tmp_path_factory.mktemp("weights")
    before = os.environ.get("WORLDLOOM_WEIGHTS")
    os.environ["WORLDLOOM_WEIGHTS"] = str(weights)
    try:
        if request.param == "tcmonodepth":
            if not CHECKPOINT.is_file():
                pytest.skip("the weights of TCMonoDepth-small are not on this machine")
            assert main(["weights", "convert", "tcmonodepth-small", str(CHECKPOINT)]) == 0
        out = tmp_path_factory.mktemp("demo") / request.param
        assert main(["demo", "--out", str(out), "--offline", "--quality", "draft"]) == 0
    finally:
        if before is None:
            del os.environ["WORLDLOOM_WEIGHTS"]
        else:
            os.environ["WORLDLOOM_WEIGHTS"] = before
    return out, request.param


def summaries(out):
    return {
        folder.name: json.loads((folder / "summary.json").read_text())
        for folder in sorted((out / "runs").iterdir())
    }


def test_the_world_is_whole_and_passes_every_validator(demo):
    from worldloom.generator.layers.validate import check_world

    out, source = demo
    manifest = open_world(out / "world")
    assert manifest.complete
    assert manifest.frames == 161
    assert manifest.depth_source.startswith(source)
    assert check_files(out / "world", manifest) == []
    assert [str(problem) for problem in check_world(out / "world")] == []


def test_at_least_three_square_metres_can_be_driven_on_a_floor_that_is_flat(demo):
    out, _ = demo
    report = json.loads((out / "world" / "nav" / "report.json").read_text())
    assert report["navigable_m2"] >= 3
    assert report["relief_rms_mm"] <= 5
    assert report["tilt_deg"] <= 0.5
    assert 0 < report["seen_share"] < 1


def test_the_oracle_reaches_its_goals_in_every_simulator_and_a_straight_line_does_not_do_better(
    demo,
):
    out, _ = demo
    scores = summaries(out)
    assert {"oracle-kinematic", "straight_line-kinematic"} <= scores.keys()
    for name, summary in scores.items():
        assert summary["episodes"] >= 20
        assert summary["excluded_sim_errors"] == []
        if name.startswith("oracle"):
            assert summary["measures"]["success"]["mean"] >= 0.9, name
            backend = name.split("-")[1]
            line = scores[f"straight_line-{backend}"]["measures"]["success"]["mean"]
            assert line <= summary["measures"]["success"]["mean"]


def test_physx_and_the_kinematic_simulator_agree_on_the_oracle(demo):
    if not physx_available():
        pytest.skip("PhysX is an optional extra")
    from worldloom.tasks.run import read_log

    out, _ = demo
    apart = []
    for file in sorted((out / "runs" / "oracle-physx" / "trajectories").glob("*.npz")):
        a = read_log(file)
        b = read_log(out / "runs" / "oracle-kinematic" / "trajectories" / file.name)
        count = min(len(a.t), len(b.t))
        off = np.linalg.norm(a.pose_xyz_wxyz[:count, :2] - b.pose_xyz_wxyz[:count, :2], axis=1)
        apart.append(off.max())
    assert np.median(apart) < 0.05


def test_spheres_dropped_on_the_observed_floor_stay_on_it(demo):
    if not physx_available():
        pytest.skip("PhysX is an optional extra")
    from worldloom.tasks.drop import drop_test
    from worldloom.tasks.navgrid import NavGrid
    from worldloom.tasks.world import open_navworld

    out, _ = demo
    grid = NavGrid.load(out / "dataset" / "navgrid.npz")
    result = drop_test(open_navworld(out / "world"), grid, count=200)
    assert result.below == 0
    assert result.share >= 0.995


def test_the_report_holds_every_picture_and_says_what_was_made_up(demo):
    out, source = demo
    page = (out / "report.html").read_text("utf-8")
    assert page.count("data:image/") >= 9
    assert "made up" in page
    assert f"from {source}" in page
    assert "AbsRel" in page
    for line in ("oracle", "straight_line", "kinematic", "calibrated"):
        assert line in page


def test_the_task_layer_composes_over_the_world(demo):
    from pxr import Usd

    out, _ = demo
    stage = Usd.Stage.Open(str(out / "dataset" / "usd" / "tasks.usda"))
    task = stage.GetPrimAtPath("/Task")
    names = task.GetVariantSets().GetVariantSet("episode").GetVariantNames()
    assert len(names) >= 20
    assert stage.GetPrimAtPath("/World/Collision").IsValid()
    assert stage.GetPrimAtPath("/Task/Goal_0").IsValid()


def test_a_world_can_be_extended_by_the_command_that_the_demo_prints(demo):
    out, source = demo
    if source != "prior":
        pytest.skip("once is enough")
    path = "dolly:distance=0.3"
    assert main(["extend", str(out / "world"), "--path", path, "--frames", "80"]) == 0
    manifest = open_world(out / "world")
    assert manifest.frames == 241
    assert manifest.parents
    assert check_files(out / "world", manifest) == []
