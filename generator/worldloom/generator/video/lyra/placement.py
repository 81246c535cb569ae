"""Which network is on the GPU in which stage: all of them, or one after the other.

The memory plan chooses a preset; this carries it out. Stages are those of `memory_plan.STAGES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn

NEEDED: Mapping[str, tuple[str, ...]] = {
    "encode": ("vae", "clip"),
    "denoise": ("dit",),
    "decode": ("vae",),
    "depth": ("depth",),
}
"""Networks that a stage of the loop runs; `denoise` includes what is prepared once per chunk."""


@dataclass(frozen=True)
class Placement:
    """Where the networks of a run live."""

    device: torch.device
    """Where they compute."""
    networks: Mapping[str, nn.Module] = field(default_factory=dict)
    """By name: `dit`, `vae`, `clip`, `depth`."""
    keep: frozenset[str] = frozenset({"dit", "vae", "clip", "depth"})
    """Networks that stay on `device`; the others come for their stages."""
    streamed: bool = False
    """Whether the blocks of the video transformer come one at a time."""

    def settle(self) -> None:
        """Bring what stays to the device, and prepare streaming."""
        for name in self.keep & set(self.networks):
            self.networks[name].to(self.device)
        if self.streamed:
            stream_blocks(self.networks["dit"], self.device)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Within it the networks of a stage are on the device."""
        moving = [n for n in NEEDED[name] if n in self.networks and n not in self.keep]
        for network in moving:
            self._bring(network)
        try:
            yield
        finally:
            for network in moving:
                self.networks[network].to("cpu")
            if moving and self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _bring(self, network: str) -> None:
        module = self.networks[network]
        if network != "dit" or not self.streamed:
            module.to(self.device)
            return
        # The blocks stay on the host and come one by one, by their hooks.
        for name, child in module.named_children():
            if name != "blocks":
                child.to(self.device)


def stream_blocks(dit: nn.Module, device: torch.device) -> None:
    """Let every block of a video transformer come to `device` for its own call and go again.

    Everything that calls into a block goes through the hooks of its parts: `prepare` runs single
    layers, a step runs whole blocks.
    """
    for block in dit.blocks:
        leaves = [m for m in block.modules() if not list(m.children())]
        for leaf in leaves:
            leaf.register_forward_pre_hook(_arrive(device))
            leaf.register_forward_hook(_leave)
        # A block's own parameters (its modulation) are small and stay.
        for parameter in block.parameters(recurse=False):
            parameter.data = parameter.data.to(device)


def _arrive(device: torch.device):
    def hook(module: nn.Module, _: object) -> None:
        module.to(device, non_blocking=True)

    return hook


def _leave(module: nn.Module, _: object, __: object) -> None:
    module.to("cpu")
