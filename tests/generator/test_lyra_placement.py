"""Networks come to their device for their stages and go again; streamed blocks give the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worldloom.generator.video.lyra import released
from worldloom.generator.video.lyra.config import LYRA_TINY
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.placement import Placement, stream_blocks
from worldloom.generator.video.lyra.tiny import random_tensors
from worldloom.scene.errors import EngineFailed

META = torch.device("meta")
"""A device that is surely another one than the CPU."""


def networks() -> dict[str, nn.Module]:
    return {name: nn.Linear(2, 2) for name in ("dit", "vae", "clip")}


def places(parts: dict[str, nn.Module]) -> dict[str, str]:
    return {name: next(part.parameters()).device.type for name, part in parts.items()}


def test_what_is_kept_goes_to_the_device_once() -> None:
    parts = networks()
    placement = Placement(META, parts, frozenset({"dit", "vae", "clip"}))
    placement.settle()
    assert set(places(parts).values()) == {"meta"}
    with placement.stage("denoise"):
        assert set(places(parts).values()) == {"meta"}


@pytest.mark.parametrize(
    ("stage", "there"), [("encode", {"vae", "clip"}), ("denoise", {"dit"}), ("decode", {"vae"})]
)
def test_only_what_a_stage_needs_is_brought(stage: str, there: set[str]) -> None:
    parts, seen = networks(), []
    for name, part in parts.items():
        # What has been on meta cannot come back, so moves are recorded and not made.
        part.to = lambda device, name=name: seen.append((name, torch.device(device).type))
    with Placement(META, parts, frozenset()).stage(stage):
        assert {name for name, device in seen if device == "meta"} == there
    assert {name for name, device in seen if device == "cpu"} == there


def test_a_network_goes_back_when_its_stage_fails() -> None:
    parts, seen = networks(), []
    parts["vae"].to = lambda device: seen.append(torch.device(device).type)
    with (
        pytest.raises(ValueError, match="stop"),
        Placement(META, parts, frozenset()).stage("decode"),
    ):
        raise ValueError("stop")
    assert seen == ["meta", "cpu"]


def test_streamed_blocks_give_the_same_velocity() -> None:
    torch.manual_seed(0)
    layout_latents = 45
    x = torch.randn(1, 16, layout_latents, 4, 6)
    y = torch.randn(1, 404, layout_latents, 4, 6)
    buffer, clip = torch.rand(1, 1280, layout_latents, 4, 6), torch.randn(1, 5, 32)
    text, t = torch.randn(1, 512, 32), torch.tensor([[500]])
    model = VideoTransformer(LYRA_TINY).load(random_tensors(expected_shapes(LYRA_TINY), 1))
    with torch.no_grad():
        before = model(x, t, text, y=y, clip=clip, buffer=buffer)
        calls = []
        stream_blocks(model, torch.device("cpu"))
        for block in model.blocks:
            original = block.ffn[0].to
            block.ffn[0].to = lambda *a, o=original, **k: (calls.append(a), o(*a, **k))[1]
        after = model(x, t, text, y=y, clip=clip, buffer=buffer)
    assert torch.equal(before, after)
    assert len(calls) == 2 * len(model.blocks)  # Arrives and leaves once a block.


def test_correspondences_in_slabs_are_those_of_all_at_once(monkeypatch) -> None:
    from worldloom.generator.video.lyra import dit as module

    torch.manual_seed(0)
    model = VideoTransformer(LYRA_TINY).requires_grad_(False)
    buffer = torch.rand(1, 1280, 45, 4, 6) * 2 - 1
    rays = torch.randn(1, 384, 45, 4, 6)
    whole = model._injection(rays, buffer)
    monkeypatch.setattr(module, "BUFFER_SLAB", 17)
    parts = model._injection(rays, buffer)
    for one, other in zip(whole.matches, parts.matches, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_machine_without_a_gpu_is_told_what_to_use_instead(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EngineFailed, match="preview"):
        released.plan("lyra2", (832, 480), None)
