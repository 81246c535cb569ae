"""What a job may leave behind in a worker process for the next one: nothing but loaded weights."""

from __future__ import annotations

import gc
import os
import random
import signal
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Workplace:
    """A process as it was before its first job."""

    folder: str
    environment: dict[str, str]
    mask: int
    randomness: tuple[Any, Any]
    """State of Python's and of numpy's global generator."""
    threads: frozenset[int]

    @classmethod
    def now(cls) -> Workplace:
        """The process as it is."""
        mask = os.umask(0o022)
        os.umask(mask)
        return cls(
            os.getcwd(), dict(os.environ), mask, (random.getstate(), np.random.get_state()),
            frozenset(thread.ident or 0 for thread in threading.enumerate()),
        )  # fmt: skip

    def restore(self) -> str:
        """Undo what a job changed; what cannot be undone, or nothing."""
        os.chdir(self.folder)
        os.environ.clear()
        os.environ.update(self.environment)
        os.umask(self.mask)
        random.setstate(self.randomness[0])
        np.random.set_state(self.randomness[1])
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        gc.collect()
        if left := children():
            return f"the processes {', '.join(map(str, left))} of the job still run"
        late = [t.name for t in threading.enumerate() if not self._may_stay(t)]
        return f"the threads {', '.join(late)} of the job still run" if late else ""

    def _may_stay(self, thread: threading.Thread) -> bool:
        """Daemons stay: libraries keep their own pools, and emit nothing."""
        return thread.daemon or thread.ident in self.threads


def children() -> list[int]:
    """Process ids of the children of this process that have not ended."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        listed = task / "children"
        if listed.is_file():
            found += [int(pid) for pid in listed.read_text().split() if not _reaped(int(pid))]
    return found


def _reaped(pid: int) -> bool:
    """Whether a child has ended; a zombie is taken away."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
