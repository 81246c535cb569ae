"""Run all recorded cases: `python -m tests.parity DIR [--only COMPONENT|CASE]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from tests.parity.harness import Verdict, run_folder


def main(argv: list[str] | None = None) -> int:
    """Print the table; 1 when a case failed."""
    parser = argparse.ArgumentParser(prog="tests.parity", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", help="a component or a case")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    print(f"{'case':44} {'error / tolerance':>18}  result")
    passed, failed = run_folder(options.folder, options.only, _line)
    print(f"{passed} passed, {failed} failed")
    return int(failed > 0 or passed == 0)


def _line(verdict: Verdict) -> None:
    mark = "ok" if verdict.passed else "FAILED"
    note = "" if verdict.passed and verdict.worst else f"  {verdict.note}"
    print(f"{verdict.name:44} {verdict.worst:18.3g}  {mark}{note}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
