"""The table of Lyra's camera presets: what each does, where it can go, and its maker.

Spec generation 9.1, with the faults of the released ones mended: right is right and up is up, the
last frame reaches the full move, the first pose is the identity, no target is ever passed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldloom.scene import lyra_moves as move
from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.lyra_moves import Array
from worldloom.scene.lyra_released import NOISE, ZOOM_TURN_DEG

DOLLY_NEAREST = 0.25
"""A dolly zoom stops at this share of the distance to its target."""
SIDEWAYS, UPRIGHT, INOUT = ("right", "left"), ("up", "down"), ("in", "out")
"""The direction words of a preset, the positive one first."""


@dataclass(frozen=True)
class Setting:
    """What the maker of a preset is given."""

    frames: int
    """Frames to make."""
    sign: float
    """1 for right, up or in; -1 for left, down or out."""
    strength: float
    """Share of the centre depth, or degrees (turns and orbits)."""
    depth: float
    """Centre depth [m, or any scene unit]."""
    noise: Array
    """Standard normal draws, shape [n 2], the first row zero; used by the noisy presets."""

    @property
    def way(self) -> float:
        """Signed strength."""
        return self.sign * self.strength

    @property
    def share(self) -> Array:
        """Share of the move at each frame, 0 at the first and 1 at the last, shape [n]."""
        return np.linspace(0.0, 1.0, self.frames)

    @property
    def early(self) -> Array:
        """Share of a move that is done in the first half, shape [n]."""
        return np.minimum(2 * self.share, 1.0)

    @property
    def late(self) -> Array:
        """Share of a move that is done in the second half, shape [n]."""
        return np.maximum(2 * self.share - 1, 0.0)


Maker = Callable[[Setting], Array]


@dataclass(frozen=True)
class LyraPreset:
    """One preset: its words, its usual strength and what makes it."""

    make: Maker
    """Setting -> local world-to-camera poses [n 4 4]."""
    directions: tuple[str, ...]
    """Directions it knows, the positive one first; empty when it has none."""
    strength: float
    """Strength when none is given."""
    does: str
    """What it does, for help texts."""


def _slide(axis: str, *, sign: float = 1.0, noisy: bool = False, bend: bool = False) -> Maker:
    def make(s: Setting) -> Array:
        way = sign * s.way
        offsets = (
            move.bent_line(s.share, axis, "y", way) if bend else move.line(s.share, axis, way)
        )
        if noisy:
            offsets = offsets + move.jitter(axis, s.noise, NOISE * s.strength)
        return move.facing(offsets, s.depth, ahead=1 + s.strength if axis == "z" else 1.0)

    return make


def _still(axis: str) -> Maker:
    def make(s: Setting) -> Array:
        offsets = move.line(s.early, axis, s.way)
        return move.facing(offsets, s.depth, ahead=1 + s.strength if axis == "z" else 1.0)

    return make


def _ring(s: Setting, rx: float, ry: float, turns: float) -> Array:
    """An ellipse from the start, over the side that the direction says, and back."""
    radii = (rx * s.strength, ry * s.strength)
    return move.circle(2 * np.pi * turns * s.share, radii, sign=-s.sign)


def _spiral_center(s: Setting) -> Array:
    # Swells from the middle and back to it: the released circle starts off the photo's camera.
    radii = (0.03 * s.way, 0.02 * s.strength)
    swell = np.sin(np.pi * s.share)[:, None]
    return move.facing(
        swell * move.circle(2 * np.pi * s.share, radii, centred=True), s.depth
    )


def _horizontal_spiral(s: Setting) -> Array:
    offsets = _ring(s, 0.01875, 0.0125, 2) + move.line(s.share, "z", s.way)
    return move.facing(offsets, s.depth, ahead=1 + s.strength)


def _orbit_horizontal(s: Setting) -> Array:
    angle = np.radians(s.strength) * s.share
    return move.facing(move.arc(angle, "x", sign=s.sign), s.depth)


def _turn(s: Setting) -> Array:
    return move.turning(np.radians(s.way) * s.share)


def _turn_noisy(s: Setting) -> Array:
    return move.turning_noisy(np.radians(s.way) * s.share, s.depth, NOISE, centred=False)


def _turn_zoom(s: Setting, zoom: float) -> Array:
    angle = np.radians(s.sign * ZOOM_TURN_DEG) * s.early
    return move.turn_and_move(angle, zoom * s.strength * s.depth * s.late)


def dolly_way(s: Setting) -> Array:
    """Way of the dolly in units of depth, shape [n].

    Raises:
        InvalidCameraPath: It would come too near to what it looks at.
    """
    if s.way > 1 - DOLLY_NEAREST:
        raise InvalidCameraPath(
            f"the dolly zoom goes {s.strength:g} of the way to its target; the limit is "
            f"{1 - DOLLY_NEAREST:g}, where the view is {1 / DOLLY_NEAREST:g} x as wide. Use a "
            "smaller strength",
            field="path",
        )
    return s.share * s.way


LYRA_PRESETS: dict[str, LyraPreset] = {
    "original": LyraPreset(
        lambda s: np.broadcast_to(np.eye(4), (s.frames, 4, 4)).copy(), (), 1.0, "stands still"
    ),
    "spiral": LyraPreset(
        lambda s: move.facing(_ring(s, 0.15, 0.10, 2), s.depth), SIDEWAYS, 1.0,
        "two rounds of an ellipse, facing the centre",
    ),
    "spiral_center": LyraPreset(
        _spiral_center, SIDEWAYS, 1.0, "one small round about the start, facing the centre"
    ),
    "spiral_outwards": LyraPreset(
        lambda s: move.gazing(_ring(s, 0.3, 0.2, 1)), SIDEWAYS, 0.5,
        "stands and lets its gaze go round an ellipse",
    ),
    "horizontal": LyraPreset(_slide("x"), SIDEWAYS, 0.5, "sideways, facing the centre"),
    "horizontal_noise": LyraPreset(
        _slide("x", noisy=True), SIDEWAYS, 0.5, "sideways with a tremble"
    ),
    "horizontal_lift": LyraPreset(
        _slide("y", sign=-1.0), UPRIGHT, 0.3, "up or down, facing the centre"
    ),
    "horizontal_lift_noise": LyraPreset(
        _slide("y", sign=-1.0, noisy=True), UPRIGHT, 0.3, "up or down with a tremble"
    ),
    "horizontal_zoom": LyraPreset(_slide("z"), INOUT, 0.5, "ahead or back"),
    "horizontal_zoom_noise": LyraPreset(
        _slide("z", noisy=True), INOUT, 0.5, "ahead or back with a tremble"
    ),
    "horizontal_zoom_bend": LyraPreset(
        _slide("z", bend=True), INOUT, 0.5, "ahead and a little down, or back and up"
    ),
    "horizontal_zoom_noise_bend": LyraPreset(
        _slide("z", noisy=True, bend=True), INOUT, 0.5, "the same with a tremble"
    ),
    "horizontal_zoom_still": LyraPreset(
        _still("z"), INOUT, 0.5, "ahead or back in the first half, then still"
    ),
    "horizontal_still": LyraPreset(
        _still("x"), SIDEWAYS, 0.5, "sideways in the first half, then still"
    ),
    "horizontal_simple": LyraPreset(
        lambda s: move.sliding(move.line(s.share, "x", s.way), s.depth), SIDEWAYS, 0.5,
        "sideways, looking ahead",
    ),
    "vertical_simple": LyraPreset(
        lambda s: move.sliding(move.line(s.share, "y", -s.way), s.depth), UPRIGHT, 0.3,
        "up or down, looking ahead",
    ),
    "horizontal_outward": LyraPreset(
        lambda s: move.facing(move.line(s.share, "x", s.way), s.depth, outward=2.0), SIDEWAYS,
        0.5, "sideways, looking out to that side",
    ),
    "back": LyraPreset(
        lambda s: move.facing(_ring(s, 0.3, 0.2, 1), s.depth), SIDEWAYS, 1.0,
        "a wide sweep and back to the start, facing the centre",
    ),
    "back_simple": LyraPreset(
        lambda s: move.facing(_ring(s, 0.15, 0.1, 1), s.depth), SIDEWAYS, 1.0,
        "a narrow sweep and back to the start",
    ),
    "dolly_zoom": LyraPreset(
        lambda s: move.sliding(move.line(dolly_way(s), "z", 1.0), s.depth), INOUT, 0.5,
        "ahead or back while the centre keeps its size in the picture",
    ),
    "horizontal_spiral": LyraPreset(
        _horizontal_spiral, INOUT, 0.5, "ahead or back on a thin spiral"
    ),
    "orbit_horizontal": LyraPreset(
        _orbit_horizontal, SIDEWAYS, 30.0, "around the centre sideways; strength in degrees"
    ),
    "orbit_vertical": LyraPreset(
        lambda s: move.over(np.radians(s.way) * s.share, s.depth), UPRIGHT, 20.0,
        "around the centre up or down; strength in degrees",
    ),
    "rotate_zoom_in": LyraPreset(
        lambda s: _turn_zoom(s, 1.0), SIDEWAYS, 0.5, "turns 20 degrees, then goes ahead"
    ),
    "rotate_zoom_out": LyraPreset(
        lambda s: _turn_zoom(s, -1.0), SIDEWAYS, 0.5, "turns 20 degrees, then goes back"
    ),
    "rotate_spot": LyraPreset(_turn, SIDEWAYS, 45.0, "turns on the spot; strength in degrees"),
    "rotate_spot_noise": LyraPreset(
        _turn_noisy, SIDEWAYS, 45.0, "turns on a tiny circle; strength in degrees"
    ),
}  # fmt: skip
