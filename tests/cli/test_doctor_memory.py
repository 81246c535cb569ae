"""Tests of `worldloom doctor --engine`: the table before anything is loaded, and the refusal."""

from __future__ import annotations

import pytest

from worldloom.cli.main import main


def test_the_plan_of_an_engine_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["doctor", "--engine", "lyra2-tiny", "--preset", "offload-24", "--gpu-gb", "24"]) == 0
    )
    said = capsys.readouterr().out
    assert "lyra2-tiny with offload-24 at 832 x 480 px: 38246 tokens per pass" in said
    assert "squeezed correspondence of all blocks" in said
    assert "TOTAL" in said


def test_what_cannot_fit_is_refused_with_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--engine", "lyra2", "--size", "1664x960", "--gpu-gb", "24"])
    assert code == 5
    said = capsys.readouterr().err
    assert "lyra2 with offload-24 at 1664 x 960 px needs" in said
    assert "there are 24.0 GB. Use the preset offload-24 and at most" in said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--engine", "preview"], "'preview' has no memory plan"),
        (["--engine", "lyra2", "--size", "big"], "--size is 'big'; give width and height"),
        (["--engine", "lyra2", "--preset", "x"], "unknown memory preset 'x'"),
    ],
)
def test_bad_options_are_refused(
    options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", *options]) == 2
    assert text in capsys.readouterr().err
