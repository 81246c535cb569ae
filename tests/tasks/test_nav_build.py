"""`worldloom nav build | report | sample | check` on a small world, as a user calls them."""

import argparse
import json
import shutil

import pytest

pytest.importorskip("pxr")

from worldloom.cli import nav_build
from worldloom.scene.errors import GateNotMet, InvalidRequest


def call(name, *words):
    parser = argparse.ArgumentParser()
    getattr(nav_build, f"add_{name}_arguments")(parser)
    return getattr(nav_build, f"run_{name}")(parser.parse_args([str(w) for w in words]))


@pytest.fixture(scope="module")
def folder(world_folder, tmp_path_factory):
    copy = tmp_path_factory.mktemp("cli") / "world"
    shutil.copytree(world_folder, copy)
    return copy


def test_build_writes_grid_map_and_guide_mesh_and_says_what_is_next(folder, capsys):
    assert call("build", folder) == 0
    names = {p.name for p in (folder / "nav" / "jetbot_body").iterdir()}
    assert names == {"navgrid.npz", "floor0.pgm", "floor0.yaml", "navmesh.usda"}
    out = capsys.readouterr().out
    assert "navigable m2" in out
    assert "next: worldloom nav sample" in out


def test_report_writes_numbers_and_a_map(folder, capsys):
    assert call("report", folder) == 0
    report = json.loads((folder / "nav" / "report.json").read_text())
    assert report["schema"] == "worldloom.navreport/1"
    assert (folder / "nav" / "report.png").stat().st_size > 5000
    assert "narrowest_passage_m" in capsys.readouterr().out


def test_report_fails_below_the_gate_after_writing_what_it_found(folder):
    with pytest.raises(GateNotMet, match=r"at least 500 m\^2 are needed") as error:
        call("report", folder, "--min-area", 500)
    assert error.value.exit_code == 3
    assert (folder / "nav" / "report.json").is_file()


def test_sample_then_check(folder, tmp_path, capsys):
    words = ["--out", tmp_path / "set", "-n", 8, "--geodesic", "1,6", "--ratio", 0]
    assert call("sample", folder, *words) == 0
    assert call("check", tmp_path / "set") == 0
    assert "kept" in capsys.readouterr().out
    (tmp_path / "set" / "navgrid.npz").write_bytes(b"x")
    with pytest.raises(GateNotMet, match="1 problem"):
        call("check", tmp_path / "set")


def test_bad_options_are_named(folder, tmp_path):
    with pytest.raises(InvalidRequest, match="cannot read --geodesic 'far'"):
        call("sample", folder, "--out", tmp_path / "x", "--geodesic", "far")
    with pytest.raises(InvalidRequest, match="unknown robot 'r2d2'"):
        call("build", folder, "--robot", "r2d2")
    for words, text in [
        (("--cell", "0"), r"cell is 0\.0 m; it must be 0\.005 to 0\.5 m"),
        (("--cell", "nan"), "cell is nan m"),
        (("--min-island", "-1"), "min_island_m2 is -1"),
        (("--geodesic", "6,1"), "geodesic range is 6 to 1 m"),
        (("--geodesic", "nan,1"), "geodesic range is nan to 1 m"),
        (("--success-radius", "0"), r"success radius is 0\.0 m"),
        (("-n", "0"), "0 episodes with seed 7"),
        (("--seed", "-3"), "seed -3"),
    ]:
        with pytest.raises(InvalidRequest, match=text):
            call("sample", folder, "--out", tmp_path / "x", *words)
    assert not (tmp_path / "x").exists()
