"""All that a Lyra run carries from chunk to chunk, as one value that can be saved and resumed.

A step never changes a state: it returns a new one that shares what is old. Undoing an extension is
keeping the state before it, whole; the released code forgets part of its state (spec 10.3).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from worldloom.generator.memory.lyra_cache import LyraMemory
from worldloom.generator.video.lyra.conditioning import Past, Shot
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.vae import State, state_from_tensors, state_to_tensors
from worldloom.scene.errors import CorruptData

STATE_SCHEMA = "worldloom.lyra-state/1"


@dataclass(frozen=True)
class LyraState:
    """A run after `chunks` chunks. Cameras are world to camera with integer pixel centres."""

    chunks: int
    latents: tuple[Tensor, ...]
    """Re-encoded history in the order of time, the pre-roll first, each [1 C n h w]."""
    pixels: Mapping[int, Tensor]
    """Frames that memory, depth or the next warp may ask for, each [1 3 H W], not clamped."""
    encoder: State
    decoder: State
    w2c: NDArray[np.float64]
    """Cameras of all frames so far, [1 + n*chunks 4 4]."""
    K: NDArray[np.float64]
    memory: LyraMemory
    depth: NDArray[np.float32]
    """Depth of the newest frame, [H W]."""
    scale: float | None = None
    """The depth network's units in one unit of the run, by its last window."""
    padded: bool = False
    """The last chunk ends in padding, which is no history: nothing can follow on it."""

    @property
    def last(self) -> int:
        """Number of the newest frame."""
        return len(self.w2c) - 1

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the frames."""
        return self.depth.shape[1], self.depth.shape[0]

    def past(self) -> Past:
        """What the next chunk is conditioned on."""
        return Past(torch.cat(self.latents, 2), lambda f: self.pixels[f], self.depth, self.memory)

    def shot(self, w2c: NDArray[np.float64], K: NDArray[np.float64]) -> Shot:
        """The cameras so far and those of the next chunk."""
        return Shot(np.concatenate([self.w2c, w2c]), np.concatenate([self.K, K]), self.size)


def kept_frames(layout: FramePack, first: int, memory_stride: int, interval: int) -> list[int]:
    """Frames of the chunk from `first` whose pixels may be asked for later."""
    step = gcd(interval, layout.new_frames)
    chunk = range(first, first + layout.new_frames)
    return [f for f in chunk if f % memory_stride == 0 or f % step == 0]


def save_state(state: LyraState, folder: Path) -> None:
    """Write a state into an empty folder; written last, `state.json` marks it as whole."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"latents.{i:04d}": part for i, part in enumerate(state.latents)}
    tensors |= {f"pixels.{f}": pixels for f, pixels in state.pixels.items()}
    for side, cache in (("encoder", state.encoder), ("decoder", state.decoder)):
        tensors |= {f"{side}.{key}": value for key, value in state_to_tensors(cache).items()}
    tensors |= {
        name: torch.from_numpy(np.ascontiguousarray(getattr(state, name)))
        for name in ("w2c", "K", "depth")
    }
    for i, frame in enumerate(state.memory.frames):
        parts = {"depth": frame.depth, "w2c": frame.w2c, "K": frame.K, "pixels": frame.pixels}
        tensors |= {
            f"memory.{i:04d}.{name}": torch.from_numpy(np.ascontiguousarray(value))
            for name, value in parts.items()
            if value is not None
        }
    # The newest depth is also in the memory: files must not share storage, so that is copied.
    whole = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
    whole["depth"] = whole["depth"].clone()
    save_file(whole, folder / "state.safetensors")
    meta = {
        "schema": STATE_SCHEMA, "chunks": state.chunks, "memory": state.memory.ids,
        "stride": state.memory.stride, "visible_within": state.memory.visible_within,
        "scale": state.scale, "padded": state.padded,
    }  # fmt: skip
    (folder / "state.json").write_text(json.dumps(meta, sort_keys=True) + "\n", "utf-8")


def load_state(folder: Path, device: torch.device | str = "cpu") -> LyraState:
    """Read a state that `save_state` wrote; histories stay on `device`, memory on the CPU.

    Raises:
        CorruptData: The folder holds no whole state.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        meta = json.loads((folder / "state.json").read_text("utf-8"))
        if meta["schema"] != STATE_SCHEMA:
            raise CorruptData(
                f"{folder} has the schema {meta['schema']!r} instead of {STATE_SCHEMA!r}"
            )
        tensors = load_file(folder / "state.safetensors")
        return _assemble(meta, tensors, device)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CorruptData(
            f"{folder} holds no whole Lyra state ({type(error).__name__}: {error}); "
            "remove it and start from the chunk before"
        ) from error


def _assemble(
    meta: Mapping[str, Any], tensors: Mapping[str, Tensor], device: torch.device | str
) -> LyraState:
    def under(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): value
            for name, value in tensors.items()
            if name.startswith(prefix)
        }

    memory = LyraMemory(stride=meta["stride"], visible_within=meta["visible_within"])
    for i, frame_id in enumerate(meta["memory"]):
        part = {name: value.numpy() for name, value in under(f"memory.{i:04d}.").items()}
        memory = memory.remember(
            frame_id, part["depth"], part["w2c"], part["K"], pixels=part.get("pixels")
        )
    caches = [
        {name: value.to(device) for name, value in under(f"{side}.").items()}
        for side in ("encoder", "decoder")
    ]
    return LyraState(
        chunks=meta["chunks"],
        latents=tuple(v.to(device) for _, v in sorted(under("latents.").items())),
        pixels={int(f): v for f, v in sorted(under("pixels.").items(), key=lambda i: int(i[0]))},
        encoder=state_from_tensors(caches[0]),
        decoder=state_from_tensors(caches[1]),
        w2c=tensors["w2c"].numpy(),
        K=tensors["K"].numpy(),
        memory=memory,
        depth=tensors["depth"].numpy(),
        scale=meta["scale"],
        padded=meta["padded"],
    )
