"""Every write of a process counts itself; the k-th one kills the process, before or after it.

A plan is a dictionary of `k`, `when` (before, after, or half: in the middle of the bytes of an
upload) and `count`, a file that counts the writes of all processes that follow the plan.
"""

import functools
import os
import signal
import threading
from pathlib import Path

SYSTEM = ("fsync", "replace", "rename", "link", "unlink")
JOURNAL = ("create", "move", "append", "own_blob", "request_cancel", "delete")
_lock = threading.RLock()
_inside = threading.local()


_current = {}


def follow(plan):
    """Let this process die as planned; an empty plan lets it live."""
    if not _current:
        _make_writes_deadly()
    _current.update({"k": 0, "when": "", "count": os.devnull}, **plan)


def _make_writes_deadly():
    from worldloom.bridge.blobs import Blobs
    from worldloom.bridge.journal import Journal

    Blobs.append = _half_append(Blobs.append)
    for name in SYSTEM:
        setattr(os, name, _deadly(getattr(os, name)))
    for name in JOURNAL:
        setattr(Journal, name, _deadly(getattr(Journal, name), outermost=True))


def _deadly(call, *, outermost=False):
    """A write that may be the last of this process.

    Calls within calls of the journal are part of one transaction and count as one.
    """

    @functools.wraps(call)
    def wrapped(*args, **kwargs):
        when = _current["when"]
        if when not in ("before", "after") or (outermost and getattr(_inside, "depth", 0)):
            return call(*args, **kwargs)
        mine = _is_due()
        if mine and when == "before":
            _die()
        _inside.depth = getattr(_inside, "depth", 0) + 1
        try:
            return call(*args, **kwargs)
        finally:
            _inside.depth -= 1
            if mine and when == "after":
                _die()

    return wrapped


def _half_append(append):
    """An upload's write of which only the first half of the bytes reach the disk."""

    @functools.wraps(append)
    def wrapped(self, owner, upload, data):
        if _current["when"] == "half" and _is_due():
            append(self, owner, upload, data[: len(data) // 2])
            _die()
        return append(self, owner, upload, data)

    return wrapped


def _is_due():
    """Count a write, from 1; whether it is the one of the plan."""
    with _lock, Path(_current["count"]).open("ab") as out:
        out.write(b".")
        out.flush()
        return out.tell() == _current["k"]


def _die():
    os.kill(os.getpid(), signal.SIGKILL)
