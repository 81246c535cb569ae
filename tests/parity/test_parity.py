"""Every recorded case is met: the whole set where it is present, else the committed part."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.parity.harness import Case, Folder, Verdict, judge, run_folder

ROOT = Path(__file__).parents[2]
WHOLE = Path(os.environ.get("WORLDLOOM_GOLDEN") or ROOT.parent / "shared" / "golden")
FOLDER = WHOLE if (WHOLE / "cases.json").is_file() else ROOT / "tests" / "golden"
COMPONENTS = sorted({entry["component"] for entry in Folder(FOLDER).entries()})


@pytest.mark.timeout(900)
@pytest.mark.parametrize("component", COMPONENTS)
def test_the_numbers_are_those_of_the_reference(component: str) -> None:
    verdicts: list[Verdict] = []
    passed, failed = run_folder(FOLDER, component, verdicts.append)
    assert not failed, [v for v in verdicts if not v.passed]
    assert passed == len(verdicts) > 0


def case(**changes) -> Case:
    fields = {
        "name": "n", "component": "dit", "config": {}, "tolerance": {"atol": 0.1}, "data": None,
        "inputs": {}, "weights": {}, "outputs": {"x": torch.ones(4)},
    }  # fmt: skip
    return Case(**(fields | changes))


def test_a_value_outside_its_tolerance_fails() -> None:
    assert judge(case(), {"x": torch.full((4,), 1.09)}).passed
    assert not judge(case(), {"x": torch.full((4,), 1.2)}).passed
    assert not judge(case(), {"x": torch.tensor([1.0, 1, 1, float("nan")])}).passed
    assert not judge(case(), {"x": torch.ones(3)}).passed


def test_an_output_that_was_not_returned_fails() -> None:
    assert not judge(case(), {}).passed


def test_whole_numbers_must_be_equal() -> None:
    want = {"ids": torch.tensor([3, 5])}
    assert not judge(case(outputs=want), {"ids": torch.tensor([5, 3])}).passed


def test_a_case_without_an_adapter_is_a_failure(tmp_path: Path) -> None:
    entry = '{"name": "a", "component": "nobody", "config": {}, "tolerance": {}, "data": {"b": 1}}'
    (tmp_path / "cases.json").write_text(f'{{"cases": [{entry}]}}')
    assert run_folder(tmp_path, None, lambda _: None) == (0, 1)


def test_weights_that_no_case_loads_are_a_failure(tmp_path: Path) -> None:
    entry = '{"name": "a_weights", "component": "vae", "config": {}, "tolerance": {}, "file": "f"}'
    (tmp_path / "cases.json").write_text(f'{{"cases": [{entry}]}}')
    assert run_folder(tmp_path, None, lambda _: None) == (0, 1)
