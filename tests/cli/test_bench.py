"""`worldloom bench truth`: one table, one file, an exit code that tells whether the gates hold."""

import json

import pytest

from worldloom.cli.bench_gates import misses
from worldloom.cli.bench_truth import medians
from worldloom.cli.main import main

GOOD = {
    "row": "A", "scene": "room", "noise": "exact", "f_score": 0.995, "oracle": 1.0,
    "area_ratio": 0.98, "seen_db": 31.0, "cracks": 0.0, "inward": 0.0,
}  # fmt: skip


@pytest.mark.slow
def test_the_quick_bench_measures_and_judges(tmp_path, capsys):
    code = main(["bench", "truth", "--quick", "--out", str(tmp_path)])
    record = json.loads((tmp_path / "bench.json").read_text())
    a, b = record["rows"]
    assert (a["row"], b["row"], a["scene"]) == ("A", "B", "corridor")
    assert code == (3 if misses(a) or misses(b) else 0)
    assert a["abs_rel"] == 0
    assert a["f_score"] >= 0.95
    assert a["oracle"] >= 0.95
    assert a["seen_db"] >= 27
    assert a["inward"] == 0
    assert a["invented"] <= 0.01
    assert a["gravity_deg"] <= 0.2
    assert a["scale_error"] <= 0.01
    assert abs(a["area_ratio"] - 1) <= 0.05
    assert b["abs_rel"] < 0.05
    assert b["accurate"] <= a["accurate"]
    assert 0 <= b["oracle"] <= 1
    table = capsys.readouterr().out
    assert "F@5cm" in table
    assert "cracks" in table


def test_gates_that_are_missed_are_named():
    assert misses(GOOD) == []
    assert misses({**GOOD, "area_ratio": 1.08, "oracle": 0.9, "cracks": 4.0}) == [
        "oracle = 0.9 (>= 0.98)", "cracks = 4 (<= 0)", "area_error = 0.08 (<= 0.03)",
    ]  # fmt: skip
    assert misses({**GOOD, "noise": "noisy", "oracle": 0.96}) == []
    assert misses({**GOOD, "row": "B", "oracle": 0.1}) == []
    assert misses({**GOOD, "row": "B", "seen_db": 24.0}) == ["seen_db = 24 (>= 25)"]
    assert misses({**GOOD, "noise": "drift", "last_height_m": float("nan")}) != []


def test_draws_of_the_noise_are_summed_up_by_their_median():
    assert medians([{"x": 1.0}, {"x": 9.0}, {"x": 2.0}]) == {"x": 2.0}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--scenes", "attic"], "unknown truth scene 'attic'; there are corridor"),
        (["--rows", "C"], "rows are A and B, not 'C'"),
        (["--noise", "fog"], "unknown noise 'fog'; use exact, noisy, drift"),
        (["--seeds", "x"], "cannot read --seeds 'x'"),
        (["--pairs", "-3"], "there are -3 pairs"),
    ],
)
def test_bad_options_are_refused_by_name(options, text, capsys):
    assert main(["bench", "truth", *options]) == 2
    assert text in capsys.readouterr().err
