"""A trained run -> a run that distils a student of four steps from it: the loop around `distill`.

Samples, chance and checkpoints are those of `train`: a step is decided by seed and number alone, so
a resumed distillation makes the same student as one that was never stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from worldloom.generator.training import checkpoints
from worldloom.generator.training.distill import Distiller, DistillSettings
from worldloom.generator.training.draws import step_draws
from worldloom.generator.training.settings import TrainSettings
from worldloom.generator.training.train import LOG_FILE, PLAIN, Trainer
from worldloom.scene.errors import Conflict, InvalidRequest

STUDENT, CRITIC = "student", "critic"
SEED_SHIFT = 7_919  # Chance of a distillation is not that of its teacher's training.


@dataclass(frozen=True)
class DistillStep:
    """What one step did; a line of the log."""

    step: int
    clip: str
    student: float
    critic: float
    seconds: float


@dataclass
class DistillRun:
    """One distillation; `DistillRun.make` puts it together."""

    trainer: Trainer
    """Of the teacher: its samples and encoders are used, its weights stay."""
    distiller: Distiller
    out: Path

    @staticmethod
    def make(
        settings: TrainSettings,
        teacher: Path,
        out: Path,
        *,
        resume: bool = False,
        cpu: bool = False,
    ) -> DistillRun:
        """Load the teacher's newest checkpoint, and continue if asked.

        Args:
            settings: Those that the teacher was trained with; its rates are the student's.
            teacher: Folder of the teacher's run.
            out: Folder of this run: `student/` and `critic/` hold checkpoints.
            resume: Continue instead of starting.
            cpu: Use no accelerator.

        Raises:
            Conflict: The folder holds a distillation and `resume` is off.
            NotFound: The teacher, or what is to be resumed, has no checkpoint.
            InvalidRequest: Settings shard the network or round it, which this loop does not.
            CorruptData: A checkpoint is of another network.
        """
        if settings.shard.enabled or settings.run.precision != "fp32":
            raise InvalidRequest(
                f"distillation runs in fp32 without shards, the settings say "
                f"{settings.run.precision} and shard.enabled={settings.shard.enabled}; "
                "set run.precision=fp32 shard.enabled=false"
            )
        if checkpoints.steps_saved(out / STUDENT) and not resume:
            raise Conflict(
                f"{out} holds a distillation; continue it with --resume, or give another --out"
            )
        trainer = Trainer.make(settings, teacher, resume=True, cpu=cpu)
        distiller = Distiller(
            trainer.network, DistillSettings(settings.optim, settings.optim),
            settings.training_flow(),
        )  # fmt: skip
        run = DistillRun(trainer, distiller, out)
        if resume:
            run.load()
        return run

    def states(self) -> dict[str, checkpoints.RunState]:
        """What checkpoints hold, by folder; the student comes last and makes them whole."""
        d = self.distiller
        return {
            CRITIC: checkpoints.RunState(d.critic, d.critic_optimizer),
            STUDENT: checkpoints.RunState(d.student, d.student_optimizer),
        }

    def load(self) -> None:
        """Continue from the newest step that both networks have.

        Raises:
            NotFound: There is none.
        """
        saved = [set(checkpoints.steps_saved(self.out / name)) for name in self.states()]
        step = max(set.intersection(*saved), default=None)
        for name, state in self.states().items():
            self.distiller.step = checkpoints.load(self.out / name, state, step)

    def train_step(self) -> DistillStep:
        """One step of the student.

        Raises:
            EngineFailed: A loss is not finite.
        """
        begun, step = time.monotonic(), self.distiller.step
        accelerator = self.trainer.accelerator
        seed = self.trainer.settings.run.seed + SEED_SHIFT
        draws = step_draws(seed, step, accelerator.process_index)
        sample, clip = self.trainer.sample(step, PLAIN, draws)

        def velocity(network: nn.Module, x: Tensor, timestep: Tensor) -> Tensor:
            return sample.velocity(network, x, timestep)

        losses = self.distiller.train_step(
            velocity, tuple(sample.clean.shape), draws, like=sample.clean
        )
        seconds = time.monotonic() - begun
        return DistillStep(step, clip, losses["student"], losses["critic"], seconds)

    def run(self, steps: int, *, on_step: Callable[[DistillStep], None] | None = None) -> Path:
        """Distil up to `steps` steps in all, and return the student's last checkpoint.

        Raises:
            EngineFailed: A loss is not finite.
            StorageFull: A checkpoint finds no space.
            StorageUnwritable: The folder cannot be written.
        """
        settings = self.trainer.settings.run
        path = checkpoints.folder_of(self.out / STUDENT, self.distiller.step)
        while self.distiller.step < steps:
            done = self.train_step()
            self._log(done)
            if on_step is not None:
                on_step(done)
            now = self.distiller.step
            if now % settings.checkpoint_every == 0 or now == steps:
                for name, state in self.states().items():
                    path = checkpoints.save(self.out / name, now, state, keep=settings.keep)
        return path

    def _log(self, done: DistillStep) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / LOG_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(vars(done)) + "\n")
