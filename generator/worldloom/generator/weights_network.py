"""Large networks: convert once in a process of its own, then know them by what was noted.

Their authors publish no hashes that we could pin. So the tensors are compared with what the
network expects, and the hash of the converted file is noted beside it for `verify`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from worldloom.generator.weights_catalogue import Weights
from worldloom.scene import errors
from worldloom.scene.errors import CorruptData, NotFound

CONVERT_SECONDS = 4 * 3600.0
"""Longest time of a conversion [s]; 34 GB are read and written once."""
SCHEMA = "weights-note/1"
WORDS = 600  # Letters kept of what a child process says.


@dataclass(frozen=True)
class Facts:
    """What a weights file holds, from its header alone."""

    bytes: int
    tensors: int
    parameters: int
    types: tuple[str, ...]
    """Element types that occur, by the names of the format."""
    largest: str
    """Name and shape of the largest tensor."""


def facts(file: Path) -> Facts:
    """Read the header of a safetensors file.

    Raises:
        CorruptData: It is no safetensors file.
    """
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, file.stat().st_size)))
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        sizes = {name: prod(entry["shape"]) for name, entry in entries.items()}
        largest = max(sizes, key=lambda name: sizes[name], default="")
        return Facts(
            file.stat().st_size, len(entries), sum(sizes.values()),
            tuple(sorted({entry["dtype"] for entry in entries.values()})),
            f"{largest} {entries[largest]['shape']}" if largest else "none",
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptData(
            f"{file} is no safetensors file ({str(error)[:120]}); convert it again"
        ) from error


def note_file(file: Path) -> Path:
    """Where the hash of a converted network is noted."""
    return file.with_suffix(".json")


def noted(entry: Weights, file: Path) -> dict[str, Any]:
    """What was noted when `file` was converted.

    Raises:
        CorruptData: The note is missing or damaged.
    """
    try:
        note = json.loads(note_file(file).read_text("utf-8"))
        if note["schema"] == SCHEMA and isinstance(note["sha256"], str):
            return note
        reason = f"schema {note['schema']!r}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    raise CorruptData(
        f"the note {note_file(file)} beside weights {entry.name} cannot be used ({reason[:120]}); "
        f"convert them again: worldloom weights convert {entry.name} SOURCE"
    )


def check_hash(entry: Weights, file: Path, found: str) -> None:
    """Compare the hash of a converted network with the noted one.

    Raises:
        CorruptData: They differ, or nothing is noted.
    """
    expected = noted(entry, file)["sha256"]
    if found != expected:
        raise CorruptData(
            f"weights {file} have sha256 {found[:16]}..., {expected[:16]}... was noted when they "
            f"were converted; convert them again: worldloom weights convert {entry.name} SOURCE"
        )


def convert_in(
    scratch: Path, entry: Weights, source: Path, config: Mapping[str, Any] | None
) -> Path:
    """Convert `source` to a file in `scratch`, with its note beside it.

    Raises:
        NotFound: There is no such source.
        CorruptData: It cannot be read, or took too long.
        EngineFailed: Its tensors are not those of the network.
        StorageFull: The disk has not enough room.
    """
    if not source.exists():
        raise NotFound(f"there is no {source} to convert; give what is published at {entry.url}")
    made = scratch / "converted.safetensors"
    order = {"kind": entry.kind, "source": str(source.resolve()), "target": str(made),
             "config": dict(config or {})}  # fmt: skip
    answer = _answer(order, entry.name)
    note = {
        "schema": SCHEMA, "name": entry.name, "licence": entry.licence,
        "research_only": entry.research_only, "source": entry.source, "config": order["config"],
        **answer,
    }  # fmt: skip
    note_file(made).write_text(json.dumps(note, indent=1, sort_keys=True) + "\n", "utf-8")
    return made


def keep(made: Path, target: Path) -> Path:
    """Move a converted file and its note into place; the note goes first."""
    os.replace(note_file(made), note_file(target))
    os.replace(made, target)
    return target


def _answer(order: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Run the conversion in a child; what it wrote, or the error that it met."""
    child = start_child(["network", json.dumps(order)])
    try:
        _, words = child.communicate(timeout=CONVERT_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise CorruptData(f"converting {name} took more than {CONVERT_SECONDS:g} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    try:
        answer = json.loads(words.decode("utf-8", "replace").strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise CorruptData(f"{name} cannot be converted: {last_line(words)}") from None
    if "error" in answer:
        raise errors.error_class(answer["error"])(f"{name} cannot be converted: {answer['text']}")
    return answer


def start_child(arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `weights_child`, the only process in which pickles are opened."""
    # `-m` finds our package through the same paths as this process did.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-m", "worldloom.generator.weights_child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def last_line(words: bytes) -> str:
    """The end of what a child process said."""
    lines = words.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:WORDS] if lines else "the child process ended without a word"
