"""Clips -> a trained network: the loop, its log, its checkpoints (spec 8.3, 8.5).

A step is decided by the run's seed and its number alone: which clip, which kind of sample, all
noise. So a run that is resumed makes the same weights as one that was never stopped, and processes
agree on the kind of sample without talking to each other.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from worldloom.generator.training import build, checkpoints
from worldloom.generator.training.augment import augmented_sample, draw_position
from worldloom.generator.training.clip import TrainingClip
from worldloom.generator.training.draws import Draws, step_draws
from worldloom.generator.training.flow import interpolate, target, weighted_loss
from worldloom.generator.training.optim import (
    PowerAverage,
    learning_factor,
    make_optimizer,
    tame_gradients,
)
from worldloom.generator.training.sample import Sample, build_sample, plain_latents
from worldloom.generator.training.settings import TrainSettings
from worldloom.generator.training.shard import shard_network
from worldloom.generator.video.lyra.layout import training_window
from worldloom.scene.errors import Conflict, EngineFailed, InvalidRequest

log = logging.getLogger(__name__)

PLAIN, FIRST_CHUNK, SELF_AUGMENTED = "plain", "first chunk", "self-augmented"
LOG_FILE = "log.jsonl"
MODE_RANK = 1_000_003  # Stands for all processes in the draw of the kind of sample.


def choose_mode(step: int, settings: TrainSettings) -> str:
    """The kind of sample of a step, the same on every process (spec 8.3)."""
    s = settings.sample
    if step % s.every:
        return PLAIN
    draw = float(step_draws(settings.run.seed, step, MODE_RANK).uniform(1, "mode"))
    if draw < s.first_chunk:
        return FIRST_CHUNK
    return SELF_AUGMENTED if s.self_augment else PLAIN


@dataclass(frozen=True)
class Step:
    """What one step did; a line of the log."""

    step: int
    mode: str
    clip: str
    segment: int
    timestep: float
    loss: float
    raw_loss: float
    """Without the weight of the noise level."""
    gradient: float
    """Norm of the gradients before clipping."""
    lr: float
    seconds: float


@dataclass
class Trainer:
    """One run; `Trainer.make` puts it together."""

    settings: TrainSettings
    out: Path
    accelerator: Any
    model: nn.Module
    optimizer: torch.optim.Optimizer
    encoders: build.Encoders
    clips: build.Clips
    empty_text: Tensor
    average: PowerAverage | None = None
    step: int = 0
    """Steps done."""
    _kept: dict[int, TrainingClip] = field(default_factory=dict)

    @staticmethod
    def make(
        settings: TrainSettings, out: Path, *, resume: bool = False, cpu: bool = False
    ) -> Trainer:
        """Build all parts, and continue from the newest checkpoint if asked.

        Args:
            settings: Of the run.
            out: Folder for checkpoints and log.
            resume: Continue instead of starting.
            cpu: Use no accelerator.

        Raises:
            Conflict: The folder holds a run and `resume` is off.
            NotFound: There is nothing to resume, or a file is missing.
            InvalidRequest: Settings do not fit this launch.
            EngineFailed: Weights do not fit the settings.
        """
        from accelerate import Accelerator

        if checkpoints.steps_saved(out) and not resume:
            raise Conflict(
                f"{out} holds a run of {checkpoints.steps_saved(out)[-1]} steps; "
                "continue it with --resume, or give another --out"
            )
        accelerator = Accelerator(cpu=cpu)
        several = accelerator.num_processes > 1
        if several and settings.run.precision == "bf16" and not settings.shard.enabled:
            raise InvalidRequest(
                f"run.precision is bf16 on {accelerator.num_processes} processes without shards; "
                "set shard.enabled=true, or use fp32"
            )
        clips = build.make_clips(settings)
        with accelerator.main_process_first():  # It fits and keeps a codec that the others read.
            encoders = build.make_encoders(settings, clips, out)
        for network in (encoders.codec, encoders.image):
            network.to(accelerator.device)
        model = build.make_network(settings).to(accelerator.device)
        if settings.shard.enabled:
            low = settings.run.precision == "bf16"
            model = shard_network(model, settings.shard, accelerator.device, low=low)
            optimizer = make_optimizer(model.parameters(), settings.optim)
        else:
            optimizer = make_optimizer(model.parameters(), settings.optim)
            model, optimizer = accelerator.prepare(model, optimizer)
        width = settings.optim.ema
        average = PowerAverage(accelerator.unwrap_model(model), width) if width else None
        trainer = Trainer(
            settings, out, accelerator, model, optimizer, encoders, clips,
            build.make_empty_prompt(settings), average,
        )  # fmt: skip
        if resume:
            trainer.step = checkpoints.load(out, trainer.state())
        return trainer

    @property
    def network(self) -> nn.Module:
        """The network itself, without what processes are joined by."""
        return self.accelerator.unwrap_model(self.model)

    def state(self) -> checkpoints.RunState:
        """What a checkpoint holds."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        return checkpoints.RunState(self.network, optimizer, self.average)

    def velocity(self, sample: Sample, noisy: Tensor, timestep: Tensor) -> Tensor:
        """What the network says of noisy latents, in the run's precision."""
        s = self.settings
        if s.run.precision == "fp32" or s.shard.enabled:
            low = torch.bfloat16 if s.shard.enabled and s.run.precision == "bf16" else None
            return sample.to(noisy.device, low).velocity(self.model, noisy, timestep)
        # Weights stay float32; the network sees them rounded, and gradients flow back to them.
        rounded = {n: p.bfloat16() for n, p in self.network.named_parameters()}

        def call(*args: Tensor, **kwargs: Tensor) -> Tensor:
            return functional_call(self.network, rounded, args, kwargs)

        return sample.to(noisy.device, torch.bfloat16).velocity(call, noisy, timestep)

    def clip(self, step: int) -> TrainingClip:
        """The clip of a step of this process; a limited number of them stays in memory."""
        a, limit = self.accelerator, self.settings.data.limit
        index = step * a.num_processes + a.process_index
        key = index % limit if limit else -1
        if key in self._kept:
            return self._kept[key]
        clip = self.clips.clip(index)
        if limit:
            self._kept[key] = clip
        return clip

    def sample(self, step: int, mode: str, draws: Draws) -> tuple[Sample, str]:
        """The sample of a step and the name of its clip."""
        config, encoders = self.settings.sampling(), self.encoders
        clip = _on(self.clip(step), self.accelerator.device)
        window = training_window(
            config.layout, len(clip), start=0, segment=0,
            max_segments=self.settings.sample.max_segments,
            self_augmented=mode == SELF_AUGMENTED,
        )  # fmt: skip
        chosen = draws.integer(0, len(window.segments), "segment")
        segment = 0 if mode == FIRST_CHUNK else chosen
        empty = self.empty_text
        if mode == SELF_AUGMENTED:
            made = augmented_sample(
                clip, segment, self.velocity, encoders, config, self.settings.training_flow(),
                draws, empty_text=empty, most=self.settings.sample.augment_most,
            )  # fmt: skip
            return made.sample, clip.name
        latents = plain_latents(encoders.codec, clip, segment, config)
        sample = build_sample(
            clip, segment, latents, encoders, config, draws, empty_text=empty,
            still_only=mode == FIRST_CHUNK,
        )  # fmt: skip
        return sample, clip.name

    def train_step(self) -> Step:
        """One step; the weights have moved when it returns.

        Raises:
            EngineFailed: The loss is not finite.
        """
        begun, step, settings = time.monotonic(), self.step, self.settings
        draws = step_draws(settings.run.seed, step, self.accelerator.process_index)
        mode, flow = choose_mode(step, settings), settings.training_flow()
        sample, name = self.sample(step, mode, draws)
        timestep = flow.timestep(flow.position(draw_position(flow, draws)))
        timestep = timestep.to(sample.clean.device)
        noise = draws.normal(tuple(sample.clean.shape), "noise").to(sample.clean)
        noisy = interpolate(sample.clean, noise, flow.sigma(timestep))
        velocity, wanted = self.velocity(sample, noisy, timestep), target(sample.clean, noise)
        loss = weighted_loss(velocity, wanted, flow.weight(timestep))
        if not torch.isfinite(loss):
            raise EngineFailed(
                f"the loss of step {step} is {float(loss.detach())} on clip {name}; lower optim.lr "
                "and resume from the last checkpoint"
            )
        self.accelerator.backward(loss)
        gradient = self._move(step)
        raw = weighted_loss(velocity.detach(), wanted, torch.ones_like(timestep))
        return Step(
            step, mode, name, sample.segment, float(timestep), float(loss.detach()), float(raw),
            gradient, self.lr(step), time.monotonic() - begun,
        )  # fmt: skip

    def lr(self, step: int) -> float:
        """Learning rate of a step."""
        return self.settings.optim.lr * learning_factor(step, self.settings.optim)

    def _move(self, step: int) -> float:
        gradient = tame_gradients(self.model.parameters(), self.settings.optim.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr(step)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.network, step)
        self.step = step + 1
        return gradient

    def run(
        self, steps: int | None = None, *, on_step: Callable[[Step], None] | None = None
    ) -> Path:
        """Train up to `steps` steps in all, and return the last checkpoint.

        Raises:
            EngineFailed: The loss is not finite.
            StorageFull: A checkpoint finds no space.
            StorageUnwritable: The folder cannot be written.
        """
        settings, main = self.settings.run, self.accelerator.is_main_process
        last = settings.steps if steps is None else steps
        path = checkpoints.folder_of(self.out, self.step)
        while self.step < last:
            done = self.train_step()
            if main:
                self._log(done)
                if on_step is not None:
                    on_step(done)
            if self.step % settings.checkpoint_every == 0 or self.step == last:
                path = checkpoints.save(
                    self.out, self.step, self.state(), keep=settings.keep, main=main
                )
                log.info("step %d: wrote %s", self.step, path.name)
                self.accelerator.wait_for_everyone()
        return path

    def _log(self, done: Step) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(done)) + "\n")


def _on(clip: TrainingClip, device: torch.device) -> TrainingClip:
    from dataclasses import replace

    return replace(clip, video=clip.video.to(device), text=clip.text.to(device))
