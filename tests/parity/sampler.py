"""Adapter of the samplers: schedules, trajectories, whole chunks with recorded toy models."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tests.parity.harness import Case
from worldloom.generator.video.lyra import distilled
from worldloom.generator.video.lyra.sampler import (
    flow_schedule,
    guided,
    seeded_noise,
    unipc_sample,
)  # fmt: skip

UNCONDITIONAL = -0.5  # k of the toy model's negative branch.


def run(case: Case) -> dict[str, Any]:
    """All recorded outputs of a case."""
    config = case.config
    if "combos" in config:
        return _schedules(config["combos"])
    if "seeds" in config:
        shape = tuple(config["shape"])
        return {f"noise_seed{seed}": seeded_noise(seed, shape) for seed in config["seeds"]}
    if "custom_sigmas" in config:
        return _trajectory(case)
    if "framepack_type" in config:
        return _chunk(case)
    if any(key.endswith(".add_noise") for key in case.outputs):
        return _tables(case)
    from tests.parity.training import run_flow

    return run_flow(case)


def _schedules(combos: list[list[float]]) -> dict[str, Tensor]:
    out = {}
    for steps, shift in combos:
        schedule = flow_schedule(int(steps), shift)
        out[f"timesteps_{int(steps)}_{shift}"] = schedule.timesteps
        out[f"sigmas_{int(steps)}_{shift}"] = schedule.sigmas
    return out


def _trajectory(case: Case) -> dict[str, Tensor]:
    c = case.config
    schedule = flow_schedule(c["steps"], c["shift"], sigmas=c["custom_sigmas"])
    before, clean = [], []

    def model(x: Tensor, t: Tensor) -> Tensor:
        constant = c["b"] * (t.float() / 1000) * case.inputs["c"]
        return c["a"] * x + constant + c["d"] * torch.sin(x)

    def keep(_: int, x: Tensor, m: Tensor) -> None:
        before.append(x)
        clean.append(m)

    final = unipc_sample(model, case.inputs["noise"], schedule, on_step=keep)
    return {
        "timesteps": schedule.timesteps, "sigmas": schedule.sigmas, "final": final,
        "trajectory": torch.stack([*before, final]), "x0_predictions": torch.stack(clean),
    }  # fmt: skip


def _chunk(case: Case) -> dict[str, Any]:
    c, i = case.config, case.inputs
    noise = seeded_noise(c["seed"], tuple(i["c"].shape))
    calls: list[tuple[float, float]] = []

    def branch(k: float):
        def model(x: Tensor, t: Tensor) -> Tensor:
            calls.append((float(t), k))
            mixed = torch.einsum("ij,bjthw->bithw", i["A"], x)
            return mixed + 0.2 * k * (t.float() / 1000) * i["c"] + 0.1 * i["history"].mean(2, True)

        return model

    if "noise0" in i:
        history = i["history"].shape[2]

        def fresh(step: int) -> Tensor:
            return i[f"noise{step}"][history:].transpose(0, 1)[None]

        latents = distilled.distilled_sample(branch(1.0), noise, fresh)
    else:
        velocity = guided(branch(1.0), branch(UNCONDITIONAL), c["guidance"], always_both=True)
        latents = unipc_sample(velocity, noise, flow_schedule(c["steps"], c["shift"]))
    table = distilled.released_table()
    return {
        "initial_noise": noise, "latents": latents,
        "call_timesteps": torch.tensor([t for t, _ in calls]),
        "call_k": torch.tensor([k for _, k in calls]),
        "denoising_steps": distilled.distilled_timesteps(table),
        "dmd_sigmas": table.sigmas, "dmd_timesteps": table.timesteps,
    }  # fmt: skip


def _tables(case: Case) -> dict[str, Tensor]:
    out: dict[str, Tensor] = {}
    for name, c in case.config.items():
        if not isinstance(c, dict):
            continue
        count = (c.get("set_timesteps") or [c.get("num_inference_steps")])[0]
        extra = {"sigma_min": c["sigma_min"]} if "sigma_min" in c else {}
        table = distilled.FlowTable.make(
            count, c["shift"], extra_one_step=c.get("extra_one_step", False),
            inverse=c.get("inverse_timesteps", False), reverse=c.get("reverse_sigmas", False),
            **extra,
        )  # fmt: skip
        x, noise, t = (case.inputs[f"{name}.{key}"] for key in ("x", "noise", "t"))
        out |= {
            f"{name}.sigmas": table.sigmas,
            f"{name}.timesteps": table.timesteps,
            f"{name}.add_noise": table.add_noise(x, noise, t),
            f"{name}.step": table.step(noise, x, t),
            f"{name}.step_final": table.step(noise, x, t, to_final=True),
            f"{name}.x0": table.clean(noise, x, t),
            f"{name}.training_weights": table.training_weights(),
        }
    return out
