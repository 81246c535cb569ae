"""The toy training with and without self-augmented histories, and how far six chunks drift.

Trains the preset `train_toy` twice from the same start on the same clips, one process each, and
lets both networks continue the first frame of held-out truth clips for six chunks. Then distils the
one with self-augmentation to four steps. Prints tables; writes training.json and training.png into
benchmarks/results.
Run: .venv/bin/python benchmarks/bench_training.py [--steps N] [--minutes M]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"
ROOT = Path(__file__).parents[1]
ARMS = {"off": "sample.self_augment=false", "on": "sample.self_augment=true"}
CHUNKS, CLIPS, HELD_OUT_SEED = 6, 12, 77
SOLVER_STEPS = 12
"""Evaluations per chunk; guidance is off."""
DISTILL_CLIPS = 48  # Samples that the student is distilled on, made by the teacher's training data.
WINDOW = 100  # Steps that one point of the curve is the mean of.
MODES = ("plain", "first chunk", "self-augmented")


def main() -> int:
    """Run both arms side by side, merge and report."""
    options = _parser().parse_args()
    if options.arm:
        _arm(options.arm, options)
        return 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _start_codec(folder)
        running = [_spawn(arm, folder, options) for arm in ARMS]
        if any(process.wait() for process in running):
            return 1
        found = {arm: json.loads((folder / arm / "result.json").read_text()) for arm in ARMS}
    report = _report(found, options, time.monotonic() - begun)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot(report, RESULTS / "training.png")
    _table(report)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--minutes", type=float, default=6.0, help="most time for the training")
    parser.add_argument("--distill-steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser


def _spawn(arm: str, folder: Path, options: argparse.Namespace) -> subprocess.Popen:
    # One thread: the matrices are so small that a second one costs more than it gives.
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "NUMBA", "MKL", "OPENBLAS")}
    command = [
        sys.executable, __file__, "--arm", arm, "--folder", str(folder),
        "--steps", str(options.steps), "--minutes", str(options.minutes),
        "--distill-steps", str(options.distill_steps), "--seed", str(options.seed),
    ]  # fmt: skip
    return subprocess.Popen(command, env={**os.environ, **threads}, cwd=ROOT)


def _settings(arm: str, options: argparse.Namespace) -> Any:
    from worldloom.generator.training.settings import read_settings

    return read_settings("train_toy", [
        ARMS[arm], f"run.steps={options.steps}", f"optim.cycle={options.steps}",
        f"run.seed={options.seed}", "run.checkpoint_every=1000000",
    ])  # fmt: skip


def _start_codec(folder: Path) -> None:
    """Fit the codec once, so that both arms have the same latents."""
    from worldloom.generator.training import build
    from worldloom.generator.training.settings import read_settings

    settings = read_settings("train_toy")
    clips = build.make_clips(settings)
    build.make_encoders(settings, clips, folder)
    for arm in ARMS:
        (folder / arm).mkdir()
        (folder / arm / "codec.safetensors").write_bytes(
            (folder / "codec.safetensors").read_bytes()
        )


# ---- one arm --------------------------------------------------------------------------------


def _arm(arm: str, options: argparse.Namespace) -> None:
    import torch

    from worldloom.generator.training.train import Trainer

    torch.set_num_threads(1)
    settings = _settings(arm, options)
    trainer = Trainer.make(settings, options.folder / arm, cpu=True)
    begun, curve = time.monotonic(), []
    while trainer.step < options.steps and time.monotonic() - begun < 60 * options.minutes:
        done = trainer.train_step()
        curve.append([done.step, MODES.index(done.mode), done.timestep, done.raw_loss])
    trained = time.monotonic() - begun
    held = _held_out(settings)
    result = {
        "steps": trainer.step, "train_seconds": trained, "curve": _smooth(curve),
        "drift": _drift(trainer, held, SOLVER_STEPS, trainer.network),
        "codec": _ceiling(trainer, held), "still": _still(trainer, held),
    }  # fmt: skip
    if arm == "on" and options.distill_steps:
        result["distilled"] = _distil(trainer, held, options)
    (options.folder / arm / "result.json").write_text(json.dumps(result))


def _smooth(curve: list[list[float]]) -> list[list[float]]:
    """Step and mean raw loss of every WINDOW steps, for each kind of sample and all together."""
    rows = np.array(curve)
    out = []
    for start in range(0, len(rows) - WINDOW + 1, WINDOW):
        part = rows[start : start + WINDOW]
        plain = part[part[:, 1] == 0, 3]
        out.append([float(part[-1, 0] + 1), float(part[:, 3].mean()), float(plain.mean())])
    return out


def _held_out(settings: Any) -> list[Any]:
    from worldloom.generator.training.walks import TruthClips

    d = settings.data
    frames = 1 + CHUNKS * settings.pack().new_frames
    made = TruthClips(
        frames, (d.width, d.height), settings.network().text_dim, HELD_OUT_SEED, fov_deg=d.fov_deg
    )
    return [made.clip(i) for i in range(CLIPS)]


def _drift(trainer: Any, clips: list[Any], steps: int | str, network: Any) -> dict[str, Any]:
    """PSNR [dB] and latent error of every clip [rows] and chunk [columns]."""
    from worldloom.generator.training.rollout import (
        psnr_per_chunk,
        roll_out,
        unipc_sampler,
        without_noise,
    )  # fmt: skip

    config = without_noise(trainer.settings.sampling())
    sampler = _four_steps if steps == "four" else unipc_sampler(int(steps))
    psnr, latent = [], []
    for clip in clips:
        made = roll_out(
            lambda s, x, t: s.velocity(network, x, t), clip, trainer.encoders, config,
            chunks=CHUNKS, sampler=sampler,
        )  # fmt: skip
        psnr.append(psnr_per_chunk(made.video, clip.video, config.layout))
        true = trainer.encoders.codec.encode(clip.video)[:, :, 1:]
        error = (made.latents - true).square().mean((0, 1, 3, 4))
        latent.append(error.view(CHUNKS, -1).mean(1).tolist())
    return {"psnr": psnr, "latent": latent}


def _four_steps(velocity: Any, noise: Any, chunk: int) -> Any:
    from worldloom.generator.video.lyra.distilled import distilled_sample, fresh_noise

    return distilled_sample(velocity, noise, fresh_noise(1000 + chunk, tuple(noise.shape)))


def _ceiling(trainer: Any, clips: list[Any]) -> list[list[float]]:
    """PSNR [dB] of the codec alone: nothing that the network makes can be better."""
    from worldloom.generator.training.rollout import psnr_per_chunk

    codec, layout = trainer.encoders.codec, trainer.settings.pack()
    return [psnr_per_chunk(codec.decode(codec.encode(c.video)), c.video, layout) for c in clips]


def _still(trainer: Any, clips: list[Any]) -> list[list[float]]:
    """PSNR [dB] of showing the first frame for ever."""
    from worldloom.generator.training.rollout import psnr_per_chunk

    layout = trainer.settings.pack()
    return [psnr_per_chunk(c.video[:, :, :1].expand_as(c.video), c.video, layout) for c in clips]


def _distil(trainer: Any, held: list[Any], options: argparse.Namespace) -> dict[str, Any]:
    """Distil the trained network; drift in four steps before and after."""
    from worldloom.generator.training.distill import Distiller, DistillSettings
    from worldloom.generator.training.draws import SeededDraws
    from worldloom.generator.training.settings import OptimSettings

    rates = OptimSettings(lr=1e-4, clip=1.0, betas=(0.0, 0.999))
    distiller = Distiller(trainer.network, DistillSettings(rates, rates, critic_steps=2))
    samples = [trainer.sample(i, "plain", SeededDraws(i))[0] for i in range(DISTILL_CLIPS)]
    draws, begun = SeededDraws(options.seed), time.monotonic()
    before = _drift(trainer, held, "four", trainer.network)
    for step in range(options.distill_steps):
        s = samples[step % len(samples)]
        distiller.train_step(
            lambda net, x, t, s=s: s.velocity(net, x, t), tuple(s.clean.shape), draws, like=s.clean
        )
    return {
        "steps": distiller.step, "seconds": time.monotonic() - begun, "before": before,
        "after": _drift(trainer, held, "four", distiller.student),
        "gap": _gaps(trainer, distiller, held),
    }  # fmt: skip


def _gaps(trainer: Any, distiller: Any, held: list[Any]) -> dict[str, float]:
    """Distance of four-step samples to the teacher's own, over samples of the same shown chunks.

    Energy distance per chunk between 16 samples each, averaged; `floor` is two sets of the teacher.
    """
    import torch

    from worldloom.generator.training.distill import energy_distance
    from worldloom.generator.training.draws import SeededDraws
    from worldloom.generator.training.rollout import unipc_sampler, without_noise
    from worldloom.generator.training.sample import build_sample, plain_latents

    config, count, rows = without_noise(trainer.settings.sampling()), 16, []
    for number, clip in enumerate(held[:4]):
        latents = plain_latents(trainer.encoders.codec, clip, 1, config)
        shown = build_sample(clip, 1, latents, trainer.encoders, config, SeededDraws(number))

        def draw(net: Any, sampler: Any, first: int, shown: Any = shown) -> Any:
            def velocity(x: Any, t: Any) -> Any:
                return shown.velocity(net, x, t.float().reshape(1))

            shape = tuple(shown.clean.shape)
            with torch.no_grad():
                return torch.cat([
                    sampler(velocity, SeededDraws(first + i).normal(shape, ""), first + i)
                    for i in range(count)
                ])  # fmt: skip

        many = unipc_sampler(SOLVER_STEPS)
        wanted = draw(trainer.network, many, 0)
        rows.append([
            energy_distance(draw(trainer.network, many, 100), wanted),
            energy_distance(draw(trainer.network, _four_steps, 200), wanted),
            energy_distance(draw(distiller.student, _four_steps, 200), wanted),
        ])  # fmt: skip
    return dict(zip(("floor", "before", "after"), np.mean(rows, 0).tolist(), strict=True))


# ---- the report -----------------------------------------------------------------------------


def _report(found: dict[str, Any], options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    on, off = (np.array(found[arm]["drift"]["psnr"]) for arm in ("on", "off"))
    gain = on - off
    return {
        "schema": "worldloom.bench-training/1", "preset": "train_toy", "seed": options.seed,
        "clips": CLIPS, "chunks": CHUNKS, "solver_steps": SOLVER_STEPS, "seconds": seconds,
        "arms": found,
        "gain_db": gain.mean(0).tolist(),
        "gain_error_db": (gain.std(0, ddof=1) / np.sqrt(len(gain))).tolist(),
    }  # fmt: skip


def _table(report: dict[str, Any]) -> None:
    arms = report["arms"]
    print(f"toy training, {report['clips']} held-out clips, {report['seconds']:.0f} s in all")
    for arm, result in arms.items():
        first, last = result["curve"][0][2], result["curve"][-1][2]
        print(
            f"self-augmentation {arm:3}: {result['steps']} steps in {result['train_seconds']:.0f} "
            f"s, loss on plain samples {first:.3f} -> {last:.3f}"
        )
    header = "".join(f"{f'chunk {i + 1}':>9}" for i in range(report["chunks"]))
    print(f"\n{'PSNR against truth [dB]':34}{header}")
    _row("codec alone (ceiling)", np.mean(arms["off"]["codec"], 0))
    _row("first frame for ever", np.mean(arms["off"]["still"], 0))
    for arm in arms:
        _row(f"self-augmentation {arm}", np.mean(arms[arm]["drift"]["psnr"], 0))
    _row("on minus off", report["gain_db"])
    _row("  standard error", report["gain_error_db"])
    print(f"\n{'error of latents':34}{header}")
    for arm in arms:
        _row(f"self-augmentation {arm}", np.mean(arms[arm]["drift"]["latent"], 0))
    if distilled := arms["on"].get("distilled"):
        print(f"\n{'four steps, PSNR [dB]':34}{header}")
        _row("teacher", np.mean(distilled["before"]["psnr"], 0))
        _row(f"student of {distilled['steps']} steps", np.mean(distilled["after"]["psnr"], 0))
        gap = distilled["gap"]
        print(
            f"energy distance to the teacher's {report['solver_steps']}-step samples: "
            f"teacher in 4 {gap['before']:.3f}, student in 4 {gap['after']:.3f}, "
            f"teacher again {gap['floor']:.3f}"
        )


def _row(name: str, values: Any) -> None:
    print(f"{name:34}" + "".join(f"{value:9.2f}" for value in values))


def _plot(report: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    chunks = np.arange(1, report["chunks"] + 1)
    colours = {"off": "tab:orange", "on": "tab:blue"}
    for arm, result in report["arms"].items():
        colour = colours[arm]
        curve = np.array(result["curve"])
        left.plot(curve[:, 0], curve[:, 2], color=colour, label=f"self-augmentation {arm}")
        psnr = np.array(result["drift"]["psnr"])
        error = psnr.std(0, ddof=1) / np.sqrt(len(psnr))
        right.errorbar(chunks, psnr.mean(0), error, color=colour, capsize=3, label=arm)
    for name, style in (("codec", ":"), ("still", "--")):
        values = np.mean(report["arms"]["off"][name], 0)
        label = {"codec": "codec alone", "still": "first frame for ever"}[name]
        right.plot(chunks, values, color="grey", linestyle=style, label=label)
    left.set(xlabel="step", ylabel="loss on plain samples, unweighted", title="Training")
    right.set(xlabel="chunk", ylabel="PSNR against truth [dB]", title="Rollout of six chunks")
    left.legend()
    right.legend()
    figure.savefig(file, dpi=120)


if __name__ == "__main__":
    raise SystemExit(main())
