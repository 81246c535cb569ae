"""How often a fault happened: each test counts once, or as often as it says, or per example."""

import functools
import json
import os
from collections import Counter
from pathlib import Path

FILE = "WORLDLOOM_FAULT_COUNTS"
"""Names the file that a run of the tests writes its counts to."""
times = Counter()


def happened(number=1):
    """Count faults for the test that runs now."""
    current = os.environ.get("PYTEST_CURRENT_TEST", "").split(" ")[0].split("[")[0]
    times[current] += number


def count_examples(items):
    """Have every example of a hypothesis test count itself."""
    for item in items:
        handle = getattr(getattr(item, "obj", None), "hypothesis", None)
        if handle is not None and not getattr(handle.inner_test, "counts", False):
            handle.inner_test = _counted(handle.inner_test)


def _counted(inner):
    @functools.wraps(inner)
    def counted(*args, **kwargs):
        happened()
        return inner(*args, **kwargs)

    counted.counts = True
    return counted


def finish(passed):
    """Put what was counted of the tests that passed into the file, over an older count of them."""
    if FILE not in os.environ:
        return
    file = Path(os.environ[FILE])
    found = json.loads(file.read_text()) if file.is_file() else {}
    found |= {name: max(times[name], count) for name, count in passed.items()}
    file.write_text(json.dumps(found, indent=1, sort_keys=True))
