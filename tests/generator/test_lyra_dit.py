"""The video transformer: names, sizes, strict loading, and that nothing is computed twice."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from worldloom.generator.video.lyra import tokens
from worldloom.generator.video.lyra.config import LYRA_14B, DiTConfig
from worldloom.generator.video.lyra.dit import Prepared, VideoTransformer
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.layout import FramePack
from worldloom.generator.video.lyra.tiny import DIT, random_tensors
from worldloom.scene.errors import EngineFailed

HEIGHT, WIDTH, CLIP_TOKENS = 8, 12, 17  # Latent size and image tokens of these tests.


@pytest.fixture(scope="module")
def model() -> VideoTransformer:
    torch.manual_seed(0)
    dit = VideoTransformer(DIT).requires_grad_(False)
    return dit.load(random_tensors(expected_shapes(DIT), 7))


@pytest.fixture(scope="module")
def given(model) -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    layout = model.layout
    return {
        "history": torch.randn(1, 16, layout.history, HEIGHT, WIDTH),
        "y": torch.randn(1, 20 + 384, layout.total, HEIGHT, WIDTH),
        "buffer": torch.rand(1, DIT.buffer_in_dim, layout.total, HEIGHT, WIDTH) * 2 - 1,
        "clip": torch.randn(1, CLIP_TOKENS, DIT.clip_dim),
        "text": torch.randn(1, 512, DIT.text_dim),
        "x": torch.randn(1, 16, layout.new, HEIGHT, WIDTH),
    }


def prepare(model: VideoTransformer, given: dict[str, torch.Tensor]) -> Prepared:
    return model.prepare(
        given["history"], given["text"], y=given["y"], clip=given["clip"], buffer=given["buffer"]
    )


def test_the_released_network_has_the_published_names_and_number_of_parameters() -> None:
    with torch.device("meta"):
        model = VideoTransformer(LYRA_14B)
    shapes = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    assert shapes == expected_shapes(LYRA_14B)
    assert len(shapes) == 1435
    assert sum(p.numel() for p in model.parameters()) == 17_029_871_424
    assert shapes["blocks.39.buffer_encoder.0.weight"] == (256, 20480)
    assert shapes["clean_patch_embeddings.3.weight"] == (5120, 9216)


def test_the_released_layout_gives_the_published_tokens() -> None:
    layout = FramePack.parse(LYRA_14B.framepack_type)
    places = tokens.packed_places(LYRA_14B, layout, 60, 104, torch.device("cpu"))
    assert places.angles.shape == (38246, 64)
    assert (places.new.start, places.new.stop) == (7046, 38246)
    # The first angle runs one radian per slot: 7.5 is the mean of the first four pooled slots.
    starts = [0, 1560, 3120, 4680, 5096, 5486, 7046]
    assert places.angles[starts, 0].tolist() == pytest.approx([0, 1, 5, 7.5, 22.5, 24, 25])
    # Rows of the last pooled token: 28, 29 and the padded 29, 29.
    rows = places.angles[5095, 22]
    assert float(rows) == pytest.approx(28.75)
    places = tokens.packed_places(LYRA_14B, layout, 56, 96, torch.device("cpu"))
    assert len(places.angles) == 32928


def test_nothing_that_a_step_does_not_change_is_computed_in_a_step(model, given) -> None:
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda *_, name=name: calls.update([name]))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    ]
    prepared = prepare(model, given)
    once = dict(calls)
    for t in (999, 900, 500):
        model.velocity(given["x"], torch.tensor([[t]]), prepared)
    for handle in handles:
        handle.remove()
    still = [
        "text_embedding", "img_emb", "clean_patch_embeddings", "cross_attn.k", "cross_attn.v",
        "buffer_encoder.0",
    ]  # fmt: skip
    for name in calls:
        if any(part in name for part in still):
            assert (once[name], calls[name]) == (1, 1), name
    assert calls["blocks.0.self_attn.q"] == 3


def test_the_head_sees_generated_tokens_alone(model, given) -> None:
    seen = []
    handle = model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    model.velocity(given["x"], torch.tensor([[500]]), prepare(model, given))
    handle.remove()
    assert seen == [model.layout.new * (HEIGHT // 2) * (WIDTH // 2)]


def test_another_prompt_changes_the_text_alone(model, given) -> None:
    prepared = prepare(model, given)
    other = model.with_text(prepared, given["text"] + 1)
    assert other.scene is prepared.scene
    t = torch.tensor([[500]])
    assert not torch.equal(
        model.velocity(given["x"], t, prepared), model.velocity(given["x"], t, other)
    )


def test_preparing_and_stepping_is_the_whole_network(model, given) -> None:
    t = torch.tensor([[321]])
    whole = model(
        torch.cat([given["history"], given["x"]], 2), t, given["text"], y=given["y"],
        clip=given["clip"], buffer=given["buffer"],
    )  # fmt: skip
    assert torch.equal(whole, model.velocity(given["x"], t, prepare(model, given)))


def test_every_tensor_that_does_not_fit_is_named() -> None:
    state = random_tensors(expected_shapes(DIT), 7)
    del state["head.head.bias"]
    state["blocks.0.self_attn.q.weight"] = torch.zeros(3, 3)
    state["surprise"] = torch.zeros(1)
    with pytest.raises(EngineFailed) as told:
        VideoTransformer(DIT).load(state)
    for name in ("head.head.bias", "blocks.0.self_attn.q.weight", "surprise"):
        assert name in str(told.value)


def test_checkpoint_prefixes_and_counters_are_no_weights() -> None:
    state = {f"net.{k}": v for k, v in random_tensors(expected_shapes(DIT), 7).items()}
    state["net.accum_iteration"] = torch.zeros(1)
    state["net.blocks.0.self_attn.norm_q._extra_state"] = torch.zeros(1)
    VideoTransformer(DIT).load(state)


def test_a_constant_history_embeds_alike_at_every_scale() -> None:
    torch.manual_seed(2)
    model = VideoTransformer(DIT).requires_grad_(False)
    model.start_clean_embeddings()
    layout = model.layout
    flat = torch.ones(1, 16, layout.history, HEIGHT, WIDTH) * 0.3
    y = torch.ones(1, 20, layout.total, HEIGHT, WIDTH)
    rows = model.embed_history(flat, y)[0]
    assert torch.allclose(rows, rows[:1].expand_as(rows), atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [{"dim": 50, "num_heads": 4}, {"model_type": "v2v"},
     {"use_correspondence": True, "buffer_pixelshuffle": False}],
)  # fmt: skip
def test_a_configuration_that_makes_no_network_is_refused(changes) -> None:
    base = {"dim": 48, "num_heads": 2, "num_layers": 1, "ffn_dim": 8}
    with pytest.raises(EngineFailed):
        DiTConfig.from_mapping(base | changes)


@pytest.mark.parametrize("text", ["", "f1k1", "f1k1_g0", "f0k1_g2", "f1x1_g2", "f1k1g2"])
def test_a_text_that_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(EngineFailed, match="FramePack"):
        FramePack.parse(text)


def test_sizes_that_do_not_divide_are_refused(model, given) -> None:
    odd = {k: v[..., :-1] if v.ndim == 5 else v for k, v in given.items()}
    with pytest.raises(EngineFailed, match="multiples of 16"):
        prepare(model, odd)
    short = dict(given, text=given["text"][:, :100])
    with pytest.raises(EngineFailed, match="512"):
        prepare(model, short)
    with pytest.raises(EngineFailed, match="image tokens"):
        prepare(model, dict(given, clip=None))


def test_recomputing_blocks_gives_the_same_gradients(given) -> None:
    grads = []
    for checkpointing in (False, True):
        model = VideoTransformer(DIT).load(random_tensors(expected_shapes(DIT), 7))
        model.checkpointing = checkpointing
        v = model.velocity(given["x"], torch.tensor([[500]]), prepare(model, given))
        v.square().mean().backward()
        grads.append(model.blocks[0].self_attn.q.weight.grad.clone())
    assert torch.allclose(*grads)
