"""Adapter of whole autoregressive runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.parity.harness import Case
from worldloom.generator.video.lyra.clip import ClipVision
from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.depth_window import DepthWindow
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.loop import (
    DepthAnswer,
    Hooks,
    LyraOptions,
    Networks,
    Prompts,
    begin,
    step,
)
from worldloom.generator.video.lyra.vae import VideoVAE

POINT_STRIDE = 4  # Every 4th pixel, as the released pipeline does (README of the vectors).


def networks(case: Case) -> Networks:
    """The tiny networks of a case."""
    parts: dict[str, dict] = {"net": {}, "vae": {}, "clip": {}}
    for name, tensor in case.weights.items():
        part, _, rest = name.partition(".")
        parts[part][rest] = tensor
    config = {**case.config["net"], "framepack_type": case.config["framepack_type"]}
    return Networks(
        VideoTransformer(DiTConfig.from_mapping(config)).load(parts["net"]),
        VideoVAE.load(case.config["vae"], parts["vae"]),
        ClipVision.load(case.config["clip"], parts["clip"]),
    )


def options(config: dict[str, Any], layout: FramePack) -> LyraOptions:
    """How the recorded run was made."""
    return LyraOptions(
        steps=config["steps"], guidance=config["guidance"], shift=config["shift"],
        seed=config["seed"], distilled=config["sampler"].startswith("dmd"),
        views=config["num_retrieval_views"], warp_chunk=config["warp_chunk_size"],
        memory_stride=config["spatial_memory_stride"], point_stride=POINT_STRIDE,
        window=DepthWindow(
            config["da3_frame_interval"], config["da3_max_history_frames"],
            config["da3_include_ar_chunk_last_frames"], layout.new_frames,
        ),
        predicted_pose=config["da3_use_predicted_pose"],
        predicted_pose_continuation=config["da3_predicted_pose_continuation"],
        reference_quirks=True,
    )  # fmt: skip


def _text(case: Case, first_new: int) -> torch.Tensor:
    """The text whose key is the largest that does not exceed the first new frame."""
    if "text_chunks" not in case.inputs:
        return case.inputs["text"]
    keys = case.inputs["text_chunk_keys"][0].tolist()
    best = max((k, i) for i, k in enumerate(keys) if k <= first_new)[1]
    return case.inputs["text_chunks"][:, best]


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case; retrieved and cached ids must match exactly."""
    c, i = case.config, case.inputs
    nets = networks(case)
    layout = nets.layout
    how = options(c, layout)
    w2c, K = i["camera_w2c"][0].double().numpy(), i["intrinsics"][0].double().numpy()
    state = begin(nets, how, i["first_frame"][:, :, 0], i["first_depth"].numpy(), w2c[0], K[0])
    video, warps = [i["first_frame"]], [i["first_frame"]]
    out: dict[str, Any] = {}
    for chunk in range(c["chunks"]):
        new = slice(state.last + 1, state.last + 1 + layout.new_frames)
        first_v: list[torch.Tensor] = []
        asked: list[list[int]] = []

        def depth_model(frames, pixels, given, intrinsics, chunk=chunk, asked=asked):
            asked.append(frames)
            ext = i.get(f"da3_ext_chunk{chunk}")
            return DepthAnswer(i[f"da3_depth_chunk{chunk}"].numpy(), _square(ext))

        hooks = Hooks(
            on_velocity=lambda _, v, seen=first_v: seen.append(v),
            fresh=_recorded_noise(i, chunk, layout),
        )
        prompts = Prompts(_text(case, new.start), i["neg_text"])
        last = chunk + 1 == c["chunks"]
        cached = state.memory.ids
        state, made = step(
            nets, how, state, w2c[new], K[new], prompts, None if last else depth_model, hooks=hooks
        )
        _check(c, chunk, cached, made.conditioning.retrieved, asked)
        video.append(made.frames)
        warps.append(made.conditioning.warped)
        out |= {
            f"gen_latents_chunk{chunk}": made.sampled,
            f"cond_tail_chunk{chunk}": made.conditioning.y[
                :, 4 : 4 + made.sampled.shape[1], layout.history :
            ],
            f"clip_chunk{chunk}": made.image,
            f"v_first_chunk{chunk}": first_v[0],
        }
    if state.memory.ids != c["final_cache_frame_ids"]:
        raise AssertionError(f"cached {state.memory.ids}, not {c['final_cache_frame_ids']}")
    return out | {
        "video": torch.cat(video, 2), "warp_video": torch.cat(warps, 2),
        "history_latents": torch.cat(state.latents, 2),
        "camera_w2c": torch.from_numpy(state.w2c)[None],
        "cache_depth_last": torch.from_numpy(state.memory.frames[-1].depth)[None, None],
        "cache_depth_first": torch.from_numpy(state.memory.frames[0].depth)[None, None],
        "buffer_depth": torch.from_numpy(state.depth)[None, None],
    }  # fmt: skip


def _recorded_noise(inputs: dict[str, torch.Tensor], chunk: int, layout: FramePack):
    noise = inputs.get(f"noise_chunk{chunk}")
    if noise is None:
        return None
    return lambda call: noise[call, layout.history :].transpose(0, 1)[None]


def _square(ext: torch.Tensor | None) -> np.ndarray | None:
    if ext is None:
        return None
    w2c = np.tile(np.eye(4), (len(ext), 1, 1))
    w2c[:, :3] = ext.double().numpy()
    return w2c


def _check(config, chunk: int, cached: list[int], chosen: tuple[int, ...], asked) -> None:
    want = config["retrieval"][chunk]
    if cached != want["cache_frame_ids"] or list(chosen) != want["chosen"]:
        raise AssertionError(f"chunk {chunk}: retrieved {chosen} of {cached}, recorded {want}")
    if asked and asked[0] != config["depth_frames"][chunk]:
        raise AssertionError(f"chunk {chunk}: depth of {asked[0]}, not {config['depth_frames']}")
