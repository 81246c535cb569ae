"""The GPU benchmark of a chunk, run at toy size on the processor: the same code, other numbers."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("gpu_chunk")


def test_a_toy_chunk_is_measured_stage_by_stage(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(["--device", "cpu", "--tiny", "--out", str(tmp_path)]) == 0
    assert "pictures mean nothing" in capsys.readouterr().out
    found = json.loads((tmp_path / "gpu_chunk.json").read_text())
    names = [stage["name"] for stage in found["stages"]]
    assert sum(name.startswith("forward") for name in names) == 3
    assert any(name.startswith("whole chunk, 2 guided") for name in names)
    assert any(name.startswith("whole chunk, 4 distilled") for name in names)
    assert all(stage["seconds"] > 0 for stage in found["stages"])
    assert all(s["share"] > 0 for s in found["stages"] if s["name"].startswith("forward"))
    assert not any("not finite" in note for note in found["notes"])
    assert "| forward 3 of 3 |" in (tmp_path / "gpu_chunk.md").read_text()


def test_samplings_beyond_the_time_limit_are_left_out(script: ModuleType, tmp_path: Path) -> None:
    done = script.main(
        ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--limit-s", "0.000001"]
    )
    assert done == 0
    found = json.loads((tmp_path / "gpu_chunk.json").read_text())
    assert not any("whole chunk" in stage["name"] for stage in found["stages"])
    assert sum("left out" in note for note in found["notes"]) == 2


def test_the_work_of_a_pass_is_that_of_the_specification(script: ModuleType) -> None:
    """2.18 PFLOP at 832 x 480, 1.20 of them in self-attention (spec generation 11.2)."""
    linear, attention = script.Bench("cpu", script.FULL, None).forward_work()
    assert attention / 1e15 == pytest.approx(1.20, abs=0.03)
    assert (linear + attention) / 1e15 == pytest.approx(2.18, abs=0.05)


def test_it_refuses_without_a_gpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert script.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert script.main(["--device", "cpu"]) == 2
    assert "add --tiny" in capsys.readouterr().err


@pytest.mark.gpu
def test_a_toy_chunk_runs_on_the_gpu(script: ModuleType, tmp_path: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    assert script.main(["--tiny", "--out", str(tmp_path)]) == 0
