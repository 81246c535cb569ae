"""Things that are done to stores, each in a child that may die of it.

Reads lines of JSON [store, what, plan] and answers each with how the child ended.
"""

import json
import os
import sys
import time
from contextlib import closing
from pathlib import Path

import crash_points

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.check import check_store
from worldloom.bridge.restore import keep_copy, open_journal
from worldloom.bridge.store import forget_job, sweep
from worldloom.scene.errors import NotFound
from worldloom.scene.limits import Limits

LATER_S = 2 * 24 * 3600


def do(store, what):
    """Forget a job, sweep, copy the journal, open (and so restore) it, or repair everything."""
    if what == "repair":
        check_store(store, repair=True)
        return
    blobs = Blobs(store / "blobs", Limits())
    with closing(open_journal(store, blobs)) as journal:
        if what == "forget":
            try:
                forget_job(store, journal, blobs, "job-001", "me")
            except NotFound:
                sweep(store, journal, blobs, now=time.time() + LATER_S)
        elif what == "sweep":
            sweep(store, journal, blobs, now=time.time() + LATER_S)
        elif what == "copy":
            keep_copy(store)


def main():
    for line in sys.stdin:
        store, what, plan = json.loads(line)
        child = os.fork()
        if child == 0:
            crash_points.follow(plan)
            do(Path(store), what)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
