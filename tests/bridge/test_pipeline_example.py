"""examples/pipeline.py: a table of worlds that is completed by running it again."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from worldloom.scene.worldfolder import check_files, open_world

SCRIPT = Path(__file__).parents[2] / "examples" / "pipeline.py"


@pytest.fixture(scope="module")
def pipeline():
    spec = importlib.util.spec_from_file_location("pipeline_example", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def photos(tmp_path, photo):
    """Two photos and an empty file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.png", "b.PNG"):
        (folder / name).write_bytes(photo.read_bytes() + name.encode())
    (folder / "broken.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no photo")
    return folder


@pytest.fixture
def run(pipeline, server, photos, tmp_path):
    """Run the pipeline; exit code and results by (photo, path, seed)."""

    def call(*more):
        code = pipeline.main([
            str(photos), "--out", str(tmp_path / "out"), "--server", server.address,
            "--paths", "dolly:distance=1", "orbit", "--frames", "81", *more,
        ])  # fmt: skip
        found = json.loads((tmp_path / "out" / "summary.json").read_text())
        return code, {(Path(r["photo"]).name, r["path"], r["seed"]): r for r in found}

    return call


def test_a_table_is_made_and_completed_by_another_run(run, photos, photo, tmp_path):
    code, results = run("--seeds", "701", "702")
    statuses = [r["status"] for r in results.values()]
    assert code == 3
    assert (len(results), statuses.count("made"), statuses.count("failed")) == (12, 8, 4)
    assert "is empty" in results["broken.png", "orbit", 701]["error"]
    assert results["broken.png", "orbit", 701]["error_code"] == "invalid-photo"
    for result in results.values():
        if result["status"] == "made":
            world = open_world(Path(result["folder"]))
            assert check_files(Path(result["folder"]), world) == []
            assert result["world_id"] == world.world_id
    assert len({r["world_id"] for r in results.values()}) == 9
    # The photo is repaired, and one world damaged: only those are made again.
    (photos / "broken.png").write_bytes(photo.read_bytes() + b"repaired")
    spoiled = Path(results["a.png", "orbit", 702]["folder"])
    next((spoiled / "splats").iterdir()).unlink()
    code, results = run("--seeds", "701", "702")
    made = {key for key, r in results.items() if r["status"] == "made"}
    assert code == 0
    assert made == {
        ("a.png", "orbit", 702),
        *(("broken.png", p, s) for p in ("orbit", "dolly:distance=1") for s in (701, 702)),
    }
    table = (tmp_path / "out" / "summary.md").read_text()
    assert table.count("\n| ") == 12
    assert "5 made, 7 whole, 0 failed" in table


def test_a_path_that_is_none_fails_alone(run):
    code, results = run("--seeds", "703", "--paths", "orbit", "no-such-path")
    assert code == 3
    assert "invalid-camera-path" in {r["error_code"] for r in results.values()}
    assert sum(r["status"] == "made" for r in results.values()) == 2


def test_stopped_and_started_again_it_goes_on(server, photos, tmp_path, client):
    command = [sys.executable, str(SCRIPT), str(photos), "--out", str(tmp_path / "out"),
               "--server", server.address, "--frames", "401", "--seeds", "704", "705"]  # fmt: skip
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    first = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    while "made" not in first.stdout.readline():
        assert first.poll() is None
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=30)
    assert first.returncode in (130, 3)
    again = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert again.returncode == 3
    results = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert sorted(r["status"] for r in results if "broken" in r["photo"]) == ["failed"] * 2
    rest = [r["status"] for r in results if "broken" not in r["photo"]]
    assert "whole" in rest
    assert set(rest) <= {"made", "whole"}


def test_a_folder_without_photos_is_told(pipeline, tmp_path):
    with pytest.raises(SystemExit, match="holds no photo"):
        pipeline.main([str(tmp_path), "--out", str(tmp_path / "out")])
