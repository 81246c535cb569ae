"""The CLIP vision tower: sizes, names both ways, which block is read, errors."""

import pytest
import torch

from worldloom.generator.video.lyra.clip import ClipVision, preprocess
from worldloom.generator.video.lyra.clip_keys import CLIPConfig, published_shapes
from worldloom.generator.video.lyra.key_table import parameters
from worldloom.scene.errors import EngineFailed

torch.set_num_threads(2)
TINY = {"image_size": 28, "patch": 14, "dim": 16, "heads": 2, "layers": 3, "ratio": 2}


def tensors(seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = published_shapes(CLIPConfig.parse(TINY))
    return {n: torch.randn(s, generator=draw) * 0.3 for n, s in shapes.items()}


def test_the_released_tower_has_the_published_size():
    shapes = published_shapes(CLIPConfig())
    assert parameters(shapes) == 630_766_080
    assert shapes["pos_embedding"] == (1, 257, 1280)
    assert shapes["transformer.31.attn.to_qkv.weight"] == (3840, 1280)
    assert shapes["transformer.0.mlp.0.weight"] == (5120, 1280)


def test_names_go_to_the_library_and_back():
    weights = tensors()
    back = ClipVision.load(TINY, weights).published()
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_the_whole_published_file_may_be_given():
    published = {f"visual.{n}": t for n, t in tensors().items()}
    published |= {
        "visual.head": torch.zeros(16, 8), "textual.norm.weight": torch.zeros(4),
        "log_scale": torch.zeros(()),
    }  # fmt: skip
    image = torch.rand(1, 3, 20, 33) * 2 - 1
    assert torch.equal(ClipVision.load(TINY, published)(image),
                       ClipVision.load(TINY, tensors())(image))  # fmt: skip


def test_the_last_block_and_the_last_norm_change_nothing():
    weights = tensors()
    image = torch.rand(2, 3, 40, 24) * 2 - 1
    tokens = ClipVision.load(TINY, weights)(image)
    assert tokens.shape == (2, 5, 16)
    for name in weights:
        if name.startswith(("transformer.2.", "post_norm")):
            weights[name] = torch.full_like(weights[name], 7)
    assert torch.equal(ClipVision.load(TINY, weights)(image), tokens)


def test_pictures_are_brought_to_the_size_and_colours_of_the_tower():
    grey = preprocess(torch.zeros(1, 3, 50, 70), 28)
    assert grey.shape == (1, 3, 28, 28)
    mean, std = 0.48145466, 0.26862954
    torch.testing.assert_close(grey[:, 0], torch.full((1, 28, 28), (0.5 - mean) / std))


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 4, 8, 8), (1, 3, 0, 8)])
def test_other_than_pictures_are_refused(shape):
    with pytest.raises(EngineFailed, match="CLIP got a picture of shape"):
        preprocess(torch.zeros(shape), 28)


def test_weights_and_sizes_that_do_not_fit_are_named():
    weights = tensors()
    with pytest.raises(EngineFailed, match=r"missing: pre_norm\.bias"):
        ClipVision.load(TINY, {n: t for n, t in weights.items() if n != "pre_norm.bias"})
    with pytest.raises(EngineFailed, match=r"of another shape: pos_embedding \[1, 9, 16\]"):
        ClipVision.load(TINY, weights | {"pos_embedding": torch.zeros(1, 9, 16)})
    with pytest.raises(EngineFailed, match="multiple of the heads"):
        CLIPConfig.parse({**TINY, "heads": 3})
    with pytest.raises(EngineFailed, match="activation 'relu'"):
        CLIPConfig.parse({**TINY, "act": "relu"})
