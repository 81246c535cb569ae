"""Fetch a file, or turn a pickled checkpoint into safetensors: a script for a process of its own.

Pickles are read nowhere else (architecture page 3.5), and only with `weights_only=True`. A process
can be stopped at a deadline wherever it hangs, in a name look-up as well as in a transfer.
"""

from __future__ import annotations

import errno
import json
import sys
from pathlib import Path
from typing import Any

PART = 1 << 16  # Bytes read at a time.
STALL_SECONDS = 30  # Longest silence of a server in the middle of a transfer.


def fetch(url: str, target: Path, limit: int) -> int:
    """Download `url` to `target`, at most `limit` bytes; 0, or 1 with the reason on stderr."""
    from urllib.error import HTTPError, URLError
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=STALL_SECONDS) as source, target.open("wb") as out:
            total = 0
            while part := source.read(PART):
                total += len(part)
                if total > limit:
                    return _fail(f"it is larger than {limit} bytes")
                out.write(part)
    except HTTPError as error:
        return _fail(f"the server answers {error.code} {error.reason}")
    except URLError as error:
        return _fail(str(error.reason))
    except OSError as error:
        return _fail(str(error))
    return 0


def convert(name: str, source: Path, target: Path) -> int:
    """Write the tensors of a checkpoint to `target` under our names."""
    import pickle

    import torch
    from safetensors.torch import save

    if name != "tcmonodepth-small":
        return _fail(f"nothing is known about converting {name}")
    from worldloom.generator.depth.tcmono import rename

    try:
        public = torch.load(source, map_location="cpu", weights_only=True)
        tensors = {key: value.contiguous().clone() for key, value in rename(public).items()}
    except (pickle.UnpicklingError, RuntimeError, ValueError, KeyError, IndexError, EOFError) as e:
        return _fail(f"it is no checkpoint of {name} ({str(e)[:200]})")
    target.write_bytes(save(tensors))
    return 0


def network(order: dict[str, Any]) -> int:
    """Convert a checkpoint of a network; the last line on stderr is the answer as JSON."""
    from dataclasses import asdict

    from worldloom.generator.video.lyra.convert import convert_checkpoint
    from worldloom.scene.errors import WorldloomError

    try:
        made = convert_checkpoint(
            order["kind"], Path(order["source"]), Path(order["target"]), order["config"]
        )
    except WorldloomError as error:
        _answer({"error": error.code, "text": str(error)})
        return 1
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = "storage-full" if full else "storage-unwritable"
        _answer({"error": code, "text": f"{error.strerror}: {error.filename or order['target']}"})
        return 1
    _answer(asdict(made))
    return 0


def _answer(values: dict[str, Any]) -> None:
    sys.stderr.write("\n" + json.dumps(values) + "\n")


def _fail(reason: str) -> int:
    sys.stderr.write(reason)
    return 1


if __name__ == "__main__":
    if sys.argv[1] == "fetch":
        sys.exit(fetch(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])))
    if sys.argv[1] == "network":
        sys.exit(network(json.loads(sys.argv[2])))
    sys.exit(convert(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])))
