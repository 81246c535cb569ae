"""Lyra's loop: states that are saved, resumed and undone, and what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldloom.generator.video.lyra import tiny
from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.depth_window import DepthWindow
from worldloom.generator.video.lyra.dit import VideoTransformer
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.loop import (
    DepthAnswer,
    Hooks,
    LyraOptions,
    Networks,
    Prompts,
    begin,
    step,
)
from worldloom.generator.video.lyra.state import load_state, save_state
from worldloom.scene.errors import CorruptData, EngineFailed, JobCancelled

SIZE = (48, 32)
LAYOUT = "f1k1f1s2f1s1f4k2f1k1_g2"
CHUNK = 8
K = np.array([[40.0, 0, 24], [0, 40.0, 16], [0, 0, 1]])
OPTIONS = LyraOptions(
    steps=2, guidance=2.0, memory_stride=2, window=DepthWindow(2, 4, False, CHUNK)
)


@pytest.fixture(scope="module")
def networks() -> Networks:
    whole = tiny.tiny_networks()
    config = DiTConfig(**{**vars(tiny.DIT), "framepack_type": LAYOUT, "buffer_in_dim": 512})
    dit = VideoTransformer(config).requires_grad_(False)
    return Networks(dit.load(random(config)), whole.vae, whole.clip)


def random(config: DiTConfig) -> dict[str, torch.Tensor]:
    return tiny.random_tensors(expected_shapes(config), 3)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(tiny.tiny_embedding("a garage"), tiny.tiny_embedding(""))


def depth_model(frames, pixels, w2c, intrinsics) -> DepthAnswer:
    """A wall 4 units in front of the first camera."""
    return DepthAnswer(np.stack([4 + pose[2, 3] + np.zeros(SIZE[::-1]) for pose in w2c]))


def cameras(first: int, *, turn: float = 0.0):
    w2c = np.tile(np.eye(4), (CHUNK, 1, 1))
    steps = np.arange(first, first + CHUNK)
    w2c[:, 2, 3] = -0.05 * steps
    angle = turn * steps
    w2c[:, 0, 0] = w2c[:, 2, 2] = np.cos(angle)
    w2c[:, 0, 2], w2c[:, 2, 0] = np.sin(angle), -np.sin(angle)
    return w2c, np.tile(K, (CHUNK, 1, 1))


def start(networks: Networks):
    torch.manual_seed(5)
    image = torch.rand(1, 3, *SIZE[::-1]) * 2 - 1
    return begin(networks, OPTIONS, image, np.full(SIZE[::-1], 4.0), np.eye(4), K)


def go(networks, prompts, state, chunks, **options):
    made = []
    for _ in range(chunks):
        w2c, intrinsics = cameras(state.last + 1)
        state, result = step(
            networks, OPTIONS, state, w2c, intrinsics, prompts, depth_model, **options
        )
        made.append(result)
    return state, made


def same(one, other) -> bool:
    return (
        all(torch.equal(a, b) for a, b in zip(one.latents, other.latents, strict=True))
        and one.memory.ids == other.memory.ids
        and all(torch.equal(one.pixels[f], other.pixels[f]) for f in one.pixels)
        and np.array_equal(one.depth, other.depth)
    )


def test_a_saved_state_goes_on_to_the_same_bytes(networks, prompts, tmp_path) -> None:
    state, _ = go(networks, prompts, start(networks), 1)
    save_state(state, tmp_path / "one")
    undisturbed, made = go(networks, prompts, state, 1)
    resumed, again = go(networks, prompts, load_state(tmp_path / "one"), 1)
    assert torch.equal(made[0].frames, again[0].frames)
    assert same(undisturbed, resumed)
    save_state(undisturbed, tmp_path / "two")
    save_state(resumed, tmp_path / "again")
    both = [(tmp_path / n / "state.safetensors").read_bytes() for n in ("two", "again")]
    assert both[0] == both[1]


def test_an_extension_that_is_undone_leaves_no_trace(networks, prompts) -> None:
    before, _ = go(networks, prompts, start(networks), 1)
    direct, made = go(networks, prompts, before, 1)
    w2c, intrinsics = cameras(before.last + 1, turn=0.02)
    step(networks, OPTIONS, before, w2c, intrinsics, prompts, depth_model)
    after, again = go(networks, prompts, before, 1)
    assert torch.equal(made[0].frames, again[0].frames)
    assert same(direct, after)


def test_what_enters_the_history_is_the_re_encoded_video(networks, prompts) -> None:
    state, made = go(networks, prompts, start(networks), 1)
    assert state.latents[-1].shape == made[0].sampled.shape
    assert not torch.allclose(state.latents[-1], made[0].sampled, atol=1e-2)


def test_seeds_differ_by_chunk_and_by_request(networks, prompts) -> None:
    state = start(networks)
    w2c, intrinsics = cameras(1)
    frames = [
        step(networks, replace(OPTIONS, seed=seed), state, w2c, intrinsics, prompts, None)[1].frames
        for seed in (1, 1, 2)
    ]
    assert torch.equal(frames[0], frames[1])
    assert not torch.equal(frames[0], frames[2])


def test_guidance_one_costs_half_the_evaluations(networks, prompts) -> None:
    counts = {}
    for guidance in (1.0, 2.0):
        seen = []
        w2c, intrinsics = cameras(1)
        step(
            networks, replace(OPTIONS, guidance=guidance), start(networks), w2c, intrinsics,
            prompts, None, hooks=Hooks(on_evaluation=lambda done, total, s=seen: s.append(total)),
        )  # fmt: skip
        counts[guidance] = (len(seen), seen[0])
    assert counts == {1.0: (2, 2), 2.0: (4, 4)}


def test_the_distilled_sampler_takes_four_and_needs_no_negative_prompt(networks, prompts) -> None:
    seen = []
    w2c, intrinsics = cameras(1)
    how = replace(OPTIONS, distilled=True)
    run = [
        step(
            networks, how, start(networks), w2c, intrinsics, Prompts(prompts.positive), None,
            hooks=Hooks(on_evaluation=lambda done, total: seen.append(done)),
        )[1]
        for _ in range(2)
    ]  # fmt: skip
    assert seen == [1, 2, 3, 4] * 2
    assert torch.equal(run[0].frames, run[1].frames)  # Not of the global generator.


def test_padded_frames_never_become_history(networks, prompts) -> None:
    state, _ = go(networks, prompts, start(networks), 1, real_frames=6)
    assert max(state.memory.ids) <= 5
    with pytest.raises(EngineFailed, match="padding"):
        go(networks, prompts, state, 1)
    free, _ = go(networks, prompts, start(networks), 1)
    assert max(free.memory.ids) == CHUNK


def test_a_turn_on_the_spot_keeps_the_scale(networks, prompts) -> None:
    """A depth network whose units are unknown and whose poses have no baseline (spec 11.1)."""

    def scaleless(frames, pixels, w2c, intrinsics):
        depth = np.stack([np.full(SIZE[::-1], 12.0) for _ in frames])  # Three of its units per one.
        return DepthAnswer(depth, w2c=w2c.copy(), aligned=False)

    w2c = cameras(1, turn=0.01)[0]
    w2c[:, :3, 3] = 0
    how = replace(OPTIONS, window=DepthWindow(2, 4, True, CHUNK))
    state, _ = step(
        networks, how, start(networks), w2c, np.tile(K, (CHUNK, 1, 1)), prompts, scaleless
    )
    assert state.scale == pytest.approx(3, rel=1e-3)
    assert np.median(state.depth) == pytest.approx(4, rel=1e-3)


def test_cancelling_stops_between_evaluations_and_changes_nothing(networks, prompts) -> None:
    state, done = start(networks), []
    w2c, intrinsics = cameras(1)
    hooks = Hooks(on_evaluation=lambda n, _: done.append(n), cancelled=lambda: len(done) >= 2)
    with pytest.raises(JobCancelled):
        step(networks, OPTIONS, state, w2c, intrinsics, prompts, depth_model, hooks=hooks)
    assert done == [1, 2]
    assert state.chunks == 0
    assert state.memory.ids == [0]


def test_a_wrong_number_of_cameras_is_refused(networks, prompts) -> None:
    w2c, intrinsics = cameras(1)
    with pytest.raises(EngineFailed, match="chunk of 8"):
        step(networks, OPTIONS, start(networks), w2c[:5], intrinsics[:5], prompts, None)


def test_guidance_without_a_negative_prompt_is_refused(networks, prompts) -> None:
    w2c, intrinsics = cameras(1)
    with pytest.raises(EngineFailed, match="negative"):
        step(networks, OPTIONS, start(networks), w2c, intrinsics, Prompts(prompts.positive), None)


def test_a_damaged_state_is_told_and_not_used(networks, prompts, tmp_path) -> None:
    save_state(start(networks), tmp_path / "s")
    file = tmp_path / "s" / "state.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CorruptData, match="start from the chunk before"):
        load_state(tmp_path / "s")
    with pytest.raises(CorruptData):
        load_state(tmp_path / "nothing")
