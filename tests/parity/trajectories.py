"""Adapter of camera presets, helper moves, the zoom script, trajectory files and depth windows.

`depth_window_selection` has its content in `data`: each entry of `data.cases` holds the settings
and `selected`, which is computed anew; `process_res` (the longer side of that run's pictures) and
`scripts_default` (a sentence) describe the recording and are handed back as they are. The numbers
of the helper moves stand in the sentences of `config.details` and are read from there.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.parity.harness import Case
from worldloom.generator.video.lyra import depth_align, depth_window
from worldloom.scene import lyra_moves as move
from worldloom.scene import lyra_released as released
from worldloom.scene import lyra_zoom, path_files
from worldloom.scene.frame import (
    invert_rigid,
    matrix_from_quat_wxyz,
    quat_wxyz_from_matrix,
    rigid,
    slerp_wxyz,
)
from worldloom.scene.lyra_presets import lyra_cameras

NUMBER = re.compile(r"(?<![\w.])-?\d*\.?\d+")
DEFAULT_RADII = (0.03, 0.02)  # Of the released helpers, in units of the centre depth.


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case."""
    t = {key: value.double().numpy() for key, value in case.inputs.items()}
    if case.data is not None:
        return {"data": _selection(case.data)}
    if case.name.startswith("depth_window"):
        return {"uint8": depth_window.to_uint8(case.inputs["pixels"][0, :, 0])}
    if "entries" in case.config:
        return _presets(case.config, t)
    if "details" in case.config:
        return _functions(case.config, t, list(case.outputs))
    if "preset" in case.config:
        return _zoom(case.config, t)
    return _misc(case.config, t)


def _presets(c: dict[str, Any], t: dict[str, np.ndarray]) -> dict[str, Any]:
    out = {}
    for entry in c["entries"]:
        key = f"{entry['preset']}.{entry['direction']}"
        w2c, K = lyra_cameras(
            entry["preset"], t["w2c"], t["K"], frames=c["frames"], direction=entry["direction"],
            strength=c["strength"], depth=c["center_depth"], noise=t.get(f"{key}.noise"),
            reference_quirks=True,
        )  # fmt: skip
        out[f"{key}.w2c"] = w2c
        out[f"{key}.K"] = K[:1] if entry["intrinsics_constant"] else K
    return out


def _words(text: str) -> SimpleNamespace:
    """Numbers and words of a sentence such as "axis x, distance .3, left"."""
    axes = re.findall(r"axis (\w)", text)
    return SimpleNamespace(
        numbers=[float(x) for x in NUMBER.findall(text)],
        axes=axes,
        left=bool(re.search(r"left|inwards? left", text)),
        down="down" in text,
        out=bool(re.search(r"\bout\b|outwards True|inwards False", text)),
    )


def _functions(
    c: dict[str, Any], t: dict[str, np.ndarray], outputs: list[str]
) -> dict[str, Any]:
    d = {key: _words(text) for key, text in c["details"].items()}
    depth, n, E = c["center_depth"], c["n"], t["w2c"]
    out = {key: make(d[key], depth, n) @ E for key, make in MOVES.items() if key in d}
    out["orbit_one_step"] = move.facing(move.arc(np.zeros(1), "x"), depth) @ E
    camera, target = np.array(d["look_at"].numbers).reshape(2, 3)
    out["look_at"] = move.look_at_w2c(camera, target)
    out["look_at_raw"] = move.look_at_w2c(camera, target, raw=True)
    for key in outputs:
        if key.startswith("slerp_") and key != "slerp_same":
            out[key] = slerp_wxyz(t["q1"], t["q2"], float(key.removeprefix("slerp_")))
    out["slerp_same"] = slerp_wxyz(t["q1"], t["q1"], 0.5)
    out["quat_matrix"] = rigid(matrix_from_quat_wxyz(t["q1"]), np.zeros(3))
    out["matrix_quat"] = _shepperd_sign(quat_wxyz_from_matrix(matrix_from_quat_wxyz(t["q2"])))
    return out


def _shepperd_sign(q: np.ndarray) -> np.ndarray:
    """The sign that the branches of Shepperd's method leave: w, or the largest of x, y, z, > 0."""
    lead = 0 if 4 * q[0] ** 2 > 1 else 1 + int(np.argmax(np.abs(q[1:])))
    return q * np.sign(q[lead])


def _asked(words: SimpleNamespace, depth: float, n: int) -> released.Released:
    word = "left" if words.left else "right"
    return released.Released(n, word, 1.0, depth, np.zeros((n, 2)))


def _spiral(words, depth, n):
    *radii, turns = words.numbers
    angle = 2 * np.pi * turns * np.linspace(0, 1, n)
    return move.facing(move.circle(angle, radii, sign=-1.0 if words.left else 1.0), depth)


def _spiral_along(words, depth, n):
    offsets = released.spiral_along(
        _asked(words, depth, n), words.axes[0], words.numbers[0], DEFAULT_RADII, 1, centred=True
    )
    return move.gazing(offsets) if words.out else move.facing(offsets, depth)


def _bend(words, depth, n):
    distance = words.numbers[0] * (-1 if words.left else 1)
    offsets = move.bent_line(np.arange(n) / n, words.axes[0], words.axes[1], distance)
    return move.facing(offsets, depth, outward=2.0 if words.out else 0.0)


def _spot(words, depth, n):
    return released.turn_on_spot(_asked(words, depth, n), words.numbers[0])


def _spot_noise(words, depth, n):
    angle, level = words.numbers
    return released.turn_on_spot(_asked(words, depth, n), angle, level=level)


def _rotate_zoom(words, depth, n):
    angle, way = words.numbers
    asked = _asked(words, depth, n)
    way = -way if words.out else way
    return released.turn_then_zoom(asked, angle, way, turn_sign=asked.sign)


def _orbit(words, depth, n):
    # The released orbit "about x" leaves along y, and about y along x.
    word = ("down" if words.down else "up") if words.axes[0] == "x" else "right"
    asked = released.Released(n, word, 1.0, depth, np.zeros((n, 2)))
    return released.orbit(asked, "y" if words.axes[0] == "x" else "x", words.numbers[0])


MOVES = {
    "spiral_z": _spiral, "spiral_horizontal_x": _spiral_along,
    "spiral_horizontal_y_out": _spiral_along, "bend_x_z": _bend, "bend_y_x": _bend,
    "rotate_spot_65": _spot, "rotate_spot_noise_65": _spot_noise, "rotate_zoom": _rotate_zoom,
    "orbit_x_down": _orbit,
}  # fmt: skip


def _zoom(c: dict[str, Any], t: dict[str, np.ndarray]) -> dict[str, Any]:
    centre = move.centre_depth(t["depth"], t["mask"])
    w2c = lyra_zoom.script_w2c(
        c["preset"], direction=c["direction"], strength=c["strength"], frames=c["frames"],
        depth=centre, upward_ratio=c["zoom_out_upward_ratio"],
        ground_normal=t.get("ground_normal"), ground_rise=c["upward_shift"],
        reference_quirks=True,
    )  # fmt: skip
    K = np.tile(t["K"], (len(w2c), 1, 1))
    return {"w2c": w2c, "K": K, "center_depth": np.array(centre)}


def _misc(c: dict[str, Any], t: dict[str, np.ndarray]) -> dict[str, Any]:
    w2c, K = path_files.lyra_cameras_as_released(
        t["w2c"], t["K"], tuple(c["source_hw"]), tuple(c["target_hw"]),
        frames=c["frames_loaded"], pose_scale=c["pose_scale"],
    )  # fmt: skip
    out = {"loaded_w2c": w2c, "loaded_K": K}
    out["K_resize_crop"] = path_files.rescaled_intrinsics(
        t["K_train"], tuple(c["source_hw"]), tuple(c["train_resize"]),
        crop_hw=tuple(c["train_crop"]),
    )  # fmt: skip
    extrinsics = [key for key in t if key.startswith("ext_")]
    out.update({key: depth_align.spread_centres(t[key]) for key in extrinsics})
    out["centers"] = invert_rigid(t["w2c"])[:, :3, 3]
    out["ground_parallel"] = lyra_zoom.along_ground(t["w2c"], t["ground_normal"])
    return out


def _selection(data: dict[str, Any]) -> dict[str, Any]:
    cases = []
    for given in data["cases"]:
        window = depth_window.DepthWindow(
            interval=given["frame_interval"], most=given["max_history_frames"],
            chunk_ends=given["include_chunk_last_frames"], chunk=given["chunk"],
        )  # fmt: skip
        cases.append({**given, "selected": window.frames(given["last_frame"])})
    return {**data, "cases": cases}
