"""What commands say: lines, tables, one progress bar; or one JSON object per line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from worldloom.scene.errors import WorldloomError
from worldloom.scene.events import Log, Progress

_STATE = {"json": False}
PLAIN_EVERY_S = 5.0
"""Seconds between progress lines where the output is no terminal."""


def configure(*, as_json: bool) -> None:
    """Choose between words for people and JSON lines for programs."""
    _STATE["json"] = as_json


def is_json() -> bool:
    """Whether this command prints JSON lines."""
    return _STATE["json"]


def emit(kind: str, /, **fields: Any) -> None:
    """Print one JSON object when `--json` was given; nothing otherwise."""
    if _STATE["json"]:
        print(json.dumps({"type": kind, **fields}, default=str), flush=True)


def say(text: str = "") -> None:
    """Print a line for people; silent under `--json`."""
    if not _STATE["json"]:
        print(text, flush=True)


def note(text: str) -> None:
    """Print a line to the error output."""
    emit("note", text=text)
    print(f"worldloom: {text}", file=sys.stderr, flush=True)


def fail(error: WorldloomError) -> None:
    """Print an error: its text, and under `--json` its code and field too."""
    emit("error", code=error.code, text=str(error), field=error.field)
    print(f"worldloom: {error}", file=sys.stderr, flush=True)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table with aligned columns; under `--json` one object per row."""
    if _STATE["json"]:
        for row in rows:
            emit("row", **dict(zip(header, row, strict=True)))
        return
    text = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(len(row[i]) for row in text) for i in range(len(header))]
    for index, row in enumerate(text):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        print("  " + "  ".join(cells).rstrip())
        if index == 0:
            print("  " + "  ".join("-" * width for width in widths))


class Meter(Protocol):
    """Receives the progress of a job."""

    def update(self, progress: Progress) -> None:
        """Show how far a stage is."""
        ...

    def log(self, entry: Log) -> None:
        """Show a line between two updates."""
        ...


@contextmanager
def meter() -> Iterator[Meter]:
    """A progress display that fits the output: a bar, lines now and then, or JSON."""
    if _STATE["json"]:
        yield _JsonMeter()
    elif sys.stderr.isatty():
        with _bar() as bar:
            yield bar
    else:
        yield _PlainMeter()


class _JsonMeter:
    def update(self, progress: Progress) -> None:
        emit("progress", **asdict(progress))

    def log(self, entry: Log) -> None:
        emit("log", **asdict(entry))


class _PlainMeter:
    def __init__(self) -> None:
        self._last = ("", -PLAIN_EVERY_S)
        self._begin: dict[str, tuple[float, int]] = {}

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        begin, first = self._begin.setdefault(progress.stage, (now, progress.done))
        stage, at = self._last
        finished = progress.done >= progress.total
        if stage == progress.stage and now - at < PLAIN_EVERY_S and not finished:
            return
        self._last = (progress.stage, now)
        spent = now - begin
        rate = f", {(progress.done - first) / spent:.1f} {progress.unit}/s" if spent > 1 else ""
        left = "" if progress.eta_s is None else f", {_clock(progress.eta_s)} left"
        say(f"  {progress.stage:<9} {progress.done}/{progress.total} {progress.unit}{rate}{left}")

    def log(self, entry: Log) -> None:
        say(f"  {entry.text}")


@contextmanager
def _bar() -> Iterator[Meter]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("  {task.description:<9}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=False) as bar:
        yield _RichMeter(bar)


class _RichMeter:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._tasks: dict[str, tuple[Any, float, int]] = {}

    def update(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage not in self._tasks:
            task = self._bar.add_task(progress.stage, total=progress.total, rate="", left="")
            self._tasks[progress.stage] = (task, now, progress.done)
        task, begin, first = self._tasks[progress.stage]
        spent = now - begin
        rate = f"{(progress.done - first) / spent:.1f} {progress.unit}/s" if spent > 1 else ""
        left = "" if progress.eta_s is None else f"{_clock(progress.eta_s)} left"
        self._bar.update(task, completed=progress.done, rate=rate, left=left)

    def log(self, entry: Log) -> None:
        self._bar.console.print(f"  {entry.text}", markup=False, highlight=False)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
