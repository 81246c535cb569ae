"""Pictures and numbers -> one self-contained HTML page.

The page holds plain data that the caller prepared; every string is escaped by the template engine
and every picture is embedded, so that the file can be mailed.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from worldloom.scene.worldfolder import write_whole

TEMPLATE = "report.html"
MEASURES = (
    ("success", "Success", 2),
    ("spl", "SPL", 2),
    ("soft_spl", "SoftSPL", 2),
    ("collisions", "Collisions / episode", 2),
    ("safe_success", "Success without contact", 2),
    ("final_distance", "Final distance [m]", 2),
    ("time", "Time [s]", 1),
    ("sct", "SCT (by completion time)", 2),
    ("ndtw", "nDTW to the reference path", 2),
    ("clearance_min", "Smallest clearance [m]", 2),
    ("made_up_share", "Driven on made-up floor", 2),
)
"""Key in summary.json, title, and digits of each row of the metrics table."""


@dataclass(frozen=True)
class Picture:
    """An embedded picture."""

    title: str
    png: bytes
    """PNG or JPEG bytes."""
    note: str = ""

    @property
    def uri(self) -> str:
        """The picture as a data URI."""
        kind = "jpeg" if self.png[:2] == b"\xff\xd8" else "png"
        return f"data:image/{kind};base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class RunResult:
    """One policy in one simulator."""

    policy: str
    backend: str
    summary: dict[str, Any]
    """Content of summary.json."""


@dataclass(frozen=True)
class ReportInputs:
    """Everything on the page."""

    title: str
    subtitle: str
    headline: Sequence[tuple[str, str, str]]
    """Big numbers: value, label, small print."""
    pictures: Sequence[Picture]
    """Photo, depth and collider, in a row."""
    renders: Sequence[Picture]
    """Splats along the path."""
    maps: Sequence[Picture]
    """Top-down maps with driven ways, side by side."""
    runs: Sequence[RunResult]
    tables: Sequence[tuple[str, Sequence[tuple[str, str]]]]
    """Titled tables of name and value: navigability, scale, depth, timings."""
    episodes: Sequence[dict[str, Any]] = ()
    """One row an episode: id, geodesic, and the end reason of each run."""
    notices: Sequence[str] = ()
    """Licences and honesty notices."""
    commands: Sequence[tuple[str, str]] = ()
    """What to do next: words, command."""


def write_report(file: Path, inputs: ReportInputs) -> Path:
    """Render the page to `file`.

    Raises:
        StorageUnwritable: The folder cannot be written.
        StorageFull: No space is left.
    """
    write_whole(file, render_report(inputs).encode("utf-8"))
    return file


def render_report(inputs: ReportInputs) -> str:
    """The page as text; every string of `inputs` is escaped."""
    from jinja2 import Environment, StrictUndefined

    source = (resources.files("worldloom.tasks") / "templates" / TEMPLATE).read_text("utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source).render(page=inputs, rows=metric_rows(inputs.runs))


def metric_rows(runs: Sequence[RunResult]) -> list[tuple[str, list[str]]]:
    """Title and a cell for each run, as `0.90 [0.83, 0.95]`."""
    rows = []
    for key, title, digits in MEASURES:
        cells = []
        for run in runs:
            value = run.summary["measures"][key]
            bounds = ", ".join(f"{value[end]:.{digits}f}" for end in ("low", "high"))
            # A run whose every episode was a simulator's error has no mean.
            cells.append(f"{value['mean']:.{digits}f} [{bounds}]" if value["n"] else "none")
        rows.append((title, cells))
    rows.append(("Episodes", [str(run.summary["episodes"]) for run in runs]))
    speeds = [run.summary.get("compute", {}).get("real_time_factor") for run in runs]
    if any(speeds):
        rows.append(("Faster than real time", [f"{x:.0f} x" if x else "none" for x in speeds]))
    ends = [run.summary["end_reasons"] for run in runs]
    rows.append(("Ends", [", ".join(f"{n} {why}" for why, n in e.items()) for e in ends]))
    return rows
