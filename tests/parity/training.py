"""Adapter of training: whole steps with recorded draws, and the rectified flow's quantities."""

from __future__ import annotations

import re
from dataclasses import replace

import torch
from torch import Tensor

from tests.parity.harness import Case
from worldloom.generator.training import flow as rf
from worldloom.generator.training.augment import augmented_sample, draw_position
from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.flow import TrainingFlow
from worldloom.generator.training.memory import MemoryDraw
from worldloom.generator.training.sample import (
    Encoders,
    Sample,
    SampleConfig,
    build_sample,
    plain_latents,
)  # fmt: skip
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.conditioning import MASK_CHANNELS
from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.vae import VideoVAE

NUDGE = 1.1  # Factor on the target in the recorded clean prediction.


class RecordedDraws:
    """Draws that were recorded elsewhere, in their order."""

    def __init__(self, inputs: dict[str, Tensor]) -> None:
        names = sorted(name for name in inputs if re.match(r"draw\d+_", name))
        self._left = [(name.split("_", 1)[1], inputs[name]) for name in names]

    def _next(self, *, unlike: tuple[str, ...] = ()) -> Tensor:
        kind, value = self._left.pop(0)
        while kind in unlike:  # The recorded code draws a normal tensor that it never uses.
            kind, value = self._left.pop(0)
        return value

    def uniform(self, count: int, purpose: str) -> Tensor:
        return self._next(unlike=("randn", "randn_like")).reshape(count)

    def integer(self, low: int, high: int, purpose: str) -> int:
        value = int(self._next())
        if not low <= value < high:
            raise ValueError(f"{purpose}: {value} was drawn, not {low}..{high - 1}")
        return value

    def choice(self, weights: Tensor, count: int) -> list[int]:
        return self._next().reshape(count).tolist()

    def permutation(self, count: int) -> list[int]:
        return self._next().reshape(count).tolist()

    def normal(self, shape: tuple[int, ...], purpose: str) -> Tensor:
        return self._next().reshape(shape).float()


def run_flow(case: Case) -> dict[str, Tensor]:
    """All outputs of a case of training quantities."""
    c, i = case.config, case.inputs
    flow = TrainingFlow.make(
        shift=c["shift"], distribution=c["distribution"], weight=c["weight_method"],
        count=c["num_train_timesteps"],
    )  # fmt: skip
    timesteps = flow.timestep(i["u"])
    sigmas = flow.sigma(timesteps)
    count = len(timesteps)
    noise = i["noise"].expand(count, *i["noise"].shape[1:])
    clean = i["data"].expand(count, *i["data"].shape[1:])
    x = rf.interpolate(clean, noise, sigmas)
    wanted = rf.target(clean, noise)
    uniform = flow.distribution == "uniform"
    return {
        "table_timesteps": flow.table.timesteps, "table_sigmas": flow.table.sigmas,
        "timesteps": timesteps, "sigmas": sigmas, "weights": flow.weight(timesteps),
        "x_t": x, "target": wanted, "weight_table": flow.weights,
        f"x0_from_{NUDGE}_target": rf.clean_from(x, NUDGE * wanted, sigmas),
        "sampled_u": flow.position(torch.sigmoid(i["draws"]) if uniform else i["draws"]),
    }  # fmt: skip


def run(case: Case) -> dict[str, Tensor]:
    """All outputs of a case that is a whole training step."""
    c = case.config
    model = VideoTransformer(
        replace(DiTConfig.from_mapping(c["net"]), framepack_type=c["framepack_type"])
    ).load(_of(case, "net."))
    encoders = Encoders(
        VideoVAE.load(c["vae"], _of(case, "vae.")), ClipVision.load(c["clip"], _of(case, "clip."))
    )
    draws = RecordedDraws(case.inputs)
    flow = TrainingFlow.make(
        shift=c["rectified_flow_shift"], distribution=c["time_distribution"],
        weight=c["time_weight"],
    )  # fmt: skip
    config, out = _config(c), {}
    draws.uniform(1, "mode")
    clip, segment = _window(case, config, draws)
    if c["mode"] == "aug":
        made = augmented_sample(
            clip, segment, lambda s, x, t: s.velocity(model, x, t), encoders, config, flow, draws,
            most=float(c["self_aug"]["max_T"]),
        )  # fmt: skip
        sample, out = made.sample, _stage(made)
    else:
        latents = plain_latents(encoders.codec, clip, segment, config)
        sample = build_sample(
            clip, segment, latents, encoders, config, draws, still_only=c["mode"] == "i2v"
        )
    return out | _step(sample, model, flow, draws, config.layout)


def _config(c: dict) -> SampleConfig:
    memory = MemoryDraw(
        stride=c["spatial"]["stride"], skip_recent=c["spatial"]["skip_recent"],
        drop_rate=c["spatial"]["drop_rate"], points_stride=c["retrieval_downsample"],
    )  # fmt: skip
    noise = c["corruption"]
    used = noise["mode"] == "noise_with_sigma"
    return SampleConfig(
        layout=FramePack.parse(c["framepack_type"]), memory=memory,
        noise_mean=noise["p_mean"] if used else None, noise_std=noise["p_std"],
        text_dropout=0.0, warp_chunk=c["warp_chunk_size"], group=1,
    )  # fmt: skip


def _of(case: Case, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in case.weights.items() if k.startswith(prefix)}


def _window(case: Case, config: SampleConfig, draws: RecordedDraws) -> tuple[TrainingClip, int]:
    """The clip, moved to its start frame, and the chunk."""
    c, i = case.config, case.inputs
    clip = TrainingClip(
        case.name, i["video"], i["depth"][0, :, 0].numpy(),
        i["camera_w2c"][0].double().numpy(), i["intrinsics"][0].double().numpy(),
        i["text_chunks"][0], tuple(i["text_chunk_keys"][0].tolist()),
    ).check()  # fmt: skip
    start, segment = c["start"], c["segment"]
    if start is None:
        start = draws.integer(0, len(clip), "start")
    if c["mode"] == "i2v":
        segment = 0
    elif segment is None:
        whole = (len(clip) - 1) // config.layout.new_frames
        segment = draws.integer(0, max(whole - int(c["mode"] == "aug"), 1), "segment")
    return clip.since(start), segment


def _stage(made) -> dict[str, Tensor]:
    guess = made.guess
    return {
        "stageA.x0": guess.sample.packed(guess.sample.clean),
        "stageA.input": guess.sample.packed(guess.noisy), "stageA.v": guess.velocity,
        "stageA.model_timestep": guess.told, "stageA.timestep": guess.timestep,
        "stageA.sigma": guess.sigma, "stageA.x0_pred": guess.clean,
        "stageA.decoded_new": made.decoded, "stageA.video": made.clip.video,
    }  # fmt: skip


def _step(
    sample: Sample, model: VideoTransformer, flow: TrainingFlow, draws: RecordedDraws,
    layout: FramePack,
) -> dict[str, Tensor]:
    timestep = flow.timestep(flow.position(draw_position(flow, draws)))
    sigma, weight = flow.sigma(timestep), flow.weight(timestep)
    noise = draws.normal(tuple(sample.clean.shape), "noise")
    x = rf.interpolate(sample.clean, noise, sigma)
    wanted = rf.target(sample.clean, noise)
    v = sample.velocity(model, x, timestep)
    loss = rf.weighted_loss(v, wanted, weight)
    loss.backward()
    return {
        "latents": sample.packed(sample.clean), "cond": sample.y[:, MASK_CHANNELS:],
        "mask_mean": sample.y[:, :MASK_CHANNELS].mean(),
        "buffer_new": sample.buffer[:, :, -layout.new :],
        "text_index": torch.tensor(sample.text_index), "clip": sample.image,
        "timestep": timestep, "sigma": sigma, "xt": sample.packed(x), "target": wanted, "v": v,
        "weight": weight[0], "loss": loss, "video_indices": torch.tensor(sample.frames),
        "spatial_frame_ids": torch.tensor(sample.drawn, dtype=torch.int64),
    } | {f"grad.{n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
