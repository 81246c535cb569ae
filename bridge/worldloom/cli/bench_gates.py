"""What worlds made of known scenes must reach, by row and noise, and which of it they miss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Gate:
    """One measure and its limit."""

    measure: str
    """Key of the measure."""
    limit: float
    least: bool
    """Whether the limit is the least value; else it is the largest."""

    def holds(self, value: float) -> bool:
        """Whether a value passes; not a number never does."""
        if math.isnan(value):
            return False
        return value >= self.limit if self.least else value <= self.limit


def _gates(least: Mapping[str, float], most: Mapping[str, float]) -> tuple[Gate, ...]:
    return (
        *(Gate(name, limit, True) for name, limit in least.items()),
        *(Gate(name, limit, False) for name, limit in most.items()),
    )


GATES: dict[tuple[str, str], tuple[Gate, ...]] = {
    ("A", "exact"): _gates(
        {"f_score": 0.99, "seen_db": 27.0, "refined_db": 29.0, "oracle": 0.98},
        {
            "triangles_per_100_m2": 150_000, "cracks": 0, "invented": 0.01, "inward": 0,
            "splat_share": 0.25, "merge_loss_db": 0.5, "gravity_deg": 0.2, "scale_error": 0.01,
            "area_error": 0.03,
        },
    ),
    ("A", "noisy"): _gates(
        {"f_score": 0.85, "seen_db": 21.0, "refined_db": 24.0, "oracle": 0.95},
        {
            "triangles_per_100_m2": 150_000, "cracks": 0, "invented": 0.03, "inward": 0,
            "splat_share": 0.25, "gravity_deg": 0.5, "scale_error": 0.03, "area_error": 0.10,
        },
    ),
    ("A", "drift"): _gates({}, {"last_height_m": 0.05, "last_heading_deg": 1.0}),
    ("B", "exact"): _gates({"seen_db": 25.0}, {}),
}  # fmt: skip
"""Gates by row and noise; a measure that was not taken is not judged."""


def misses(row: Mapping[str, float | str]) -> list[str]:
    """Gates that a row does not reach, with the value found."""
    gates = GATES.get((str(row["row"]), str(row["noise"])), ())
    values = {key: float(value) for key, value in row.items() if not isinstance(value, str)}
    if "area_ratio" in values:
        values["area_error"] = abs(values["area_ratio"] - 1)
    return [
        f"{gate.measure} = {values[gate.measure]:.3g} ({'>=' if gate.least else '<='} "
        f"{gate.limit:g})"
        for gate in gates
        if gate.measure in values and not gate.holds(values[gate.measure])
    ]


def as_json() -> dict[str, list[dict[str, float | str | bool]]]:
    """All gates as plain data, for the record of a run."""
    return {
        f"{row} {noise}": [
            {"measure": gate.measure, "limit": gate.limit, "least": gate.least} for gate in gates
        ]
        for (row, noise), gates in GATES.items()
    }
