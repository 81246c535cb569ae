"""Adapter of the memory's geometry: points, masks, splats, warps, rays, coordinates."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.parity.harness import Case
from worldloom.generator.memory import rays, splat, unproject

EPS = 1e-7  # Added to the depth that pixels are divided by (spec generation 4.2).


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case."""
    t = {key: value.numpy() for key, value in case.inputs.items()}
    if "points_mask" in case.outputs:
        return _points(t)
    if any(key.startswith("mask_w") for key in case.outputs):
        return _reliable(t, case)
    if "rays_o_d" in case.outputs:
        return _rays(t, case.config)
    if "coords" in case.outputs:
        return _coordinates(t, case.config)
    if "frame_views" in case.outputs:
        return _splats(t, case)
    if "world_points" in t:
        return _warp_of_points(t)
    if "frame_together" in case.outputs:
        return _coupling(t, case.config)
    return _warp(t, case.config)


def _last(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -3, -1)


def _first(array: np.ndarray) -> np.ndarray:
    return np.moveaxis(array, -1, -3)


def _project(points: np.ndarray, w2c: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Un-normalised pixels [h w 3] of world points."""
    local = points.astype(np.float64) @ w2c[:3, :3].T.astype(np.float64) + w2c[:3, 3]
    return local @ K.T.astype(np.float64)


def _flow(points: np.ndarray, w2c: np.ndarray, K: np.ndarray) -> np.ndarray:
    """Target pixel minus source pixel [2 h w]."""
    pixel = _project(points, w2c, K)
    h, w = points.shape[:2]
    column, row = np.meshgrid(np.arange(w), np.arange(h))
    return np.stack([
        pixel[..., 0] / (pixel[..., 2] + EPS) - column,
        pixel[..., 1] / (pixel[..., 2] + EPS) - row,
    ])  # fmt: skip


def _points(t: dict[str, np.ndarray]) -> dict[str, Any]:
    names = ("default_mask", "mask", "ray_distance", "ftheta", "ftheta_ray_distance", "empty")
    out: dict[str, list] = {f"points_{name}": [] for name in names}
    out["projected"] = []
    sparse = {}
    for i in range(len(t["depth"])):
        depth, w2c, mask = t["depth"][i, 0], t["w2c"][i], t["mask"][i, 0].astype(bool)
        ray = unproject.pixel_directions(t["K"][i], *depth.shape)
        lens = unproject.ftheta_directions(t["ftheta"][i], *depth.shape)
        masked = unproject.world_points(depth, ray, w2c, mask=mask)
        made = (
            unproject.world_points(depth, ray, w2c), masked,
            unproject.world_points(depth, ray, w2c, mask=mask, along_ray=True),
            unproject.world_points(depth, lens, w2c, mask=mask),
            unproject.world_points(depth, lens, w2c, mask=mask, along_ray=True),
            unproject.world_points(np.zeros_like(depth), ray, w2c),
        )  # fmt: skip
        for name, value in zip(names, made, strict=True):
            out[f"points_{name}"].append(value)
        out["projected"].append(_project(masked, t["w2c_target"][i], t["K"][i]))
        sparse[f"points_sparse{i}"] = masked[mask]
    return {key: np.stack(value) for key, value in out.items()} | sparse


def _reliable(t: dict[str, np.ndarray], case: Case) -> dict[str, Any]:
    out = {}
    for key in case.outputs:
        window, ratio = key.removeprefix("mask_w").split("_r")
        masks = [
            unproject.reliable_depth(depth, window=int(window), ratio=float(ratio))
            for depth in t["depth"][:, 0]
        ]
        out[key] = np.stack(masks)[:, None]
    return out


def _rays(t: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    size = (config["W"], config["H"])
    have = rays.camera_rays(t["c2w"], t["K"], size)
    return {
        "rays_o_d": have,
        "rays_moment_d": rays.camera_rays(t["c2w"], t["K"], size, moment=True),
        "rays_no_K": rays.camera_rays(t["c2w"], None, size),
        "camera_latent": np.moveaxis(rays.fold_blocks(_first(have)), 1, 2),
    }


def _coordinates(t: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    size = (config["W"], config["H"])
    pixels = np.moveaxis(t["pixels"], 1, 2)
    return {
        "coords": _first(rays.canonical_coordinates(config["num_spatial"], size)),
        "coords_single": _first(rays.canonical_coordinates(1, size)),
        "latent": np.moveaxis(rays.fold_blocks(rays.last_of_latents(pixels, axis=1)), 1, 2),
        "folded_all_frames": np.moveaxis(rays.fold_blocks(pixels[:, :3]), 1, 2),
    }


def _splats(t: dict[str, np.ndarray], case: Case) -> dict[str, Any]:
    b, _, h, w = t["frame"].shape
    column, row = np.meshgrid(np.arange(w), np.arange(h))
    position = _last(t["flow"]) + np.stack([column, row], -1).astype(np.float32)
    values = _last(t["frame"]).reshape(b, h * w, 3)
    position = position.reshape(b, h * w, 2).astype(np.float32)
    depth = t["depth"].reshape(b, h * w)
    weight = splat.depth_weights(depth, splat.log_depth_most(depth))
    masked = weight * (t["mask"] * t["flow_mask"]).reshape(b, h * w)
    frame, known = splat.splat(values, position, masked, (w, h), fill=-1.0, clamp=True)
    views, seen = splat.splat(values, position, weight, (w, h), groups=np.zeros(b, int))
    out = {
        "frame": _first(frame), "mask": known[:, None], "frame_views": _first(views),
        "mask_views": seen[:, None],
    }  # fmt: skip
    for key in (k for k in case.outputs if k.startswith("frame_w")):
        sharpness = float(key.removeprefix("frame_w"))
        other = splat.depth_weights(depth, splat.log_depth_most(depth), sharpness=sharpness)
        part, _ = splat.splat(values, position, other * t["mask"].reshape(b, h * w), (w, h))
        out[key] = _first(part)
    return out


def _points_and_mask(t: dict[str, np.ndarray], config: dict[str, Any], part: slice):
    """World points [b v h w 3] and the mask [b v h w] of the source frames."""
    depth = unproject.clean_depth(t["depth"][part, :, 0])
    b, v, h, w = depth.shape
    mask = depth > 0
    if config.get("clean_points", True):
        mask &= np.stack([[unproject.reliable_depth(d) for d in item] for item in depth])
    if "mask" in t:
        mask &= t["mask"][part, :, 0] > 0
    points = [
        unproject.world_points(
            depth[i, k], unproject.pixel_directions(t["K_src"][part][i, k], h, w),
            t["w2c_src"][part][i, k], mask=mask[i, k],
        )
        for i in range(b)
        for k in range(v)
    ]  # fmt: skip
    return np.stack(points).reshape(b, v, h, w, 3), mask


def _warp(t: dict[str, np.ndarray], config: dict[str, Any], part: slice = slice(None)):
    points, mask = _points_and_mask(t, config, part)
    image = config.get("is_image", True)
    return _soft(t, points, mask, -1.0 if image else 0.0, image, part)


def _warp_of_points(t: dict[str, np.ndarray]) -> dict[str, Any]:
    b, v, _, h, w = t["frame"].shape
    mask = t["mask"].reshape(b, v, h, w) > 0
    return _soft(t, t["world_points"].reshape(b, v, h, w, 3), mask, -1.0, True, slice(None))


def _soft(t, points, mask, fill: float, clamp: bool, part: slice) -> dict[str, Any]:
    b, v, h, w, _ = points.shape
    w2c, K = t["w2c_dst"][part], t["K_dst"][part]
    have = splat.soft_warp(
        _last(t["frame"][part]).reshape(b * v, h, w, -1), points.reshape(b * v, h, w, 3),
        mask.reshape(b * v, h, w), w2c, K, (w, h),
        sources=np.arange(b * v).reshape(b, v), fill=fill, clamp=clamp,
    )  # fmt: skip
    flow = [_flow(points[i, k], w2c[i], K[i]) for i in range(b) for k in range(v)]
    return {
        "frame": _first(have.values), "mask": have.known[:, None], "depth": have.depth,
        "flow": np.stack(flow),
    }  # fmt: skip


def _coupling(t: dict[str, np.ndarray], config: dict[str, Any]) -> dict[str, Any]:
    together = _warp(t, config)
    alone = [_warp(t, config, slice(i, i + 1)) for i in range(len(t["depth"]))]
    return {
        "frame_together": together["frame"], "depth_together": together["depth"],
        "frame_separate": np.concatenate([a["frame"] for a in alone]),
        "depth_separate": np.concatenate([a["depth"] for a in alone]), "mask": together["mask"],
    }  # fmt: skip
