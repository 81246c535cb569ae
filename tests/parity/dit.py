"""Adapter of the video transformer: tokens, every block, velocity and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.parity.harness import Case
from worldloom.generator.video.lyra import tokens
from worldloom.generator.video.lyra.config import CAMERA_CHANNELS, DiTConfig
from worldloom.generator.video.lyra.dit import VideoTransformer

CAMERA_PROBE = 7  # Channel whose value is recorded beside mean and deviation.


def run(case: Case) -> dict[str, Tensor]:
    """All recorded outputs of a case."""
    config = DiTConfig.from_mapping(case.config)
    if "kernel_sizes" in case.config:
        return _start(case, config)
    model = VideoTransformer(config).load(case.weights)
    i = case.inputs
    y = i.get("y")
    if y is not None and "camera" in i:
        y = torch.cat([y, i["camera"]], 1)
    start = model.layout.history if model.layout else 0
    wants_grad = "loss_weight" in i
    out: dict[str, Tensor] = {}
    with torch.set_grad_enabled(wants_grad):
        prepared = model.prepare(
            i["x"][:, :, :start] if start else None, i["text"], y=y, clip=i.get("clip"),
            buffer=i.get("buffer"), grid=tuple(i["x"].shape[2:]),
        )  # fmt: skip
        skip = tuple(case.config.get("slg_layers") or ()) if case.config.get("is_uncond") else ()

        def keep(number: int, h: Tensor) -> None:
            out[f"block{number}"] = h.detach()

        out["v"] = model.velocity(
            i["x"][:, :, start:], i["timesteps"], prepared, skip=skip, on_block=keep
        )
        if wants_grad:
            out["loss"] = (out["v"] * i["loss_weight"]).sum()
            out["loss"].backward()
            out |= {f"grad.{name}": p.grad for name, p in model.named_parameters()}
        if model.layout:
            out |= _packed(model, config, i, y, prepared)
    return {key: value.detach() for key, value in out.items() if value is not None}


def _packed(model, config, i, y, prepared) -> dict[str, Tensor]:
    layout = model.layout
    new = model.embed_new(i["x"][:, :, layout.history :], prepared.scene)
    places = tokens.packed_places(config, layout, *i["x"].shape[3:], i["x"].device)
    out = {
        "x_tokens": torch.cat([prepared.scene.history, new], 1),
        "freqs": places.angles,
        "gen_range": torch.tensor([places.new.start, places.new.stop]),
    }
    if config.use_plucker_condition:
        camera = tokens.camera_tokens(config, layout, y[:, -CAMERA_CHANNELS:])[0]
        stats = [camera.mean(1), camera.std(1, correction=0), camera[:, CAMERA_PROBE]]
        out["camera_token_stats"] = torch.stack(stats, 1)
    if config.use_correspondence:
        values, valid = tokens.buffer_tokens(config, layout, i["buffer"])
        both = [values, valid] if config.inject_kq_only else [values]
        out["buffer_tokens"] = torch.cat(both, -1)
    return out


def _start(case: Case, config: DiTConfig) -> dict[str, Tensor]:
    model = VideoTransformer(config)
    with torch.no_grad():
        model.patch_embedding.weight.copy_(case.inputs["patch_embedding.weight"])
        model.patch_embedding.bias.copy_(case.inputs["patch_embedding.bias"])
    model.start_clean_embeddings()
    return {k: v for k, v in model.state_dict().items() if k.startswith("clean_")}
