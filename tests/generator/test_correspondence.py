"""Where new pixels lie in remembered frames: recorded numbers, and the spec read plainly."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numba
import numpy as np
import pytest

from worldloom.generator.memory import splat
from worldloom.generator.memory.correspondence import (
    correspondence_new,
    fill_history_slot,
    fill_new,
    warp_reference,
    warp_views,
)
from worldloom.generator.memory.rays import (
    canonical_coordinates,
    fold_blocks,
    last_of_latents,
)
from worldloom.generator.memory.sources import SourceFrame, Targets
from worldloom.scene.errors import EngineFailed
from worldloom.scene.frame import rotation_about

ROOT = Path(__file__).parents[2]
WHOLE = Path(os.environ.get("WORLDLOOM_GOLDEN") or ROOT.parent / "shared" / "golden")
FOLDER = WHOLE if (WHOLE / "cases.json").is_file() else ROOT / "tests" / "golden"
CASES = (
    {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())["cases"]}
    if (FOLDER / "cases.json").is_file()
    else {}
)
PREPARED = [name for name in CASES if name.startswith("prep_") and name != "prep_weights"]


def load(name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(FOLDER / CASES[name]["file"])


def agree(name: str, have: np.ndarray, want: np.ndarray) -> None:
    tolerance = CASES[name]["tolerance"]
    assert have.shape == want.shape
    bound = tolerance["atol"] + tolerance["rtol"] * np.abs(want)
    bad = float((np.abs(have - want) > bound).mean())
    assert bad <= tolerance["max_bad_fraction"], f"{name}: {bad:.4%} of the values differ"


def chunk(t: dict[str, np.ndarray], config: dict) -> Targets:
    new = slice(config["known_frames"], config["known_frames"] + config["new_frames"])
    return Targets.of(
        t["in.camera_w2c"][0, new], t["in.intrinsics"][0, new], (config["W"], config["H"]),
        warp_chunk=config["warp_chunk_size"],
    )  # fmt: skip


def made(sources: list[SourceFrame], targets: Targets, slots: int) -> np.ndarray:
    return correspondence_new(
        sources, targets.w2c, targets.K, targets.size, slots=slots, warp_chunk=targets.warp_chunk
    )


@pytest.mark.parametrize("name", PREPARED)
def test_new_frames_correspond_as_in_the_reference(name: str) -> None:
    t, config = load(name), CASES[name]["config"]
    rows = [t["in.cache_frame_ids"].tolist().index(i) for i in t["out.frame_ids"]]
    best_first = [
        SourceFrame(t["in.cache_depth"][k, 0, 0], t["in.cache_w2c"][k, 0], t["in.cache_K"][k, 0])
        for k in reversed(rows)
    ]
    targets = chunk(t, config)
    have = made(best_first, targets, config["spatial_slots"])
    want = t.get("out.buffer_new", t.get("out.buffer"))[0][:, -have.shape[1] :]
    agree(name, have, want)


@pytest.mark.parametrize("name", PREPARED)
def test_the_last_frame_is_warped_as_in_the_reference(name: str) -> None:
    t, config = load(name), CASES[name]["config"]
    last, targets = config["known_frames"] - 1, chunk(t, config)
    source = SourceFrame(
        t["in.buffer_depth"][0, 0], t["in.camera_w2c"][0, last], t["in.intrinsics"][0, last]
    )
    rgb = np.moveaxis(t["in.video"][0, :, last], 0, -1)
    args = (source, rgb, targets.w2c, targets.K, targets.size)
    have = np.moveaxis(warp_reference(*args, warp_chunk=targets.warp_chunk), -1, 0)
    agree(name, have, t["out.warped_last"][0])
    assert have.flags.c_contiguous


def memory_positions(layout: str) -> tuple[int | None, ...]:
    kinds = [
        kind for count, kind in re.findall(r"f(\d+)([ks])\d+", layout) for kind in kind * int(count)
    ]
    ranks = iter(range(len(kinds)))
    return tuple(next(ranks) if kind == "s" else None for kind in kinds)


@pytest.mark.parametrize("name", ["prep_full_slots", "prep_other_layout"])
def test_the_history_part_is_that_of_the_reference(name: str) -> None:
    if name not in CASES:
        pytest.skip("not recorded")
    t, config = load(name), CASES[name]["config"]
    want, slots = t["out.buffer"][0], config["spatial_slots"]
    have = np.zeros_like(want)
    positions = memory_positions(config["framepack_type"])
    for place, slot in enumerate(positions):
        if slot is not None:
            fill_history_slot(have[:, place], slot, slots, (config["W"], config["H"]))
    np.testing.assert_allclose(have[:, : len(positions)], want[:, : len(positions)], atol=1e-6)


SIZE, K = (40, 24), np.array([[33.0, 0, 19.3], [0, 31.0, 11.6], [0, 0, 1]])


def pose(x: float, y: float, z: float, yaw: float) -> np.ndarray:
    w2c = np.eye(4)
    w2c[:3, :3] = rotation_about([0.1, 1, 0], np.radians(yaw))
    w2c[:3, 3] = x, y, z
    return w2c


def room(seed: int, width: int = 40, height: int = 24, *, holes: bool = True) -> SourceFrame:
    """A sloped wall with a box before it, some depths missing, seen from near the origin."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    depth = (3 + 0.02 * x + 0.01 * y + 0.3 * rng.random()).astype(np.float32)
    depth[6:16, 10:22] = 1.8
    if holes:
        depth[rng.random(depth.shape) < 0.01] = 0
    w2c = pose(*(0.2 * rng.standard_normal(3)), 4 * rng.standard_normal())
    return SourceFrame(depth, w2c, K)


def path(kind: str, count: int = 22) -> np.ndarray:
    s = np.linspace(0, 1, count)
    return {
        "forwards": np.stack([pose(0, 0, -1.2 * a, 0) for a in s]),
        "backwards": np.stack([pose(0, 0.1, 2 * a, 3 * a) for a in s]),
        "turning": np.stack([pose(0, 0, 0, 60 * a) for a in s]),
        "away": np.stack([pose(0, 0, -30 * a, 0) for a in s]),
        "wild": np.stack([pose(*np.sin([3 * a, 5 * a, 40 * a]), 50 * np.sin(9 * a)) for a in s]),
    }[kind]


def spelt_out(sources: list[SourceFrame], targets: Targets, slots: int) -> np.ndarray:
    """Warp every slot to every frame, in chunks, and normalise, as the released code does."""
    width, height = targets.size
    coords, depths = [], []
    for rank, source in enumerate(sources):
        shape = source.depth.shape[::-1]
        canonical = canonical_coordinates(slots, shape)[slots - 1 - rank]
        parts = [
            splat.soft_warp(
                canonical[None], source.points[None], source.reliable[None],
                targets.w2c[i : i + targets.warp_chunk], targets.K[i : i + targets.warp_chunk],
                targets.size,
            )
            for i in range(0, len(targets.w2c), targets.warp_chunk)
        ]  # fmt: skip
        coords.append(np.concatenate([p.values for p in parts]))
        depths.append(np.concatenate([p.depth for p in parts]))
    out = np.full((slots, len(targets.w2c), 4, height, width), -1, np.float32)
    out[:, :, 3] = 1
    if sources:
        depth = np.stack(depths)
        low, high = depth.min(), depth.max()
        out[: len(sources), :, :3] = np.moveaxis(np.stack(coords), -1, 2)
        out[: len(sources), :, 3] = 2 * (depth - low) / max(high - low, 1e-6) - 1
    kept = last_of_latents(out, axis=1)
    folded = np.moveaxis(fold_blocks(kept), 1, 2)
    return folded.reshape(slots * 256, kept.shape[1], height // 8, width // 8)


@pytest.mark.parametrize("kind", ["forwards", "backwards", "turning", "away", "wild"])
@pytest.mark.parametrize("slots", [1, 3, 4])
def test_a_quarter_of_the_warps_gives_what_all_of_them_give(kind: str, slots: int) -> None:
    w2c = path(kind)
    targets = Targets.of(w2c, np.tile(K, (len(w2c), 1, 1)), SIZE, warp_chunk=5)
    sources = [room(i, 40 + 3 * i, 24 - i) for i in range(min(slots, 3))]
    have = made(sources, targets, slots)
    np.testing.assert_allclose(have, spelt_out(sources, targets, slots), atol=3e-6)


def test_the_depth_range_is_that_of_all_frames_where_no_frame_has_a_hole() -> None:
    """Cameras so near that the wall overfills them: the lowest depth is in a frame not kept."""
    wall = SourceFrame(
        np.tile(np.linspace(3, 4, 60, dtype=np.float32), (40, 1)),
        np.eye(4), np.array([[20.0, 0, 30], [0, 20, 20], [0, 0, 1]]),
    )  # fmt: skip
    narrow = np.array([[20.0, 0, 7.5], [0, 20, 7.5], [0, 0, 1]])
    w2c = np.stack([pose(0, 0, 0.3 * np.cos(1.9 * i), 0) for i in range(9)])
    targets = Targets.of(w2c, np.tile(narrow, (9, 1, 1)), (16, 16), warp_chunk=4)
    have = made([wall], targets, 1)
    assert have[128:].min() > -1
    np.testing.assert_allclose(have, spelt_out([wall], targets, 1), atol=3e-6)


def test_the_frames_that_are_used_look_as_if_all_were_made() -> None:
    w2c = path("wild", 9)
    Ks, source = np.tile(K, (9, 1, 1)), room(1)
    values = np.random.default_rng(0).uniform(-1, 1, (24, 40, 5)).astype(np.float32)
    every, depths = warp_views(source, values, w2c, Ks, SIZE, warp_chunk=4)
    some, depth = warp_views(source, values, w2c, Ks, SIZE, warp_chunk=4, used=[7, 2])
    np.testing.assert_array_equal(some, every[[7, 2]])
    np.testing.assert_array_equal(depth, depths[[7, 2]])
    other, _ = warp_views(source, values, w2c, Ks, SIZE, warp_chunk=16, used=[7, 2])
    assert (other != some).any()


def test_threads_do_not_change_the_correspondence() -> None:
    w2c = path("backwards")
    targets = Targets.of(w2c, np.tile(K, (len(w2c), 1, 1)), SIZE)
    found, before = [], numba.get_num_threads()
    for threads in (1, before):
        numba.set_num_threads(threads)
        found.append(made([room(0), room(1)], targets, 5).tobytes())
    assert found[0] == found[1]


def test_a_part_of_a_larger_buffer_can_be_filled() -> None:
    targets = Targets.of(path("turning"), np.tile(K, (22, 1, 1)), SIZE)
    whole = np.full((2 * 256, 9, 3, 5), 7, np.float32)
    fill_new(whole[:, 4:], [room(0)], targets.w2c, targets.K, SIZE, slots=2)
    np.testing.assert_array_equal(whole[:, 4:], made([room(0)], targets, 2))
    assert (whole[:, :4] == 7).all()


@pytest.mark.parametrize(
    ("sources", "size", "text"),
    [
        (3, SIZE, "3 remembered frames were given for 2 memory slots; give the best 2 at most"),
        (1, (44, 24), "views of 44 x 24 px cannot be folded"),
    ],
)
def test_what_cannot_be_folded_is_refused(sources: int, size: tuple[int, int], text: str) -> None:
    targets = Targets.of(path("turning"), np.tile(K, (22, 1, 1)), size)
    with pytest.raises(EngineFailed, match=re.escape(text)):
        made([room(i) for i in range(sources)], targets, 2)


def test_cameras_that_do_not_fit_are_refused() -> None:
    with pytest.raises(EngineFailed, match=r"shapes \(22, 4, 4\) and \(3, 3, 3\)"):
        Targets.of(path("turning"), np.tile(K, (3, 1, 1)), SIZE)
    with pytest.raises(EngineFailed, match="a camera of the chunk is not finite"):
        Targets.of(path("turning") * np.nan, np.tile(K, (22, 1, 1)), SIZE)
