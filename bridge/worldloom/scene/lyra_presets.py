"""Lyra's camera presets by name -> poses that go where the names say, or exactly as released.

Spec generation 9.1. By default right is right and up is up, the last frame reaches the full move,
exactly `frames` poses come back, the first of them is the identity, and no look-at target is ever
passed. With `reference_quirks` the released behaviour is reproduced (`lyra_released`). Lyra has no
metres: every move is a multiple of the centre depth, the lower quartile of the photo's depth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from worldloom.scene.errors import InvalidCameraPath
from worldloom.scene.frame import invert_rigid
from worldloom.scene.lyra_moves import Array
from worldloom.scene.lyra_released import Released, released_focal, released_w2c
from worldloom.scene.lyra_table import (
    INOUT,
    LYRA_PRESETS,
    SIDEWAYS,
    UPRIGHT,
    LyraPreset,
    Setting,
    dolly_way,
)
from worldloom.scene.path import CameraPath, lyra_frames, path_from_poses

CENTRE_DEPTH_M = 2.0
"""Centre depth [m] when none is given: the lower quartile of a furnished room, as `orbit` takes."""
FIELD_OF_VIEW_DEG = 60.0
"""Horizontal field of view [degrees] that a dolly zoom starts from when none is given."""
SYNONYMS = {"in": {"right": "in", "left": "out"}}
"""Lyra's own words for a zoom in and out (its zoom script asks for "right" and "left")."""
RELEASED_WORDS = {"in": "right", "out": "left"}
"""What the released zooms call in and out."""
RELEASED_DIRECTIONS = (*SIDEWAYS, *UPRIGHT, *INOUT)
"""Words that the released presets are given here."""


def lyra_w2c(
    name: str,
    *,
    frames: int,
    direction: str | None = None,
    strength: float | None = None,
    depth: float = CENTRE_DEPTH_M,
    noise: ArrayLike | None = None,
    seed: int = 0,
    reference_quirks: bool = False,
) -> tuple[Array, Array | None]:
    """World-to-camera poses of a preset in the first camera's axes, and its change of focal length.

    Args:
        name: A key of LYRA_PRESETS.
        frames: Frames to make, at least 2.
        direction: A word that the preset knows; None takes its first one.
        strength: Share of the centre depth, or degrees for turns and orbits (radians for orbits
            with `reference_quirks`); None takes the preset's own.
        depth: Centre depth in metres or any other scene unit.
        noise: Standard normal draws, shape [n 2], for the noisy presets; None draws from `seed`.
        seed: Seed of those draws.
        reference_quirks: The released poses with all their faults; `back` then has 2n-1 of them.

    Returns:
        Poses [n 4 4] in units of `depth`'s unit, and focal lengths [n] as a share of the first
        one's, or None when they stay.

    Raises:
        InvalidCameraPath: An unknown name or direction, or a number out of its range.
    """
    preset = find_preset(name)
    if strength is None:
        in_radians = reference_quirks and name.startswith("orbit")
        strength = np.radians(preset.strength) if in_radians else preset.strength
    _check_numbers(name, frames, strength, depth, released=reference_quirks)
    draws = _draws(frames, noise, seed, pinned=not reference_quirks)
    if reference_quirks:
        word = _released_direction(direction or "right")
        asked = Released(frames, word, strength, depth, draws)
        return released_w2c(name, asked), released_focal(name, asked)
    sign = _sign(name, preset, direction)
    setting = Setting(frames, sign, strength, depth, draws)
    focal = 1 - dolly_way(setting) if name == "dolly_zoom" else None
    return preset.make(setting), focal


def lyra_cameras(
    name: str, w2c0: ArrayLike, K0: ArrayLike, **settings: object
) -> tuple[Array, Array]:
    """World-to-camera poses [n 4 4] and intrinsics [n 3 3] of a preset from a first camera.

    Args:
        name: A key of LYRA_PRESETS.
        w2c0: First camera, world to camera, shape [4 4].
        K0: Its intrinsics in pixels, shape [3 3].
        **settings: As for `lyra_w2c`.

    Raises:
        InvalidCameraPath: As for `lyra_w2c`.
    """
    local, focal = lyra_w2c(name, **settings)  # type: ignore[arg-type]
    K = np.broadcast_to(np.asarray(K0, float), (len(local), 3, 3)).copy()
    if focal is not None:
        K[:, 0, 0] *= focal
        K[:, 1, 1] *= focal
    return local @ np.asarray(w2c0, float), K


def lyra_path(
    name: str,
    *,
    frames: int = 81,
    fov: float = FIELD_OF_VIEW_DEG,
    reference_quirks: bool = False,
    **settings: object,
) -> CameraPath:
    """A preset as a camera path relative to the photo's camera [m].

    Args:
        name: A key of LYRA_PRESETS.
        frames: Frames wanted; rounded up to whole chunks (1 + 80 n).
        fov: Horizontal field of view [degrees] that a dolly zoom starts from.
        reference_quirks: See `lyra_w2c`.
        **settings: `direction`, `strength`, `depth` [m], `seed`, as for `lyra_w2c`.

    Raises:
        InvalidCameraPath: As for `lyra_w2c`, or the released poses are not finite.
    """
    w2c, focal = lyra_w2c(
        name, frames=lyra_frames(frames), reference_quirks=reference_quirks, **settings
    )  # type: ignore[arg-type]
    degrees = None
    if focal is not None:
        degrees = np.degrees(2 * np.arctan(np.tan(np.radians(fov) / 2) / focal))
    return path_from_poses(invert_rigid(w2c), name=f"lyra:{name}", fov_deg=degrees)


def find_preset(name: str) -> LyraPreset:
    """The preset called `name`.

    Raises:
        InvalidCameraPath: There is none; the text lists what exists.
    """
    if name not in LYRA_PRESETS:
        raise InvalidCameraPath(
            f"unknown Lyra preset {name!r}; presets are {', '.join(LYRA_PRESETS)}", field="path"
        )
    return LYRA_PRESETS[name]


def _sign(name: str, preset: LyraPreset, direction: str | None) -> float:
    if direction is None or not preset.directions:
        return 1.0
    word = SYNONYMS.get(preset.directions[0], {}).get(direction, direction)
    if word not in preset.directions:
        raise InvalidCameraPath(
            f"Lyra preset {name!r} has no direction {direction!r}; it goes "
            f"{' or '.join(preset.directions)}",
            field="path",
        )
    return 1.0 if word == preset.directions[0] else -1.0


def _released_direction(word: str) -> str:
    if word not in RELEASED_DIRECTIONS:
        raise InvalidCameraPath(
            f"unknown direction {word!r}; use {', '.join(RELEASED_DIRECTIONS)}", field="path"
        )
    return RELEASED_WORDS.get(word, word)


def _check_numbers(
    name: str, frames: int, strength: float, depth: float, *, released: bool
) -> None:
    least = 1 if released else 2
    if frames < least:
        raise InvalidCameraPath(
            f"Lyra preset {name!r} has {frames} frame(s); at least {least} are needed",
            field="path.frames",
        )
    for what, value in {"strength": strength, "depth": depth}.items():
        positive = value > 0 or (released and what == "strength")
        if not (np.isfinite(value) and positive):
            raise InvalidCameraPath(
                f"Lyra preset {name!r} has {what} {value:g}; it must be finite and above 0. "
                "The direction says which way",
                field="path",
            )


def _draws(frames: int, noise: ArrayLike | None, seed: int, *, pinned: bool) -> Array:
    """Draws [n 2]; `pinned` keeps the first pose where it is."""
    if noise is None:
        draws = np.random.default_rng(int(seed)).standard_normal((frames, 2))
    else:
        draws = np.array(noise, float).reshape(frames, 2)
    if pinned:
        draws[0] = 0.0
    return draws
