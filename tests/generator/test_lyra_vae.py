"""The video VAE: streams equal wholes, states survive disk, names go both ways, errors name it."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from worldloom.generator.video.lyra.key_table import parameters
from worldloom.generator.video.lyra.vae import (
    FrameStatistics,
    VideoVAE,
    published_shapes,
    state_from_tensors,
    state_to_tensors,
)
from worldloom.generator.video.lyra.vae_keys import VAEConfig, library_name
from worldloom.scene.errors import EngineFailed

torch.set_num_threads(2)
TINY = {
    "dim": 4, "z_dim": 3, "dim_mult": [1, 2, 2], "num_res_blocks": 1,
    "temporal_downsample": [True, True], "channel_mean": [0.1, -0.2, 0.3],
    "channel_std": [1.5, 2.0, 0.5],
}  # fmt: skip


def tensors(config, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = published_shapes(VAEConfig.parse(config))
    return {n: torch.randn(s, generator=draw) * 0.2 for n, s in shapes.items()}


@pytest.fixture(scope="module")
def vae():
    return VideoVAE.load(TINY, tensors(TINY))


@pytest.fixture(scope="module")
def video():
    return torch.rand(1, 3, 17, 8, 12, generator=torch.Generator().manual_seed(1)) * 2 - 1


def close(a, b):
    torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_the_released_network_has_the_published_size():
    shapes = published_shapes(VAEConfig())
    assert (len(shapes), parameters(shapes)) == (194, 126_892_531)
    assert shapes["encoder.conv1.weight"] == (96, 3, 3, 3, 3)
    assert shapes["decoder.upsamples.7.time_conv.weight"] == (768, 384, 3, 1, 1)
    assert shapes["decoder.upsamples.11.resample.1.weight"] == (96, 192, 3, 3)


@pytest.mark.parametrize(
    ("levels", "blocks", "down"),
    [([1, 2, 4, 4], 2, [False, True, True]), ([1, 2], 3, [True]), ([1, 1, 2], 1, [True, False])],
)
def test_names_go_to_the_library_and_back(levels, blocks, down):
    config = {
        **TINY, "dim_mult": levels, "num_res_blocks": blocks, "temporal_downsample": down,
    }  # fmt: skip
    weights = tensors(config)
    back = VideoVAE.load(config, weights).published()
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_an_unknown_name_stays_as_it_is():
    assert library_name("something.else", VAEConfig()) == "something.else"


@pytest.mark.parametrize("group", [1, 2, 100])
def test_groups_of_any_size_give_the_same(vae, video, group):
    latents = vae.encode(video)
    assert latents.shape == (1, 3, 5, 2, 3)
    close(vae.encode(video, group=group), latents)
    frames = vae.decode(latents)
    assert frames.shape == video.shape
    close(vae.decode(latents, group=group), frames)


def test_a_stream_equals_the_whole_and_leaves_states_alone(vae, video):
    whole = vae.encode(video)
    first, state = vae.encode_stream(video[:, :, :5], None)
    kept = [slot.clone() if isinstance(slot, torch.Tensor) else slot for slot in state]
    once, _ = vae.encode_stream(video[:, :, 5:], state)
    twice, _ = vae.encode_stream(video[:, :, 5:], state, group=2)
    close(torch.cat([first, once], 2), whole)
    close(once, twice)
    for before, after in zip(kept, state, strict=True):
        same = torch.equal(before, after) if isinstance(before, torch.Tensor) else before == after
        assert same
    start, state = vae.decode_stream(whole[:, :, :1], None)
    rest, _ = vae.decode_stream(whole[:, :, 1:], state)
    close(torch.cat([start, rest], 2), vae.decode(whole))


@pytest.mark.parametrize("frames", [1, 5])
def test_a_state_survives_the_disk(vae, video, frames, tmp_path):
    latents, state = vae.encode_stream(video[:, :, :frames], None)
    _, shown = vae.decode_stream(latents, None)
    for name, value in (("encoder", state), ("decoder", shown)):
        save_file(state_to_tensors(value), tmp_path / name)
    restored = state_from_tensors(load_file(tmp_path / "encoder"))
    later = video[:, :, frames : frames + 4]
    expected, _ = vae.encode_stream(later, state)
    have, _ = vae.encode_stream(later, restored)
    assert torch.equal(have, expected)
    restored = state_from_tensors(load_file(tmp_path / "decoder"))
    assert torch.equal(
        vae.decode_stream(expected, restored)[0], vae.decode_stream(expected, shown)[0]
    )
    with pytest.raises(EngineFailed, match="saved VAE state"):
        state_from_tensors({"kinds": torch.tensor([1], dtype=torch.uint8)})


def test_latents_are_means_normalised_as_released():
    config = {k: v for k, v in TINY.items() if not k.startswith("channel")} | {"z_dim": 16}
    vae = VideoVAE.load(config, tensors(config)).to(torch.bfloat16)
    mean, scale = vae._normal()
    assert scale.dtype == mean.dtype == torch.bfloat16
    assert float(scale[0, 0]) == 0.35546875  # Spec 7: the reciprocal is rounded as well.
    assert vae.encode(torch.zeros(1, 3, 5, 8, 8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_frame_statistics_are_applied_and_undone(vae, video):
    vae.statistics = FrameStatistics(*(torch.full((1, 3, n, 1, 1), v) for n, v in
                                       ((1, 0.5), (1, 2.0), (4, 0.25), (4, 3.0))))  # fmt: skip
    try:
        clip, image = vae.encode(video[:, :, :9]), vae.encode(video[:, :, :1])
        with pytest.raises(EngineFailed, match="cover 4"):
            vae.encode(video)
        shown = vae.decode(clip)
    finally:
        vae.statistics = None
    close(clip, (vae.encode(video[:, :, :9]) - 0.25) / 3)
    close(image, (vae.encode(video[:, :, :1]) - 0.5) / 2)
    close(shown, vae.decode(vae.encode(video[:, :, :9])))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((1, 3, 4, 8, 8), "1 [+] a multiple of 4"),
        ((1, 2, 5, 8, 8), "1, 2, 5"),
        ((1, 3, 5, 8), "give .batch, 3"),
        ((1, 3, 0, 8, 8), "time >= 1"),
        ((1, 3, 1, 2, 8), "too small"),
    ],
)
def test_frames_that_cannot_be_encoded_are_refused(vae, shape, words):
    with pytest.raises(EngineFailed, match=words):
        vae.encode(torch.zeros(shape))


def test_states_and_groups_that_do_not_fit_are_refused(vae, video):
    latents, state = vae.encode_stream(video[:, :, :5], None)
    with pytest.raises(EngineFailed, match="give a multiple of 4"):
        vae.encode_stream(video[:, :, :5], state)
    with pytest.raises(EngineFailed, match="slots"):
        vae.decode_stream(latents, state)
    with pytest.raises(EngineFailed, match="the least is 1"):
        vae.encode(video, group=0)


def test_weights_that_do_not_fit_are_named():
    weights = tensors(TINY)
    with pytest.raises(EngineFailed, match=r"1 missing: conv1\.bias"):
        VideoVAE.load(TINY, {n: t for n, t in weights.items() if n != "conv1.bias"})
    with pytest.raises(EngineFailed, match=r"1 unknown: encoder\.other"):
        VideoVAE.load(TINY, weights | {"encoder.other": torch.zeros(1)})
    with pytest.raises(EngineFailed, match=r"conv2\.bias \[5\] instead of \[3\]"):
        VideoVAE.load(TINY, weights | {"conv2.bias": torch.zeros(5)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temporal_downsample": [True]}, "one fewer than levels"),
        ({"channel_mean": [0.0]}, "one of each per channel"),
        ({"attn_scales": [0.5]}, "attn_scales"),
    ],
)
def test_sizes_that_make_no_network_are_refused(change, words):
    with pytest.raises(EngineFailed, match=words):
        VAEConfig.parse({**TINY, **change})
