"""An untrusted file -> what a decoding child of its own made of it (architecture page 3.5).

The children are scripts that import nothing of ours and no torch and limit their own memory and
time; this starts one, with the file on its input, and takes its line of JSON and its raw arrays.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from worldloom.scene.errors import EngineFailed, WorldloomError

LOGGER = logging.getLogger(__name__)


def run_decoder(
    script: Path,
    work: str,
    caps: dict[str, Any],
    file: Path,
    *,
    seconds: float,
    refuse: Callable[[str], WorldloomError],
) -> tuple[dict[str, Any], bytes]:
    """Run `script` on `file`; returns its header, which may name an error, and the raw arrays.

    Args:
        script: The child's file.
        work: What it is to do.
        caps: Bounds that it must hold.
        file: The untrusted file.
        seconds: Real time that it may take [s].
        refuse: Makes the error for a child that did not end well, from words that follow the
            file's name.

    Raises:
        EngineFailed: The child cannot be started.
    """
    command = [sys.executable, "-I", str(script), work, json.dumps(caps)]
    # A clean environment: nothing of the server's reaches the child, and one thread is enough.
    environment = {"PATH": os.defpath, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        with file.open("rb") as source:
            done = subprocess.run(
                command,
                stdin=source,
                capture_output=True,
                env=environment,
                timeout=seconds,
                check=False,
            )
    except subprocess.TimeoutExpired as error:
        raise refuse(f"took more than {seconds:g} s to decode") from error
    except OSError as error:
        raise EngineFailed(f"the decoder {script.name} cannot be started ({error})") from error
    line, _, data = done.stdout.partition(b"\n")
    if done.returncode != 0 or not line:
        LOGGER.warning("decoder ended with %d: %s", done.returncode, done.stderr[-2000:])
        raise refuse(f"made the decoder stop (status {done.returncode}; it may use 2 GB and 20 s)")
    return json.loads(line), data
