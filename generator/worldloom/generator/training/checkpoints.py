"""The state of a run <-> a folder of safetensors files and one JSON file, written whole or not.

`step_00000100/` holds model, optimiser and, if kept, the average of the weights. Nothing is
pickled. Draws need no state: each step derives its own from seed and number.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from worldloom.generator.training.optim import PowerAverage
from worldloom.scene.errors import CorruptData, NotFound, StorageFull, StorageUnwritable

SCHEMA = "worldloom.training-state/1"
PREFIX = "step_"
SEPARATOR = "/"  # Between a parameter and what the optimiser keeps of it.


@dataclass
class RunState:
    """What a checkpoint holds."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    average: PowerAverage | None = None


def folder_of(out: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return out / f"{PREFIX}{step:08d}"


def steps_saved(out: Path) -> list[int]:
    """Steps of all whole checkpoints, rising."""
    found = out.glob(f"{PREFIX}*/state.json")
    return sorted(int(file.parent.name.removeprefix(PREFIX)) for file in found)


def save(out: Path, step: int, state: RunState, *, keep: int, main: bool = True) -> Path:
    """Write the checkpoint after `step` steps; all processes call this, `main` writes.

    Raises:
        StorageFull: No space is left.
        StorageUnwritable: The folder cannot be written.
    """
    model, optimizer = _gather(state)
    target = folder_of(out, step)
    if not main:
        return target
    part = target.with_name(f".{target.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        _write(part, step, model, optimizer, state.average)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    except OSError as error:
        kind = StorageFull if error.errno == 28 else StorageUnwritable
        raise kind(
            f"checkpoint {target} cannot be written ({error.strerror}); free space or give "
            "another --out, then continue with --resume"
        ) from error
    for old in steps_saved(out)[:-keep] if keep > 0 else []:
        shutil.rmtree(folder_of(out, old), ignore_errors=True)
    return target


def _gather(state: RunState) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Whole model and optimiser on the CPU, under the names of the parameters."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
    )

    model = get_model_state_dict(
        state.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True)
    )
    whole = StateDictOptions(full_state_dict=True, cpu_offload=True)
    optimizer = get_optimizer_state_dict(state.model, state.optimizer, options=whole)
    return model, {
        f"{name}{SEPARATOR}{part}": value
        for name, parts in optimizer.get("state", {}).items()  # Empty but on the first process.
        for part, value in parts.items()
    }


def _write(
    part: Path, step: int, model: dict[str, Tensor], optimizer: dict[str, Tensor],
    average: PowerAverage | None,
) -> None:  # fmt: skip
    from safetensors.torch import save_file

    save_file({k: v.contiguous() for k, v in model.items()}, part / "model.safetensors")
    save_file({k: v.contiguous() for k, v in optimizer.items()}, part / "optimizer.safetensors")
    if average is not None:
        save_file(average.values, part / "average.safetensors")
    text = json.dumps({"schema": SCHEMA, "step": step})
    (part / "state.json").write_text(text, "utf-8")
    for file in part.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def load(out: Path, state: RunState, step: int | None = None) -> int:
    """Continue from the newest checkpoint, or from that of `step`; returns its step.

    Raises:
        NotFound: There is none.
        CorruptData: It cannot be read, or is of another network.
    """
    saved = steps_saved(out)
    if not saved or (step is not None and step not in saved):
        raise NotFound(
            f"{out} has no checkpoint{'' if step is None else f' of step {step}'} to resume; "
            "start without --resume"
        )
    folder = folder_of(out, saved[-1] if step is None else step)
    try:
        return _read(folder, state)
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise CorruptData(
            f"checkpoint {folder} cannot be read ({str(error)[:200]}); delete it to resume from "
            "the one before"
        ) from error


def _read(folder: Path, state: RunState) -> int:
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_model_state_dict,
        set_optimizer_state_dict,
    )

    try:
        meta = json.loads((folder / "state.json").read_text("utf-8"))
        model = load_file(folder / "model.safetensors")
        optimizer = load_file(folder / "optimizer.safetensors")
        average = load_file(folder / "average.safetensors") if state.average else {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    whole = StateDictOptions(full_state_dict=True)
    set_model_state_dict(state.model, model, options=whole)
    # Groups hold nothing but settings, which are those of this run.
    current = get_optimizer_state_dict(state.model, state.optimizer)
    kept: dict[str, dict[str, Tensor]] = {}
    for key, value in optimizer.items():
        name, part = key.rsplit(SEPARATOR, 1)
        kept.setdefault(name, {})[part] = value
    current["state"] = kept
    set_optimizer_state_dict(state.model, state.optimizer, current, options=whole)
    if state.average is not None:
        state.average.values = {n: average[n].to(v) for n, v in state.average.values.items()}
    return int(meta["step"])
