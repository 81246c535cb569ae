"""`worldloom doctor --engine ENGINE`: what a run would keep in memory, and whether it fits."""

from __future__ import annotations

import argparse
import os

from worldloom.cli import console
from worldloom.scene.errors import InvalidRequest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the memory plan."""
    parser.add_argument(
        "--engine", metavar="NAME", help="only show the memory plan of lyra2, lyra2-dmd, lyra2-tiny"
    )
    parser.add_argument(
        "--preset", metavar="NAME", help="resident-80, offload-48 or offload-24; the fastest that "
        "fits by default",
    )  # fmt: skip
    parser.add_argument("--size", metavar="WxH", default="832x480", help="size of the frames [px]")
    parser.add_argument(
        "--gpu-gb", type=float, metavar="N", help="memory of the card; by default that of the GPU "
        "here, or of the card the preset is made for",
    )  # fmt: skip


def show(args: argparse.Namespace) -> int:
    """Print the plan; 0 when it fits.

    Raises:
        InvalidRequest: An option is unknown or malformed.
        EngineFailed: The run cannot fit; the text has the numbers and what would.
    """
    from worldloom.generator.video.lyra import memory_plan

    size = _size(args.size)
    found = args.gpu_gb or _gpu_gb()
    if args.preset or found is None:
        names = [args.preset] if args.preset else list(memory_plan.PRESETS)
        plans = [memory_plan.plan_memory(args.engine, name, size) for name in names]
    else:
        plans = [memory_plan.choose_preset(args.engine, size, found)]
    for plan in plans:
        _print(plan)
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    for plan in plans:
        plan.check(gpu_gb=found, host_gb=host if found is not None else None)
    return 0


def _print(plan: object) -> None:
    from worldloom.generator.video.lyra import memory_plan

    width, height = plan.size
    console.say(
        f"{plan.engine} with {plan.preset.name} at {width} x {height} px: {plan.tokens} tokens per "
        "pass; GB (1e9 bytes) alive in each stage, counted and not measured"
    )
    console.table(*memory_plan.table(plan))
    for place in (memory_plan.DEVICE, memory_plan.HOST):
        console.say(f"  {place}: {plan.peak(place):.1f} GB at most, in {plan.fullest(place)}")
    console.say()


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise InvalidRequest(
            f"--size is {text!r}; give width and height such as 832x480", field="size"
        ) from None
    return width, height


def _gpu_gb() -> float | None:
    """Memory of the first GPU, where there is torch and one."""
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory / 1e9
