"""Networks that a worker process keeps between its jobs, so that they are loaded once.

Only what no job changes may be kept: weights on their devices. What a run adds belongs to its
model, which is made anew for every job.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

Loaded = TypeVar("Loaded")
_KEPT: dict[str, tuple[Hashable, Any]] = {}


def kept(role: str, key: Hashable, load: Callable[[], Loaded]) -> Loaded:
    """What `load` made for this key before, or what it makes now.

    Args:
        role: What it is for. One thing is kept per role: two sets of weights may not fit.
        key: Everything that decides what `load` makes.
        load: Makes it; what it raises is passed on, and nothing is kept.
    """
    known = _KEPT.get(role)
    if known is None or known[0] != key:
        # The old one goes first: its memory is needed.
        _KEPT.pop(role, None)
        del known
        _KEPT[role] = (key, load())
    return _KEPT[role][1]


def drop_kept() -> None:
    """Forget everything that is kept."""
    _KEPT.clear()


def stamp(files: Iterable[Path | None]) -> Hashable:
    """Which files these are: another content has another size, time or inode. None stays None."""
    return tuple(None if file is None else _stamp_of(file) for file in files)


def _stamp_of(file: Path) -> tuple[str, int, int, int]:
    stat = file.stat()
    return str(file), stat.st_size, stat.st_mtime_ns, stat.st_ino
