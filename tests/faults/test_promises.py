"""The table of the promises names tests that exist, for each of the twenty faults."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "promises.md"


def rows():
    lines = PAGE.read_text("utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if re.match(r"\| (\d+|\+) \|", line)]


def functions_in(file):
    """Names of the tests of a file; a state machine is a test too."""
    tree = ast.parse((HERE / file).read_text("utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_of_the_twenty_faults_has_its_row():
    assert [row[0] for row in rows()] == [*(str(number) for number in range(1, 21)), "+"]


def test_every_test_that_is_named_exists():
    for row in rows():
        named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", row[3])
        assert named, row
        for file, name in named:
            assert not name or name in functions_in(file), (file, name)
            assert (HERE / file).is_file()


def test_every_fault_was_counted_and_nothing_was_lost():
    for row in rows():
        assert int(row[4].replace(",", "")) > 0, row
        assert row[5] == "0", row


def test_every_file_of_faults_is_in_the_table():
    named = {file for row in rows() for file, _ in re.findall(r"`(test_\w+\.py)(::)?", row[3])}
    files = {path.name for path in HERE.glob("test_*.py")}
    assert files - named == {"test_promises.py"}
