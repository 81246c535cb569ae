"""The memory's maths against numbers recorded from the public reference, where they are present."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from worldloom.generator.memory import rays, retrieval, splat, unproject

ROOT = Path(__file__).parents[2]
WHOLE = Path(os.environ.get("WORLDLOOM_GOLDEN") or ROOT.parent / "shared" / "golden")
FOLDER = WHOLE if (WHOLE / "cases.json").is_file() else ROOT / "tests" / "golden"
CASES = (
    {case["name"]: case for case in json.loads((FOLDER / "cases.json").read_text())["cases"]}
    if (FOLDER / "cases.json").is_file()
    else {}
)
WARPS = [name for name in CASES if name.startswith("geo_warp_")]
PLAIN_WARPS = [n for n in WARPS if n not in ("geo_warp_batch_coupling", "geo_warp_world_points")]
RETRIEVALS = [name for name in CASES if name.startswith("retr_")]
pytestmark = pytest.mark.skipif(not CASES, reason=f"no golden vectors in {FOLDER}")


def load(name: str) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(FOLDER / CASES[name]["file"])


def agree(name: str, have: np.ndarray, want: np.ndarray) -> None:
    tolerance = CASES[name]["tolerance"]
    bound = tolerance.get("atol", 0) + tolerance.get("rtol", 0) * np.abs(want)
    bad = float((np.abs(have - want) > bound).mean())
    assert bad <= tolerance.get("max_bad_fraction", 0), f"{name}: {bad:.4%} of the values differ"


def channels_last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1)


def warp(t: dict[str, np.ndarray], config: dict, batch: slice = slice(None)) -> splat.SoftWarp:
    """Run a recorded warp call: b targets, each with its own v source frames."""
    frame, depth = t["in.frame"][batch], unproject.clean_depth(t["in.depth"][batch, :, 0])
    b, v, _, h, w = frame.shape
    mask = depth > 0
    if config.get("clean_points", True):
        mask &= np.stack([[unproject.reliable_depth(d) for d in item] for item in depth])
    if "in.mask" in t:
        mask &= t["in.mask"][batch, :, 0] > 0
    points = np.stack(
        [
            unproject.world_points(
                depth[i, k], unproject.pixel_directions(t["in.K_src"][batch][i, k], h, w),
                t["in.w2c_src"][batch][i, k], mask=mask[i, k],
            )
            for i in range(b)
            for k in range(v)
        ]
    )  # fmt: skip
    image = config.get("is_image", True)
    return splat.soft_warp(
        channels_last(frame).reshape(b * v, h, w, -1), points, mask.reshape(b * v, h, w),
        t["in.w2c_dst"][batch], t["in.K_dst"][batch], (w, h),
        sources=np.arange(b * v).reshape(b, v), fill=-1.0 if image else 0.0, clamp=image,
    )  # fmt: skip


@pytest.mark.parametrize("name", PLAIN_WARPS)
def test_the_warp_is_that_of_the_reference(name: str) -> None:
    t = load(name)
    have = warp(t, CASES[name]["config"])
    agree(name, have.values, channels_last(t["out.frame"]))
    agree(name, have.known.astype(np.float32), t["out.mask"][:, 0])
    if "out.depth" in t:
        agree(name, have.depth, t["out.depth"])


def test_the_depth_weights_hang_on_the_whole_call() -> None:
    name = "geo_warp_batch_coupling"
    t = load(name)
    together = warp(t, {})
    agree(name, together.values, channels_last(t["out.frame_together"]))
    agree(name, together.depth, t["out.depth_together"])
    for i in range(2):
        alone = warp(t, {}, slice(i, i + 1))
        agree(name, alone.values, channels_last(t["out.frame_separate"][i : i + 1]))
        agree(name, alone.depth, t["out.depth_separate"][i : i + 1])


def test_given_world_points_warp_as_in_the_reference() -> None:
    name = "geo_warp_world_points"
    t = load(name)
    b, v, _, h, w = t["in.frame"].shape
    have = splat.soft_warp(
        channels_last(t["in.frame"]).reshape(b * v, h, w, -1),
        t["in.world_points"].reshape(b * v, h, w, 3), t["in.mask"].reshape(b * v, h, w) > 0,
        t["in.w2c_dst"], t["in.K_dst"], (w, h), sources=np.arange(b * v).reshape(b, v),
    )  # fmt: skip
    agree(name, have.values, channels_last(t["out.frame"]))
    agree(name, have.depth, t["out.depth"])


def test_splatting_is_that_of_the_reference() -> None:
    name = "geo_splatting"
    t = load(name)
    b, _, h, w = t["in.frame"].shape
    column, row = np.meshgrid(np.arange(w), np.arange(h))
    position = channels_last(t["in.flow"]) + np.stack([column, row], -1).astype(np.float32)
    values = channels_last(t["in.frame"]).reshape(b, h * w, 3)
    position = position.reshape(b, h * w, 2).astype(np.float32)
    depth = t["in.depth"].reshape(b, h * w)
    weight = splat.depth_weights(depth, splat.log_depth_most(depth))
    masked = weight * (t["in.mask"] * t["in.flow_mask"]).reshape(b, h * w)
    out, known = splat.splat(values, position, masked, (w, h), fill=-1.0, clamp=True)
    agree(name, out, channels_last(t["out.frame"]))
    agree(name, known.astype(np.float32), t["out.mask"][:, 0])
    out, _ = splat.splat(values, position, weight, (w, h), groups=np.zeros(b, int))
    agree(name, out, channels_last(t["out.frame_views"]))


def test_points_and_projections_are_those_of_the_reference() -> None:
    name = "geo_unproject"
    t = load(name)
    for i in range(len(t["in.depth"])):
        depth, w2c = t["in.depth"][i, 0], t["in.w2c"][i]
        ray = unproject.pixel_directions(t["in.K"][i], *depth.shape)
        lens = unproject.ftheta_directions(t["in.ftheta"][i], *depth.shape)
        mask = t["in.mask"][i, 0]
        points = unproject.world_points(depth, ray, w2c)
        agree(name, points, t["out.points_default_mask"][i])
        masked = unproject.world_points(depth, ray, w2c, mask=mask)
        agree(name, masked, t["out.points_mask"][i])
        agree(name, masked[mask], t[f"out.points_sparse{i}"])
        far = unproject.world_points(depth, ray, w2c, mask=mask, along_ray=True)
        agree(name, far, t["out.points_ray_distance"][i])
        bent = unproject.world_points(depth, lens, w2c, mask=mask)
        agree(name, bent, t["out.points_ftheta"][i])
        far = unproject.world_points(depth, lens, w2c, mask=mask, along_ray=True)
        agree(name, far, t["out.points_ftheta_ray_distance"][i])


def test_the_mask_of_reliable_depths_is_that_of_the_reference() -> None:
    name = "geo_reliable_depth"
    t = load(name)
    for key in (k for k in t if k.startswith("out.")):
        window, ratio = key.removeprefix("out.mask_w").split("_r")
        for depth, want in zip(t["in.depth"][:, 0], t[key][:, 0], strict=True):
            have = unproject.reliable_depth(depth, window=int(window), ratio=float(ratio))
            agree(name, have.astype(np.float32), want.astype(np.float32))


def test_ray_channels_are_those_of_the_reference() -> None:
    name = "geo_plucker"
    t, config = load(name), CASES["geo_plucker"]["config"]
    size = (config["W"], config["H"])
    have = rays.camera_rays(t["in.c2w"], t["in.K"], size)
    agree(name, have, t["out.rays_o_d"])
    agree(name, rays.camera_rays(t["in.c2w"], t["in.K"], size, moment=True), t["out.rays_moment_d"])
    agree(name, rays.camera_rays(t["in.c2w"], None, size), t["out.rays_no_K"])
    folded = np.moveaxis(rays.fold_blocks(np.moveaxis(have, -1, -3)), 1, 2)
    agree(name, folded, t["out.camera_latent"])
    lead = t["in.c2w"].shape[:-2]
    in_place = rays.folded_rays(
        t["in.c2w"].reshape(-1, 4, 4), t["in.K"].reshape(-1, t["in.K"].shape[-1]), size
    )
    in_place = in_place.reshape(*lead, *in_place.shape[1:])
    agree(name, np.moveaxis(in_place, 1, 2), t["out.camera_latent"])


def test_canonical_coordinates_fold_as_in_the_reference() -> None:
    name = "geo_canonical_coords"
    t, config = load(name), CASES["geo_canonical_coords"]["config"]
    size = (config["W"], config["H"])
    have = rays.canonical_coordinates(config["num_spatial"], size)
    agree(name, have, channels_last(t["out.coords"]))
    agree(name, rays.canonical_coordinates(1, size), channels_last(t["out.coords_single"]))
    pixels = np.moveaxis(t["in.pixels"], 1, 2)
    latent = rays.fold_blocks(rays.last_of_latents(pixels, axis=1))
    agree(name, np.moveaxis(latent, 1, 2), t["out.latent"])
    agree(name, np.moveaxis(rays.fold_blocks(pixels[:, :3]), 1, 2), t["out.folded_all_frames"])


@pytest.mark.parametrize("name", RETRIEVALS)
def test_the_frames_retrieved_are_those_of_the_reference(name: str) -> None:
    t, config = load(name), CASES[name]["config"]
    size, stride = (config["W"], config["H"]), config["downsample"]
    clouds = [
        unproject.strided_points(depth[0, 0], K[0], w2c[0], stride=stride)
        for depth, K, w2c in zip(t["in.depths"], t["in.Ks"], t["in.w2cs"], strict=True)
    ]
    np.testing.assert_allclose(clouds[0], t["out.world_points0"][0], atol=1e-4)
    clouds = [cloud.reshape(-1, 3) for cloud in clouds]
    views = t["in.target_w2c"].reshape(-1, 4, 4)
    K = t["in.target_K"].reshape(-1, 3, 3)
    if "out.scores" in t:
        cells = (size[0] // stride, size[1] // stride)
        grid = retrieval.lyra_grids(K, stride)[-1]
        scores = retrieval.grid_owners(clouds, views[-1], grid, cells)
        assert np.abs(scores - t["out.scores"]).max() <= config.get("counts_atol", 3)
        return
    chosen, gains = retrieval.lyra_retrieve(
        clouds, config["frame_ids"], views, K, size, count=config["num_latents"], stride=stride,
        visible_within=config["depth_threshold"], skip_last=config["skip_last_n"],
    )  # fmt: skip
    assert [config["frame_ids"][i] for i in chosen] == t["out.frame_ids"].tolist()
    if "out.greedy_counts" in t:
        assert np.abs(gains - t["out.greedy_counts"]).max() <= 3
