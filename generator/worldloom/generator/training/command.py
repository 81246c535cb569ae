"""`worldloom-train`: settings, a folder, and perhaps more steps of a run that is there."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from worldloom.scene.errors import WorldloomError

if TYPE_CHECKING:
    from worldloom.generator.training.settings import TrainSettings

log = logging.getLogger("worldloom.train")
EXIT_INTERRUPTED = 130
REPORT_EVERY = 10  # Steps between two lines on the screen.


def main(argv: Sequence[str] | None = None) -> int:
    """Train and return the exit code, as `worldloom` does."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        return _train(options)
    except WorldloomError as error:
        log.error("worldloom-train: %s", error)
        return error.exit_code
    except KeyboardInterrupt:
        log.error("worldloom-train: stopped; continue with --resume")
        return EXIT_INTERRUPTED


def _train(options: argparse.Namespace) -> int:
    from worldloom.generator.training.settings import read_settings
    from worldloom.generator.training.train import Step, Trainer

    settings = read_settings(options.config, options.overrides)
    if options.distill is not None:
        return _distil(options, settings)
    trainer = Trainer.make(settings, options.out, resume=options.resume, cpu=options.cpu)

    def report(done: Step) -> None:
        if done.step % REPORT_EVERY == 0:
            log.info(
                "step %6d  loss %.4f  gradient %.3f  lr %.2e  %s", done.step, done.loss,
                done.gradient, done.lr, done.mode,
            )  # fmt: skip

    path = trainer.run(options.steps, on_step=report)
    log.info("%d steps are done; the weights are in %s", trainer.step, path)
    return 0


def _distil(options: argparse.Namespace, settings: TrainSettings) -> int:
    from worldloom.generator.training.distill_run import DistillRun, DistillStep

    run = DistillRun.make(
        settings, options.distill, options.out, resume=options.resume, cpu=options.cpu
    )

    def report(done: DistillStep) -> None:
        if done.step % REPORT_EVERY == 0:
            log.info("step %6d  student %.4f  critic %.4f", done.step, done.student, done.critic)

    path = run.run(options.steps or settings.run.steps, on_step=report)
    log.info("%d steps are done; the student is in %s", run.distiller.step, path)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="worldloom-train", description="Train a video transformer on clips with depth."
    )
    parser.add_argument("--config", default="train_toy", help="a preset or a YAML file")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument(
        "--distill", type=Path, metavar="RUN", help="distil a four-step student from this run"
    )
    parser.add_argument("--steps", type=int, help="train up to this many steps in all")
    parser.add_argument("--resume", action="store_true", help="continue the run in --out")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    parser.add_argument("overrides", nargs="*", metavar="field=value", help="such as optim.lr=1e-4")
    return parser


if __name__ == "__main__":
    sys.exit(main())
