"""Adapters: every way of naming, strengths, noise that is left out, errors that name the key."""

import pytest
import torch

from worldloom.generator.video.lyra.config import LYRA_14B
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.lora import (
    adapter_tensors,
    check_fit,
    layer_names,
    merge,
    parse_adapter,
)
from worldloom.scene.errors import EngineFailed

LAYERS = ("blocks.0.self_attn.q", "blocks.0.cross_attn.k_img", "time_projection.1")
DRAW = torch.Generator().manual_seed(3)
DOWN, UP = torch.randn(2, 5, generator=DRAW), torch.randn(4, 2, generator=DRAW)


def weights():
    out = {f"{layer}.weight": torch.ones(4, 5) for layer in LAYERS}
    return out | {f"{layer}.bias": torch.zeros(4) for layer in LAYERS} | {"other": torch.zeros(1)}


def pair(layer, style="plain", alpha=None):
    stem = {
        "plain": layer, "net": f"net.{layer}", "diffusion": f"diffusion_model.{layer}",
        "both": f"diffusion_model.net.{layer}", "kohya": "lora_unet_" + layer.replace(".", "_"),
    }[style]  # fmt: skip
    names = ("lora_down", "lora_up") if style == "kohya" else ("lora_A", "lora_B")
    out = {f"{stem}.{names[0]}.weight": DOWN, f"{stem}.{names[1]}.weight": UP}
    return out if alpha is None else out | {f"{stem}.alpha": torch.tensor(float(alpha))}


def parse(tensors):
    return parse_adapter(tensors, LAYERS, "test")


@pytest.mark.parametrize("style", ["plain", "net", "diffusion", "both", "kohya"])
@pytest.mark.parametrize("layer", LAYERS)
def test_every_way_of_naming_reaches_its_layer(style, layer):
    merged = merge(weights(), [(parse(pair(layer, style, alpha=1)), 0.5)])
    torch.testing.assert_close(merged[f"{layer}.weight"], 1 + 0.5 * 0.5 * UP @ DOWN)
    changed = [name for name, tensor in merged.items() if not torch.equal(tensor, weights()[name])]
    assert changed == [f"{layer}.weight"]


def test_alpha_is_the_rank_where_it_is_not_stored():
    merged = merge(weights(), [(parse(pair(LAYERS[0])), 1.0)])
    torch.testing.assert_close(merged[f"{LAYERS[0]}.weight"], 1 + UP @ DOWN)


def test_several_adapters_add_up_and_the_weights_stay():
    base = weights()
    first, second = parse(pair(LAYERS[0])), parse(pair(LAYERS[0], alpha=4))
    merged = merge(base, [(first, 0.4), (second, -1.0)])
    torch.testing.assert_close(merged[f"{LAYERS[0]}.weight"], 1 + (0.4 - 2) * UP @ DOWN)
    assert torch.equal(base[f"{LAYERS[0]}.weight"], torch.ones(4, 5))
    assert merged["other"] is base["other"]


def test_sums_are_rounded_once_to_the_type_of_the_weights():
    base = {name: tensor.bfloat16() for name, tensor in weights().items()}
    merged = merge(base, [(parse(pair(LAYERS[0])), 1.0)])[f"{LAYERS[0]}.weight"]
    assert torch.equal(merged, (1 + UP @ DOWN).bfloat16())


def test_changes_of_biases_count_unless_they_are_noise():
    layer = LAYERS[0]
    strong = torch.tensor([0.5, 0.0, -0.1, 0.2])
    merged = merge(weights(), [(parse(pair(layer) | {f"{layer}.diff_b": strong}), 0.5)])
    torch.testing.assert_close(merged[f"{layer}.bias"], 0.5 * strong)
    for noise in (torch.zeros(4), torch.full((4,), 0.7), torch.tensor([0.01, 0.0, 0.0, 0.0])):
        adapter = parse(pair(layer) | {f"{layer}.diff_b": noise})
        assert not adapter.biases


def test_whole_differences_are_left_out_wherever_they_are():
    extra = {f"{LAYERS[0]}.diff": torch.randn(4, 5), "blocks.0.norm3.diff": torch.randn(4)}
    adapter = parse(pair(LAYERS[0]) | extra)
    assert set(adapter.layers) == {LAYERS[0]}
    assert not adapter.biases


@pytest.mark.parametrize(
    "key",
    [
        "blocks.7.self_attn.q.lora_A.weight",
        "lora_unet_blocks_0_self_attn_z.lora_up.weight",
        f"{LAYERS[0]}.lora_C.weight",
        "nothing",
    ],
)
def test_keys_that_nothing_is_known_about_are_named(key):
    with pytest.raises(EngineFailed, match=key.replace(".", r"\.")):
        parse(pair(LAYERS[0]) | {key: torch.randn(2, 5)})


def test_half_pairs_and_unequal_ranks_are_named():
    half = pair(LAYERS[0])
    half.pop(f"{LAYERS[0]}.lora_B.weight")
    with pytest.raises(EngineFailed, match=r"lacks the up .* of blocks\.0\.self_attn\.q"):
        parse(half)
    with pytest.raises(EngineFailed, match="ranks 2 and 3"):
        parse(pair(LAYERS[0]) | {f"{LAYERS[0]}.lora_B.weight": torch.ones(4, 3)})


def test_changes_that_do_not_fit_the_network_are_refused():
    small = {f"{LAYERS[0]}.weight": torch.ones(4, 4)}
    with pytest.raises(EngineFailed, match=r"has shape \[4, 5\], the network's is \[4, 4\]"):
        merge(small, [(parse(pair(LAYERS[0])), 1.0)])
    bias = parse({f"{LAYERS[0]}.diff_b": torch.tensor([1.0, 0, 0, 0])})
    with pytest.raises(EngineFailed, match="the network does not have"):
        merge(small, [(bias, 1.0)])
    with pytest.raises(EngineFailed, match="made for another network"):
        check_fit(parse(pair(LAYERS[0])), {f"{LAYERS[0]}.weight": (4, 4)}, "test")


def test_an_adapter_survives_being_written_under_our_names():
    layer = LAYERS[1]
    bias = torch.tensor([0.5, 0.0, -0.1, 0.2])
    first = parse(pair(layer, "kohya", alpha=1.5) | {f"net.{layer}.diff_b": bias})
    again = parse(adapter_tensors(first))
    assert torch.equal(again.layers[layer].delta(), first.layers[layer].delta())
    assert torch.equal(again.biases[layer], bias)


def test_an_adapter_of_a_patch_convolution_is_flattened():
    layer = "patch_embedding"
    tensors = {f"{layer}.lora_A.weight": torch.randn(2, 3, 1, 2, 2),
               f"{layer}.lora_B.weight": torch.randn(4, 2, 1, 1, 1)}  # fmt: skip
    adapter = parse_adapter(tensors, [layer], "test")
    assert adapter.layers[layer].delta().shape == (4, 12)


def test_the_released_network_can_be_adapted_where_the_release_says():
    layers = layer_names(expected_shapes(LYRA_14B))
    assert len(layers) == 40 * (4 + 6 + 2 + 1 + 2) + 1 + 1 + 2 + 2 + 1 + 6 + 2
    assert "blocks.39.buffer_encoder.1" in layers
    assert "img_emb.proj.0" not in layers
