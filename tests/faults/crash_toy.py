"""The toy generator that notes each chunk it makes, and may die at any of its writes.

WORLDLOOM_CRASH names a folder in which a file SEED.json is the plan of one request's workers.
"""

import json
import os
from pathlib import Path

import crash_points
import toy

FOLDER = "WORLDLOOM_CRASH"
MADE = "made"
describe = toy.describe
misbehave = toy.misbehave


def make_world(request, *, work, **kwargs):
    """The toy's world; chunk numbers go to a file beside the work folder."""

    def noted(faults, chunk, folder, cancelled):
        with (work.parent / MADE).open("a") as out:
            out.write(f"{chunk}\n")
        misbehave(faults, chunk, folder, cancelled)

    toy.misbehave = noted
    plan = Path(os.environ.get(FOLDER, "")) / f"{request.seed}.json"
    crash_points.follow(json.loads(plan.read_text()) if plan.is_file() else {})
    return toy.make_world(request, work=work, **kwargs)
