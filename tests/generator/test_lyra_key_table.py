"""The table of the video network's tensors: as released, as built, as the catalogue says."""

import functools

import pytest
import torch

from worldloom.generator import weights
from worldloom.generator.video.lyra import clip_keys, convert, text_keys, vae_keys
from worldloom.generator.video.lyra.config import LYRA_14B, DiTConfig
from worldloom.generator.video.lyra.key_table import (
    RELEASED_PARAMETERS,
    RELEASED_TENSORS,
    expected_shapes,
    parameters,
)
from worldloom.generator.video.lyra.vae import published_shapes as vae_shapes

VIDEO = {
    "dim": 8, "num_heads": 2, "num_layers": 2, "ffn_dim": 12, "in_dim": 3, "out_dim": 2,
    "freq_dim": 4, "text_dim": 6, "clip_dim": 5, "framepack_type": "f1k1f1s2_g2",
    "use_plucker_condition": True, "use_correspondence": True, "buffer_in_dim": 2,
    "buffer_sincos_multires": 2, "buffer_mlp_squeeze_dim": 3,
}  # fmt: skip


def test_the_released_network_has_the_published_size():
    table = expected_shapes(LYRA_14B)
    assert (len(table), parameters(table)) == (RELEASED_TENSORS, RELEASED_PARAMETERS)
    assert table["clean_patch_embeddings.3.weight"] == (5120, 9216)
    assert table["clean_patch_embeddings.4.weight"] == (5120, 1152)
    assert table["blocks.0.buffer_encoder.0.weight"] == (256, 20480)
    assert table["time_projection.1.weight"] == (30720, 5120)
    assert (len(expected_shapes(convert.WAN_14B)), parameters(expected_shapes(convert.WAN_14B))) \
        == (1303, 16_394_878_784)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {}, {"model_type": "t2v"}, {"framepack_type": None}, {"use_plucker_condition": False},
        {"use_correspondence": False}, {"buffer_mlp_squeeze_dim": 0}, {"qk_norm": False},
        {"buffer_sincos_multires": 0}, {"cross_attn_norm": False},
        {"framepack_type": "f1k1f3s2f5k4f3k2f1k1_g3"},
    ],
)  # fmt: skip
def test_the_table_is_that_of_the_network(change):
    from worldloom.generator.video.lyra.dit import VideoTransformer
    from worldloom.generator.video.lyra.strict import shapes_of

    config = DiTConfig.from_mapping({**VIDEO, **change})
    assert shapes_of(VideoTransformer(config)) == expected_shapes(config)


def test_the_table_is_that_of_the_released_network(monkeypatch):
    from worldloom.generator.video.lyra.dit import VideoTransformer
    from worldloom.generator.video.lyra.strict import shapes_of

    # The network computes the widths of its embeddings with tensors, which must hold values.
    monkeypatch.setattr(torch, "tensor", functools.partial(torch.tensor, device="cpu"))
    with torch.device("meta"):
        network = VideoTransformer(LYRA_14B)
    assert shapes_of(network) == expected_shapes(LYRA_14B)


def test_sizes_in_the_catalogue_are_those_of_the_tensors():
    sizes = {
        "lyra2-video": 2 * RELEASED_PARAMETERS,
        "wan21-i2v-14b": 4 * parameters(expected_shapes(convert.WAN_14B)),
        "wan21-vae": 4 * parameters(vae_shapes(vae_keys.VAEConfig())),
        "umt5-xxl": 2 * parameters(text_keys.published_shapes(text_keys.TextConfig())),
        "clip-vit-h14": 4 * parameters(clip_keys.published_shapes(clip_keys.CLIPConfig())),
        "lyra2-negative-prompt": 2 * 512 * 4096,
    }
    for name, size in sizes.items():
        assert weights.lookup(name).bytes == size, name
