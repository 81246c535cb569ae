"""Recorded cases of the text encoder and of adapters -> what ours makes of their inputs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.lora import layer_names, merge, parse_adapter
from worldloom.generator.video.lyra.text import TextEncoder, relative_buckets


def run(case: Any) -> dict[str, Tensor]:
    """Every output of a text or adapter case, under its name without `out.`."""
    return _adapters(case) if "adapters" in case.config else _text(case)


def _text(case: Any) -> dict[str, Tensor]:
    encoder = TextEncoder.load(case.config, case.weights)
    ids, mask = case.inputs["ids"], case.inputs["mask"]
    return {
        "hidden": encoder.hidden(ids, mask),
        "embedding": encoder(ids, mask),
        "buckets32": relative_buckets(case.inputs["distances"]),
    }


def _adapters(case: Any) -> dict[str, Tensor]:
    layers = layer_names(case.weights)
    parsed = []
    for index, entry in enumerate(case.config["adapters"]):
        prefix = f"lora{index}."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in case.inputs.items()
            if name.startswith(prefix)
        }
        parsed.append((parse_adapter(own, layers, f"number {index}"), float(entry["weight"])))
    made = {"v_base": _velocity(case, case.weights)}
    for index, adapter in enumerate(parsed):
        made[f"v_only{index}"] = _velocity(case, merge(case.weights, [adapter]))
    made["v_all"] = _velocity(case, merge(case.weights, parsed))
    return made


@torch.no_grad()
def _velocity(case: Any, weights: dict[str, Tensor]) -> Tensor:
    inputs = case.inputs
    model = VideoTransformer(DiTConfig.from_mapping(case.config)).load(weights)
    y = inputs.get("y")
    if y is not None and "camera" in inputs:
        y = torch.cat([y, inputs["camera"]], 1)
    start = model.layout.history if model.layout else 0
    prepared = model.prepare(
        inputs["x"][:, :, :start] if start else None, inputs["text"], y=y,
        clip=inputs.get("clip"), buffer=inputs.get("buffer"), grid=tuple(inputs["x"].shape[2:]),
    )  # fmt: skip
    return model.velocity(inputs["x"][:, :, start:], inputs["timesteps"], prepared)
