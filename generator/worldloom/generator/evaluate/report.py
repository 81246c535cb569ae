"""Evaluations of worlds -> `bench-world.json` and `bench-world.md`.

Every number says whether it was measured here (and with what data) or published elsewhere (and
where). The two kinds never share a table: numbers of a truth scene and numbers of Tanks and
Temples look alike and mean different things.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from worldloom.generator.evaluate.measures import GROUPS, KINDS, Measure, number
from worldloom.generator.evaluate.protocol import Evaluation
from worldloom.generator.evaluate.published import PublishedTable, published_tables

SCHEMA = "worldloom.bench-world/1"
ARROWS = {"up": "higher", "down": "lower", "": "-"}
PAPER_COLUMNS = {
    "SSIM": "video_ssim",
    "LPIPS (AlexNet)": "video_lpips_alex",
    "LPIPS (VGG-16)": "video_lpips_vgg",
    "FID": "video_fid",
    "Subjective": "subjective",
    "Style": "style",
    "Camera": "camera",
    "Reprojection (round trip)": "reprojection",
    "LPIPS-P (AlexNet)": "splat_lpips_p_alex",
    "LPIPS-G (AlexNet)": "truth_lpips_g_alex",
    "FID of splats": "truth_fid",
}
"""The columns of the paper's tables, and what is measured here for them."""
WARNING = (
    "Measured and published numbers are not comparable: they were made with other data, other "
    "pose estimators and other frames. Only a run with `--real` on the same sequences, with the "
    "same weights of the metrics, may be set beside a published one."
)


def to_json(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """The report as plain values; every cell has `kind` measured, unmeasured or published."""
    return {
        "schema": SCHEMA,
        "warning": WARNING,
        "worlds": [_world(evaluation) for evaluation in evaluations],
        "published": [_published(table) for table in published_tables()],
    }


def to_markdown(evaluations: Sequence[Evaluation]) -> str:
    """The report for people."""
    lines = ["# Evaluation of worlds", "", WARNING, ""]
    for evaluation in evaluations:
        lines += _measured_section(evaluation)
    lines += _paper_section(evaluations)
    lines += ["# Published by others (not measured here)", ""]
    for table in published_tables():
        lines += _published_section(table)
    return "\n".join(lines).rstrip() + "\n"


def reasons(measures: Sequence[Measure]) -> dict[str, list[str]]:
    """Names of what was not measured, by reason."""
    out: dict[str, list[str]] = {}
    for measure in measures:
        if measure.value is None:
            kind = KINDS[measure.key]
            out.setdefault(measure.reason, []).append(f"{kind.title} ({kind.group})")
    return out


def _world(evaluation: Evaluation) -> dict[str, Any]:
    world = evaluation.world
    return {
        "name": world.name,
        "world_id": world.manifest.world_id,
        "engine": world.manifest.engine["preset"],
        "research_only": world.manifest.research_only(),
        "scene": world.scene,
        "frames": world.cameras.n,
        "size": list(world.size),
        "held_out": list(evaluation.held_out),
        "measures": {m.key: _cell(m) for m in evaluation.measures},
    }


def _cell(measure: Measure) -> dict[str, Any]:
    kind = KINDS[measure.key]
    out: dict[str, Any] = {
        "kind": "unmeasured" if measure.value is None else "measured",
        "title": kind.title, "group": kind.group, "unit": kind.unit, "better": kind.better,
    }  # fmt: skip
    if measure.value is None:
        return out | {"value": None, "reason": measure.reason}
    return out | {"value": measure.value, "data": measure.data, "note": measure.note}


def _published(table: PublishedTable) -> dict[str, Any]:
    cells = {
        method: {
            column: {"kind": "published", "value": value, "source": table.source}
            for column, value in zip(table.columns, values, strict=True)
        }
        for method, values in table.rows.items()
    }
    return {
        "key": table.key, "title": table.title, "data": table.data, "source": table.source,
        "better": dict(zip(table.columns, table.better, strict=True)), "rows": cells,
        "notes": list(table.notes),
    }  # fmt: skip


def _measured_section(evaluation: Evaluation) -> list[str]:
    world = evaluation.world
    width, height = world.size
    lines = [
        f"# Measured here: {world.name}", "",
        f"World `{world.manifest.world_id[:12]}`, engine `{world.manifest.engine['preset']}`, "
        f"{world.cameras.n} frames of {width}x{height}.", "",
    ]  # fmt: skip
    for group in GROUPS:
        rows = [m for m in evaluation.measures if KINDS[m.key].group == group]
        if any(m.value is not None for m in rows):
            lines += [f"## {group}", "", "| metric | measured | better | data | note |",
                      "|---|---|---|---|---|"]  # fmt: skip
            lines += [_measured_row(m) for m in rows if m.value is not None] + [""]
    missing = reasons(evaluation.measures)
    if missing:
        lines += ["## not measured", "", "| metric | reason |", "|---|---|"]
        lines += [f"| {', '.join(names)} | {_safe(why)} |" for why, names in missing.items()]
        lines.append("")
    return lines


def _paper_section(evaluations: Sequence[Evaluation]) -> list[str]:
    """Measured numbers in the order of the paper's columns, every world's data beside them."""
    header = ["world", *PAPER_COLUMNS, "kind", "data"]
    lines = ["# Measured here, in the paper's columns", "", "| " + " | ".join(header) + " |",
             "|" + "---|" * len(header)]  # fmt: skip
    for evaluation in evaluations:
        found = {m.key: m for m in evaluation.measures}
        cells = [number(found[key]) for key in PAPER_COLUMNS.values()]
        data = found["video_ssim"].data or "its own video and depth, no reference"
        row = [evaluation.world.name, *cells, "measured", data]
        lines.append("| " + " | ".join(_safe(part) for part in row) + " |")
    return [*lines, ""]


def _measured_row(measure: Measure) -> str:
    kind = KINDS[measure.key]
    parts = (kind.title, number(measure), ARROWS[kind.better], measure.data, measure.note)
    return "| " + " | ".join(_safe(part) for part in parts) + " |"


def _published_section(table: PublishedTable) -> list[str]:
    columns = [
        f"{name} ({ARROWS[better]})"
        for name, better in zip(table.columns, table.better, strict=True)
    ]
    lines = [
        f"## {table.title}", "", f"Data: {_safe(table.data)}.", "",
        "| method | " + " | ".join(columns) + " | kind | source |",
        "|" + "---|" * (len(columns) + 3),
    ]  # fmt: skip
    for method, values in table.rows.items():
        cells = [
            "not found" if value is None else f"{value:.{digits}f}"
            for value, digits in zip(values, table.digits, strict=True)
        ]
        lines.append(f"| {method} | {' | '.join(cells)} | published | {_safe(table.source)} |")
    return [*lines, "", *(f"* {note}" for note in table.notes), *([""] * bool(table.notes))]


def _safe(text: str) -> str:
    """Text that cannot break a table."""
    return " ".join(text.replace("|", "\\|").split())
