"""Lyra's camera presets exactly as released: name -> world-to-camera poses, faults included.

For comparing with the released model on the paths it shipped with; `lyra_presets` holds the ones
that go where they say. The faults kept here (spec generation 9.1): "right" spirals and turns go
left, "right" lifts go down, moving presets stop one step short, the second half of `rotate_zoom`
leaves the viewing axis, `dolly_zoom` passes its target, `back` stands still for half of its 2n-1
frames, orbits count radians where turns count degrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from worldloom.scene import lyra_moves as move
from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.lyra_moves import Array

NOISE = 1e-4
"""Standard deviation of noisy presets over the whole move; noise level of the noisy turn."""
ZOOM_TURN_DEG = 20.0
"""Turn before the zoom of `rotate_zoom_*` [degrees]."""
DOLLY_TARGET = 0.185
"""Distance of the dolly's target in units of the centre depth."""
DOLLY_WAY = 3.0
"""Way of the dolly in scene units, whatever their scale."""
BACK_RADII, BACK_SIMPLE_RADII = (0.3, 0.2), (0.15, 0.1)
"""Radii of the sweep of `back` and `back_simple` in scene units."""


@dataclass(frozen=True)
class Released:
    """What a released preset is given."""

    frames: int
    """Frames asked for."""
    direction: str
    """Word of the direction; all but "right" ("up" where the preset is vertical) go left."""
    strength: float
    """Share of the centre depth, radians (orbits) or degrees (turns)."""
    depth: float
    """Centre depth in scene units."""
    noise: Array
    """Standard normal draws, shape [n 2]; used by the noisy presets."""

    @property
    def sign(self) -> float:
        """1 for right, -1 for every other direction."""
        return 1.0 if self.direction == "right" else -1.0

    @property
    def way(self) -> float:
        """Signed strength of the presets that go right or left."""
        return self.sign * self.strength

    @property
    def share(self) -> Array:
        """Share of the move at each frame, the last one reaching 1, shape [n]."""
        return np.linspace(0.0, 1.0, self.frames)

    @property
    def short(self) -> Array:
        """Share of the move at each frame, the last one staying short of 1, shape [n]."""
        return np.arange(self.frames) / self.frames

    @property
    def still(self) -> Array:
        """Share that moves in the first half and then stays, shape [n]."""
        half = max(self.frames // 2, 1)
        return np.minimum(np.arange(self.frames), half - 1) / half


Maker = Callable[[Released], Array]


def released_w2c(name: str, asked: Released) -> Array:
    """Local world-to-camera poses of the released preset `name`, shape [n' 4 4].

    Raises:
        InvalidCameraPath: The released code fails for this number of frames.
    """
    return RELEASED[name](asked)


def released_focal(name: str, asked: Released) -> Array | None:
    """Focal length of each frame as a share of the first one's, shape [n]; None = constant."""
    if name != "dolly_zoom":
        return None
    near = DOLLY_TARGET * asked.depth
    return near / (near + DOLLY_WAY * asked.share)


def spiral_along(
    asked: Released, axis: str, distance: float, radii: tuple[float, ...], turns: float, *,
    centred: bool,
) -> Array:  # fmt: skip
    """Offsets [n 3] of a spiral that advances by `distance` along `axis`, in units of depth."""
    offsets = move.circle(
        2 * np.pi * turns * asked.share, radii, sign=asked.sign, centred=centred
    )
    return offsets + move.line(asked.share, axis, asked.sign * distance)


def turn_then_zoom(
    asked: Released, turn_deg: float, distance: float, *, turn_sign: float
) -> Array:
    """Turn in the first half, then move by `distance` (in units of depth) beside the view."""
    half = asked.frames // 2
    angle = np.concatenate([
        np.linspace(0.0, turn_deg, half), np.full(asked.frames - half, turn_deg),
    ])  # fmt: skip
    way = np.concatenate([np.zeros(half), np.linspace(0.0, distance, asked.frames - half)])
    return move.turn_and_move(
        -turn_sign * np.radians(angle), asked.depth * way, released=True
    )


def orbit(asked: Released, axis: str, angle_rad: float) -> Array:
    """Around the point one depth ahead by `angle_rad`, facing it."""
    if axis == "x":
        offsets = move.arc(angle_rad * asked.share, "x", sign=asked.sign)
    else:
        sign = -1.0 if asked.direction == "up" else 1.0
        offsets = move.arc(angle_rad * asked.share, "y", sign=sign)
    return move.facing(offsets, asked.depth)


def turn_on_spot(asked: Released, turn_deg: float, *, level: float | None = None) -> Array:
    """Turn by `turn_deg`, to the other side than the direction says."""
    angle = -asked.sign * np.radians(turn_deg * asked.share)
    if level is None:
        return move.turning(angle)
    return move.turning_noisy(angle, asked.depth, level, centred=True)


def _slide(
    axis: str, *, noisy: bool = False, bend: bool = False, still: bool = False
) -> Maker:
    def make(asked: Released) -> Array:
        share = asked.still if still else asked.short
        if bend:
            offsets = move.bent_line(share, axis, "y", asked.way)
        else:
            offsets = move.line(share, axis, asked.way)
        if noisy:
            offsets = offsets + move.jitter(axis, asked.noise, NOISE * asked.strength)
        ahead = 1 + asked.strength if axis == "z" else 1.0
        return move.facing(offsets, asked.depth, ahead=ahead)

    return make


def _spiral(asked: Released) -> Array:
    radii = (0.15 * asked.strength, 0.10 * asked.strength)
    offsets = move.circle(4 * np.pi * asked.share, radii, sign=asked.sign)
    return move.facing(offsets, asked.depth)


def _spiral_center(asked: Released) -> Array:
    offsets = move.circle(2 * np.pi * asked.share, (0.03, 0.02), centred=True)
    return move.facing(offsets, asked.depth)


def _spiral_outwards(asked: Released) -> Array:
    radii = (0.3 * asked.strength, 0.2 * asked.strength)
    return move.gazing(move.circle(2 * np.pi * asked.share, radii, sign=asked.sign))


def _horizontal_spiral(asked: Released) -> Array:
    radii = (0.01875 * asked.strength, 0.0125 * asked.strength)
    offsets = spiral_along(asked, "z", asked.strength, radii, 2, centred=False)
    return move.facing(offsets, asked.depth, ahead=1 + asked.strength)


def _horizontal_simple(asked: Released) -> Array:
    return move.sliding(move.line(asked.share, "x", asked.way), asked.depth)


def _vertical_simple(asked: Released) -> Array:
    sign = -1.0 if asked.direction == "up" else 1.0
    return move.sliding(move.line(asked.share, "y", sign * asked.strength), asked.depth)


def _horizontal_outward(asked: Released) -> Array:
    return move.facing(move.line(asked.short, "x", asked.way), asked.depth, outward=2.0)


def _sweep(asked: Released, radii: tuple[float, float], *, raw: bool) -> Array:
    """Stand for n frames, then n-1 frames of an ellipse in scene units."""
    if asked.frames < 3:
        raise InvalidCameraPath(
            f"the released 'back' divides by zero for {asked.frames} frames; it needs at least 3. "
            "Use more frames or leave the reference quirks off",
            field="path.frames",
        )
    angle = 2 * np.pi * np.arange(asked.frames - 1) / (asked.frames - 2)
    offsets = move.circle(angle, radii, sign=asked.sign) / asked.depth
    poses = move.facing(offsets, asked.depth, raw=raw)
    return np.concatenate([np.broadcast_to(np.eye(4), (asked.frames, 4, 4)), poses])


def _dolly(asked: Released) -> Array:
    offsets = move.line(asked.share, "z", DOLLY_WAY / asked.depth)
    return move.facing(offsets, asked.depth, ahead=DOLLY_TARGET)


RELEASED: dict[str, Maker] = {
    "original": lambda a: np.broadcast_to(np.eye(4), (a.frames, 4, 4)),
    "spiral": _spiral,
    "spiral_center": _spiral_center,
    "spiral_outwards": _spiral_outwards,
    "horizontal": _slide("x"),
    "horizontal_noise": _slide("x", noisy=True),
    "horizontal_lift": _slide("y"),
    "horizontal_lift_noise": _slide("y", noisy=True),
    "horizontal_zoom": _slide("z"),
    "horizontal_zoom_noise": _slide("z", noisy=True),
    "horizontal_zoom_bend": _slide("z", bend=True),
    "horizontal_zoom_noise_bend": _slide("z", noisy=True, bend=True),
    "horizontal_zoom_still": _slide("z", still=True),
    "horizontal_still": _slide("x", still=True),
    "horizontal_simple": _horizontal_simple,
    "vertical_simple": _vertical_simple,
    "horizontal_outward": _horizontal_outward,
    "back": lambda a: _sweep(a, BACK_RADII, raw=True),
    "back_simple": lambda a: _sweep(a, BACK_SIMPLE_RADII, raw=False),
    "dolly_zoom": _dolly,
    "horizontal_spiral": _horizontal_spiral,
    "orbit_horizontal": lambda a: orbit(a, "x", a.strength),
    "orbit_vertical": lambda a: orbit(a, "y", a.strength),
    "rotate_zoom_in": lambda a: turn_then_zoom(
        a, ZOOM_TURN_DEG, a.strength, turn_sign=a.sign
    ),
    "rotate_zoom_out": lambda a: turn_then_zoom(
        a, ZOOM_TURN_DEG, -a.strength, turn_sign=a.sign
    ),
    "rotate_spot": lambda a: turn_on_spot(a, a.strength),
    "rotate_spot_noise": lambda a: turn_on_spot(a, a.strength, level=NOISE),
}
