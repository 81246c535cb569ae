"""How navigable a world is: numbers, gates, and a map that a person can read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from worldloom.scene.errors import GateNotMet
from worldloom.tasks.ground import fit_ground
from worldloom.tasks.levels import fit_level
from worldloom.tasks.navgrid import NavGrid
from worldloom.tasks.world import NavWorld

REPORT_SCHEMA = "worldloom.navreport/1"
MAX_TILT_DEG = 0.5  # Residual tilt after levelling (spec navigation 5.3).
MAX_HOLE_SHARE = 0.01  # Holes inside the enclosed floor (spec navigation 5.3).
MAX_RELIEF_MM = 7.5  # A quarter of the smallest shipped wheel's radius, 30 mm (same place).
MIN_ISLAND_SHARE = 0.9  # Of the navigable area, in the largest island (same place).
MIN_PART_M2 = 0.25  # A part this large that breaks off makes the way to it a passage.
COLOURS = {
    "nothing": (0.97, 0.97, 0.96),
    "unseen": (0.88, 0.88, 0.87),
    "blocked": (0.30, 0.33, 0.38),
    "floor": (0.80, 0.83, 0.86),
    "seen": (0.66, 0.86, 0.70),
    "made_up": (0.96, 0.88, 0.66),
}


def navigability(world: NavWorld, grid: NavGrid) -> dict[str, Any]:
    """The navigability report of a world for one robot, as plain numbers."""
    floor = grid.floors[0]
    areas = floor.island_areas(grid.cell)
    fit = fit_level(world.collider, floor.level)
    walkable = floor.walkable
    made_up = float(floor.made_up[walkable].mean()) if walkable.any() else 0.0
    relief = floor_relief(grid)
    holes = floor_holes(grid)
    report = {
        "schema": REPORT_SCHEMA,
        "robot": grid.robot["name"],
        "navigable_m2": grid.navigable_m2,
        "floor_m2": float((~np.isnan(floor.z)).sum() * grid.cell**2),
        "observed_m2": float(floor.observed.sum() * grid.cell**2),
        "islands": len(areas),
        "largest_island_share": float(areas[0] / areas.sum()) if len(areas) else 0.0,
        "narrowest_passage_m": narrowest_passage(grid),
        "seen_share": 1.0 - made_up,
        "made_up_share": made_up,
        "tilt_deg": fit.tilt_deg,
        "relief_rms_mm": float(1000 * np.sqrt(np.mean(relief**2))),
        "relief_p95_mm": float(1000 * np.percentile(np.abs(relief), 95)),
        "noise_mm": 1000 * floor.noise_m,
        "hole_share": float(holes.sum() / max(1.0, holes.sum() + areas.sum())),
        "largest_hole_m2": float(holes.max(initial=0.0)),
        "clearance_median_m": float(np.median(floor.clearance[walkable])) if len(areas) else 0.0,
        "floors": len(grid.floors),
        "triangles": len(world.collider.faces),
        "scale": dict(world.scale),
    }
    return report | {"gates": _gates(report)}


def floor_relief(grid: NavGrid) -> NDArray[np.float64]:
    """Height of each walkable cell above the robot's footprint plane [m], shape [n]."""
    floor, robot = grid.floors[0], grid.robot
    if not floor.walkable.any():
        return np.zeros(1)
    ground = fit_ground(
        floor.z, radius=robot["radius"], cell=grid.cell, max_step=robot["max_step"],
        max_slope_deg=robot["max_slope_deg"],
    )  # fmt: skip
    return (floor.z - ground.plane)[floor.walkable].astype(np.float64)


def floor_holes(grid: NavGrid) -> NDArray[np.float64]:
    """Areas [m^2] of holes in the floor: a ray straight down from the robot's band misses.

    Furniture and pillars also leave gaps in the floor, but something stands at their rim: a gap
    counts as a hole when less than half of its rim is blocked.
    """
    from scipy.ndimage import binary_dilation, binary_fill_holes, find_objects, label

    floor = grid.floors[0]
    known = ~np.isnan(floor.z)
    gaps, count = label(binary_fill_holes(known & floor.observed) & ~known & ~floor.blocked)
    areas = []
    for number, box in enumerate(find_objects(gaps, count), 1):
        around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
        gap = gaps[around] == number
        rim = binary_dilation(gap, np.ones((3, 3))) & ~gap
        if floor.blocked[around][rim].mean() < 0.5:
            areas.append(gap.sum() * grid.cell**2)
    return np.array(areas, float)


def narrowest_passage(grid: NavGrid) -> float | None:
    """Width [m] of the narrowest passage between two parts of the largest island.

    The island is eroded step by step; the passage is as wide as the erosion at which a part of
    at least MIN_PART_M2 first breaks off. None when none does.
    """
    from scipy.ndimage import label

    floor = grid.floors[0]
    island = floor.island == 0
    if not island.any():
        return None
    radius = float(grid.robot["radius"])
    for room in np.arange(radius, float(floor.clearance[island].max()), grid.cell):
        parts, count = label(island & (floor.clearance >= room))
        areas = np.bincount(parts.ravel(), minlength=count + 1)[1:] * grid.cell**2
        if (areas >= MIN_PART_M2).sum() > 1:
            return float(2 * room)
    return None


def check_gates(report: dict[str, Any], *, min_area_m2: float, strict: bool = False) -> None:
    """Refuse a world that a robot cannot use.

    Args:
        report: What `navigability` found.
        min_area_m2: Navigable area that is needed at least [m^2].
        strict: Also refuse a world that misses any gate of the report.

    Raises:
        GateNotMet: What was found, the bound, and what to try.
    """
    if report["navigable_m2"] < min_area_m2:
        raise GateNotMet(
            f"{report['navigable_m2']:.2f} m^2 of floor can be driven by {report['robot']}; at "
            f"least {min_area_m2:g} m^2 are needed. Of {report['floor_m2']:.2f} m^2 of floor "
            f"{report['observed_m2']:.2f} m^2 were seen by a camera. Try a longer path, another "
            "photo with more floor, or a smaller robot"
        )
    if report["tilt_deg"] > MAX_TILT_DEG:
        raise GateNotMet(
            f"the floor is tilted by {report['tilt_deg']:.2f} degrees; {MAX_TILT_DEG} are allowed. "
            "Give the camera height or a depth map, so that the world can be levelled"
        )
    missed = [name for name, gate in report["gates"].items() if not gate["met"]]
    if strict and missed:
        told = "; ".join(
            f"{name} is {_told(report['gates'][name]['value'])}, wanted "
            f"{report['gates'][name]['bound']}"
            for name in missed
        )
        raise GateNotMet(f"the world misses {len(missed)} gate(s): {told}")


def _told(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _gates(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Every judged number with its bound and whether it is met (spec navigation 5.3)."""
    bounds = {
        "tilt_deg": ("at most", MAX_TILT_DEG),
        "hole_share": ("at most", MAX_HOLE_SHARE),
        "relief_p95_mm": ("at most", MAX_RELIEF_MM),
        "largest_island_share": ("at least", MIN_ISLAND_SHARE),
    }
    gates = {}
    for name, (side, bound) in bounds.items():
        value = report[name]
        met = value <= bound if side == "at most" else value >= bound
        gates[name] = {"value": value, "bound": f"{side} {bound:g}", "met": bool(met)}
    scale = report["scale"].get("status", "unknown")
    gates["scale"] = {"value": scale, "bound": "not unknown", "met": scale != "unknown"}
    return gates


def draw_map(
    grid: NavGrid,
    *,
    paths: Sequence[tuple[NDArray[np.float64], str]] = (),
    starts: Sequence[Sequence[float]] = (),
    goals: Sequence[Sequence[float]] = (),
    cameras: NDArray[np.float64] | None = None,
    title: str = "",
) -> bytes:
    """A top-down map as PNG: X (forward) to the right, Y (left) up.

    Args:
        grid: What to draw; its first floor.
        paths: World polylines [n 2] and their colours.
        starts: World positions of starts.
        goals: World positions of goals.
        cameras: Camera centres [n 3] of the generation path.
        title: Headline.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    floor = grid.floors[0]
    rows, columns = floor.z.shape
    x0, y0 = grid.origin_xy
    box = (x0, x0 + columns * grid.cell, y0, y0 + rows * grid.cell)
    # A long world is drawn smaller, so that it fits a page.
    width = 9.0 if rows <= columns else max(5.0, 9.0 * columns / rows)
    height = float(np.clip(width * rows / columns, 4, 12)) + 0.8
    figure, axes = plt.subplots(figsize=(width, height), dpi=110)
    axes.imshow(_picture(grid), origin="lower", extent=box, interpolation="nearest")
    if cameras is not None:
        axes.plot(cameras[:, 0], cameras[:, 1], color="#7a5cc0", lw=1.2, ls=":", label="cameras")
    for points, colour in paths:
        axes.plot(points[:, 0], points[:, 1], color=colour, lw=1.3, alpha=0.85)
    if len(starts):
        at = np.asarray(starts, float)
        axes.scatter(at[:, 0], at[:, 1], s=16, c="#1f4e8c", marker="o", label="start", zorder=3)
    if len(goals):
        at = np.asarray(goals, float)
        axes.scatter(at[:, 0], at[:, 1], s=34, c="#c0392b", marker="*", label="goal", zorder=3)
    for key, label in (("seen", "drivable, seen in the photo"), ("made_up", "drivable, made up"),
                       ("floor", "floor too near to something"), ("blocked", "obstacle or step"),
                       ("unseen", "not seen")):  # fmt: skip
        axes.scatter([], [], s=60, marker="s", color=COLOURS[key], label=label)
    axes.set(xlabel="x [m]", ylabel="y [m]", title=title)
    axes.set_aspect("equal")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, bbox_inches="tight", metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _picture(grid: NavGrid) -> NDArray[np.float32]:
    floor = grid.floors[0]
    picture = np.full((*floor.z.shape, 3), COLOURS["nothing"], np.float32)
    known = ~np.isnan(floor.z)
    picture[known & ~floor.observed] = COLOURS["unseen"]
    picture[known & floor.observed] = COLOURS["floor"]
    picture[floor.blocked] = COLOURS["blocked"]
    picture[floor.walkable] = COLOURS["seen"]
    picture[floor.walkable & floor.made_up] = COLOURS["made_up"]
    return picture
