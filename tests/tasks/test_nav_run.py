"""`worldloom nav run | score | compare | replay` on a small world, as a user calls them."""

import argparse
import json

import pytest

pytest.importorskip("pxr")

from worldloom.cli import nav_build, nav_run
from worldloom.scene.errors import GateNotMet, InvalidRequest


def call(name, *words, module=nav_run):
    parser = argparse.ArgumentParser()
    getattr(module, f"add_{name}_arguments")(parser)
    return getattr(module, f"run_{name}")(parser.parse_args([str(w) for w in words]))


def sample(world_folder, out, *words):
    options = ["--out", out, "-n", 6, "--geodesic", "1,6", "--ratio", 0, "--cell", 0.05]
    return call("sample", world_folder, *options, *words, module=nav_build)


@pytest.fixture(scope="module")
def runs(world_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nav")
    sample(world_folder, folder / "set")
    for policy in ("oracle", "forward"):
        call("run", folder / "set", "--policy", policy, "--out", folder / policy)
    return folder


def test_run_and_score_say_what_happened_and_what_is_next(runs, capsys):
    assert call("run", runs / "set", "--policy", "oracle", "--out", runs / "oracle") == 0
    assert f"next: worldloom nav score {runs / 'oracle'}" in capsys.readouterr().out
    assert call("score", runs / "oracle") == 0
    out = capsys.readouterr().out
    assert "success" in out
    assert "'success': 6" in out
    for name in ("run.yaml", "env.json", "events.jsonl", "results.csv", "summary.json"):
        assert (runs / "oracle" / name).is_file()


def test_compare_is_paired_and_shows_every_measure(runs, capsys):
    for name in ("oracle", "forward"):
        call("score", runs / name)
    capsys.readouterr()
    assert call("compare", runs / "oracle", runs / "forward") == 0
    out = capsys.readouterr().out
    assert "6 episodes in common" in out
    assert "McNemar" in out
    assert "soft_spl" in out


def test_replay_draws_one_episode(runs, capsys):
    assert call("replay", runs / "oracle", 0, "--out", runs / "map.png") == 0
    assert (runs / "map.png").read_bytes()[:4] == b"\x89PNG"
    assert "success after" in capsys.readouterr().out
    with pytest.raises(InvalidRequest, match="has no episode '77'"):
        call("replay", runs / "oracle", 77)


def test_what_is_not_there_is_named(runs, tmp_path):
    with pytest.raises(InvalidRequest, match="is no run"):
        call("score", tmp_path)
    with pytest.raises(InvalidRequest, match="is not scored"):
        call("compare", tmp_path, runs / "oracle")


def test_a_benchmark_holds_its_baselines_to_the_gates(world_folder, tmp_path):
    sample(world_folder, tmp_path / "set", "--benchmark")
    out = tmp_path / "straight"
    call("run", tmp_path / "set", "--policy", "straight_line", "--out", out)
    from worldloom.tasks.score import score_run

    rate = score_run(out)["measures"]["success"]["mean"]
    if rate > 0.6:
        with pytest.raises(GateNotMet, match="too easy"):
            call("score", out)
    else:
        assert call("score", out) == 0
    header = (out / "run.yaml").read_text()
    (out / "run.yaml").write_text(header.replace("policy: straight_line", "policy: oracle"))
    if rate < 0.95:
        with pytest.raises(GateNotMet, match=r"a benchmark needs 0\.95"):
            call("score", out)


def test_summary_tells_the_speed_apart_from_the_scores(runs):
    call("score", runs / "oracle")
    compute = json.loads((runs / "oracle" / "summary.json").read_text())["compute"]
    assert compute["latency_mean_ms"] > 0
    assert compute["real_time_factor"] > 1
