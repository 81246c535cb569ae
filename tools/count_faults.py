"""Counts of a run of tests/faults -> the column of docs/promises.md that says how often.

WORLDLOOM_FAULT_COUNTS=counts.json python -m pytest tests/faults
python tools/count_faults.py counts.json
"""

import json
import re
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "promises.md"
TEST = re.compile(r"`(test_\w+\.py)(?:::(\w+))?`")
ROW = re.compile(r"^\| (?:\d+|\+) \|")


def times_of(cell, counts):
    """How often the tests named in a cell of the table had their fault.

    Raises:
        SystemExit: A test is named that did not pass, or is not there.
    """
    total = 0
    for file, name in TEST.findall(cell):
        wanted = f"tests/faults/{file}::{name}"
        found = [count for test, count in counts.items()
                 if test == wanted or (not name and test.startswith(wanted))]  # fmt: skip
        if not found:
            sys.exit(f"{file}::{name or '*'} did not pass in this run, or is not there")
        total += sum(found)
    return total


def main():
    """Write the counts into the page, and say them."""
    counts = json.loads(Path(sys.argv[1]).read_text())
    lines = PAGE.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if ROW.match(line):
            cells = line.split(" | ")
            cells[4] = f"{times_of(cells[3], counts):,}"
            lines[number] = " | ".join(cells)
            sys.stdout.write(f"{cells[0].strip('| '):>3}  {cells[4]:>7}  {cells[1][:80]}\n")
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
