"""What a toy job does to the process that runs it: `{"mischief": [[chunk, name], ...]}`."""

import ctypes
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np

from worldloom.scene.events import Log

MIB = 1 << 20
KEPT = []


def play(name, emit):
    """Do the mischief called `name`."""
    globals()[f"_{name}"](emit)


def _stop(_):
    """Stand still as a whole, heartbeat and all."""
    os.kill(os.getpid(), signal.SIGSTOP)


def _hang(_):
    time.sleep(3600)


def _die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def _raise_memory_error(_):
    raise MemoryError


def _run_out_of_memory(_):
    """Really have no memory left, by a limit that the kernel keeps."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 64 * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        KEPT.append(bytearray(16 * MIB))


def _hold(emit):
    """Keep the interpreter for long, as compiled code may: no other thread runs."""
    emit(Log("info", "holding"))
    ctypes.PyDLL(None).sleep(60)


def _ignore_term(_):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _dirty(_):
    """Change everything that a process has one of."""
    os.environ["MISCHIEF"] = "done"
    os.environ.pop("PATH", None)
    os.chdir("/")
    os.umask(0o077)
    random.seed(1)
    np.random.seed(1)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _look(emit):
    """Tell how the process looks to a job."""
    mask = os.umask(0)
    os.umask(mask)
    seen = {
        "mischief": os.environ.get("MISCHIEF"), "path": "PATH" in os.environ,
        "folder": os.getcwd(), "mask": mask, "random": hash(random.getstate()),
        "numpy": hash(np.random.get_state()[1].tobytes()),
        "term": str(signal.getsignal(signal.SIGTERM)),
    }  # fmt: skip
    emit(Log("info", f"looks {seen}"))


def _talk_later(emit):
    """Leave a thread that goes on talking when the job is over."""

    def talk():
        for _ in range(40):
            emit(Log("info", "stray"))
            time.sleep(0.05)

    threading.Thread(target=talk, daemon=True).start()


def _leave_thread(_):
    threading.Thread(target=time.sleep, args=(30,), name="left").start()


def _leave_process(emit):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    emit(Log("info", f"left {child.pid}"))


def _flood(emit):
    """Say more than any pipe and buffer hold."""
    for _ in range(64):
        emit(Log("info", "x" * 500_000))
