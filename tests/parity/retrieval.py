"""Adapter of the spatial memory's retrieval."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.parity.harness import Case
from worldloom.generator.memory import retrieval, unproject

RANDOM_FLOOR = 0.02  # Share of the best score that training adds to every score (spec 3.5).


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case."""
    t, c = {key: value.numpy() for key, value in case.inputs.items()}, case.config
    size, stride = (c["W"], c["H"]), c["downsample"]
    clouds = [
        unproject.strided_points(depth[0, 0], K[0], w2c[0], stride=stride)
        for depth, K, w2c in zip(t["depths"], t["Ks"], t["w2cs"], strict=True)
    ]
    out: dict[str, Any] = {"world_points0": clouds[0][None]}
    clouds = [cloud.reshape(-1, 3) for cloud in clouds]
    views, K = t["target_w2c"].reshape(-1, 4, 4), t["target_K"].reshape(-1, 3, 3)
    if c["mode"] == "coverage":
        chosen, gains = retrieval.lyra_retrieve(
            clouds, c["frame_ids"], views, K, size, count=c["num_latents"], stride=stride,
            visible_within=c["depth_threshold"], skip_last=c["skip_last_n"],
        )  # fmt: skip
        out["greedy_counts"] = gains
    else:
        chosen = _scored(t, c, clouds, views, K, size, stride, out)
    out["frame_ids"] = np.array([c["frame_ids"][i] for i in chosen], np.int64)
    out["latent_ids"] = np.array([c["latent_ids"][i] for i in chosen], np.int64)
    return out


def _scored(t, c, clouds, views, K, size, stride, out) -> list[int]:
    """Indices chosen by score, best last, or as the recorded draw says."""
    kept = clouds[: len(clouds) - c["skip_last_n"]]
    cells = (size[0] // stride, size[1] // stride)
    scores = retrieval.grid_owners(kept, views[-1], retrieval.lyra_grids(K, stride)[-1], cells)
    out["scores"] = scores
    if c["mode"] == "random":
        out["sampling_weights"] = scores + RANDOM_FLOOR * scores.max()
        return t["sampled"].tolist()[::-1]
    best = np.argsort(-scores, kind="stable")[: c["num_latents"]]
    return best.tolist()[::-1]
