"""`worldloom bench world`: tables, files and a picture; bad options are refused by name."""

import json

import pytest

from tests.generator.small_worlds import make_small_world
from worldloom.cli.main import main


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_small_world(tmp_path_factory.mktemp("bench") / "small")


def test_a_world_is_measured_and_reported(world, tmp_path, capsys):
    assert main(["bench", "world", str(world), "--spheres", "0", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "small, measured here: splats against the video (held-out frames)" in said
    assert "left out by --spheres 0" in said
    assert "published by others" in said
    assert "not comparable" in said
    record = json.loads((tmp_path / "bench-world.json").read_text())
    assert record["worlds"][0]["measures"]["splat_psnr"]["kind"] == "measured"
    assert record["worlds"][0]["measures"]["drop_rest"]["kind"] == "unmeasured"
    assert (tmp_path / "bench-world.md").read_text().startswith("# Evaluation of worlds")
    assert (tmp_path / "sheet-small.png").read_bytes()[:4] == b"\x89PNG"


def test_the_report_is_one_json_object_among_the_lines(world, tmp_path, capsys):
    options = ["--spheres", "0", "--views", "1", "--out", str(tmp_path), "--json"]
    assert main(["bench", "world", str(world), *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    record = next(line for line in lines if line["type"] == "bench")
    assert record["schema"] == "worldloom.bench-world/1"
    assert record["worlds"][0]["held_out"] == [4]


def test_several_worlds_are_reported_under_names_of_their_own(world, tmp_path, monkeypatch):
    import shutil

    from worldloom.cli import bench_world

    monkeypatch.setattr(bench_world, "_reference", lambda *_: None)
    for name in ("one", "two/world"):
        shutil.copytree(world, tmp_path / name)
    assert main(["bench", "world", str(tmp_path), "--spheres", "0", "--views", "1"]) == 0
    record = json.loads((tmp_path / "bench" / "bench-world.json").read_text())
    assert [w["name"] for w in record["worlds"]] == ["one", "two"]
    assert all((tmp_path / "bench" / f"sheet-{name}.png").is_file() for name in ("one", "two"))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--truth", "attic"], "attic"),
        (["--truth", "room", "--real", "."], "Give one of them"),
        (["--views", "-1"], "--views is -1; give 0 or more"),
        (["--device", "abacus"], "--device 'abacus' cannot be used here"),
        (["--real", "nowhere"], "there is no folder nowhere"),
        (["--weights", "nowhere"], "there is no folder nowhere with weights"),
        (["--scores", "nowhere.json", "--spheres", "0"], "the scores nowhere.json cannot be read"),
    ],
)
def test_bad_options_of_bench_world_are_refused_by_name(world, options, text, tmp_path, capsys):
    arguments = ["bench", "world", str(world), "--out", str(tmp_path), "--views", "1"]
    assert main([*arguments, *options]) == 2
    assert text in capsys.readouterr().err


def test_a_folder_without_a_world_is_refused(tmp_path, capsys):
    assert main(["bench", "world", str(tmp_path)]) == 2
    assert "holds no world" in capsys.readouterr().err
