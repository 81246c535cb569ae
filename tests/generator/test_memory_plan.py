"""Memory plans: counts against the real networks, and refusals with numbers before loading."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pytest

from worldloom.generator.video.lyra import memory_parts
from worldloom.generator.video.lyra.config import LYRA_14B, LYRA_TINY
from worldloom.generator.video.lyra.memory_parts import (
    ENGINES,
    RELEASED,
    Chunk,
    dit_parameters,
    vae_state_values,
)
from worldloom.generator.video.lyra.memory_plan import (
    DEVICE,
    HOST,
    PRESETS,
    STAGES,
    choose_preset,
    plan_memory,
    table,
)
from worldloom.generator.video.lyra.vae_keys import VAEConfig
from worldloom.scene.errors import EngineFailed, InvalidRequest


def test_the_released_network_has_the_published_number_of_parameters() -> None:
    assert dit_parameters(LYRA_14B) == 17_029_871_424
    plain = replace(
        LYRA_14B, framepack_type=None, use_plucker_condition=False, use_correspondence=False
    )
    assert dit_parameters(plain) == 16_394_878_784


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"framepack_type": None, "use_correspondence": False},
        {"model_type": "t2v", "use_plucker_condition": False},
        {"buffer_mlp_squeeze_dim": 0, "qk_norm": False},
        {"buffer_sincos_multires": 0, "cross_attn_norm": False},
    ],
)
def test_parameters_are_those_of_the_network_that_is_built(changes: dict) -> None:
    from worldloom.generator.video.lyra.dit import VideoTransformer

    config = replace(LYRA_TINY, **changes)
    built = sum(p.numel() for p in VideoTransformer(config).parameters())
    assert dit_parameters(config) == built


def test_the_other_networks_have_the_parameters_of_their_files() -> None:
    from math import prod

    from worldloom.generator.video.lyra import clip_keys, text_keys, vae

    def count(shapes: dict[str, tuple[int, ...]]) -> int:
        return sum(prod(shape) for shape in shapes.values())

    assert count(vae.published_shapes(VAEConfig())) == RELEASED.vae_parameters
    assert count(clip_keys.published_shapes(clip_keys.CLIPConfig())) == RELEASED.clip_parameters
    assert count(text_keys.published_shapes(text_keys.TextConfig())) == RELEASED.text_parameters


def test_the_tiny_engine_is_counted_as_it_is_built() -> None:
    tiny = pytest.importorskip("worldloom.generator.video.lyra.tiny")
    networks, models = tiny.tiny_networks(), ENGINES["lyra2-tiny"]
    assert networks.dit.config == models.dit

    def count(network: object) -> int:
        return sum(p.numel() for p in network.parameters())

    assert count(networks.vae) == models.vae_parameters
    assert count(networks.clip) <= models.clip_parameters
    assert vars(networks.vae.config) == vars(models.vae)


@pytest.mark.parametrize(
    "config",
    [
        VAEConfig(dim=8),
        VAEConfig(dim=4, num_res_blocks=1),
        VAEConfig(dim=4, dim_mult=(1, 2, 4), temporal_downsample=(True, False)),
    ],
)
def test_the_state_of_the_vae_is_counted_exactly(config: VAEConfig) -> None:
    import torch

    from worldloom.generator.video.lyra.vae import VideoVAE, published_shapes

    tensors = {name: torch.zeros(shape) for name, shape in published_shapes(config).items()}
    vae = VideoVAE.load(vars(config), tensors)
    side = 4 * config.pixels_per_latent
    video = torch.zeros(1, 3, 1 + 2 * config.frames_per_latent, side, side)
    latents, encoder = vae.encode_stream(video, None)
    _, decoder = vae.decode_stream(latents, None)
    have = [
        sum(slot.numel() for slot in state if isinstance(slot, torch.Tensor)) / side**2
        for state in (encoder, decoder)
    ]
    assert have == pytest.approx(vae_state_values(config))


def test_sizes_of_a_chunk_are_those_of_the_specification() -> None:
    chunk = Chunk(RELEASED, (832, 480))
    assert (chunk.history_tokens, chunk.new_tokens, chunk.tokens) == (7046, 31200, 38246)
    assert Chunk(RELEASED, (768, 448)).tokens == 32928
    assert chunk.matches() == 783_278_080
    assert round(chunk.rays() / 1e6) == 117


def test_what_is_kept_for_the_steps_is_what_the_network_keeps() -> None:
    import torch

    from worldloom.generator.video.lyra.dit import VideoTransformer

    models = replace(RELEASED, dit=LYRA_TINY, prompts=1)
    chunk = Chunk(models, (64, 32))
    net = VideoTransformer(LYRA_TINY)
    history, total = net.layout.history, net.layout.total
    prepared = net.prepare(
        torch.zeros(1, 16, history, 4, 8), torch.zeros(1, 512, LYRA_TINY.text_dim),
        y=torch.zeros(1, 404, total, 4, 8), clip=torch.zeros(1, 257, LYRA_TINY.clip_dim),
        buffer=torch.zeros(1, 1280, total, 4, 8),
    )  # fmt: skip
    scene = prepared.scene

    def size(*tensors: torch.Tensor) -> int:
        """Bytes in bf16; the processor lacks some operations in it, so this runs in float32."""
        return sum(2 * t.numel() for t in tensors)

    assert size(*scene.injection.matches) == chunk.matches()
    assert size(scene.injection.camera) == chunk.rays()
    assert size(*(t for kv in prepared.text for t in (kv.k, kv.v))) == chunk.text_kv()
    assert size(*(t for kv in scene.image for t in (kv.k, kv.v))) == chunk.image_kv()
    assert size(scene.history, scene.known) + 2 * size(*scene.turn) == chunk.embedded()


def test_planning_needs_no_torch() -> None:
    code = (
        "import sys; from worldloom.generator.video.lyra.memory_plan import plan_memory; "
        "plan_memory('lyra2', 'offload-24'); sys.exit('torch' in sys.modules)"
    )
    path = ":".join(sys.path)
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": path}, check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("preset", PRESETS)
def test_each_preset_fits_the_card_it_is_made_for(engine: str, preset: str) -> None:
    plan = plan_memory(engine, preset)
    plan.check()
    assert plan.peak(DEVICE) == max(plan.gb(stage, DEVICE) for stage in STAGES)


def test_the_presets_trade_gpu_memory_for_host_memory() -> None:
    plans = [plan_memory("lyra2", name) for name in PRESETS]
    gpu, host = [p.peak(DEVICE) for p in plans], [p.peak(HOST) for p in plans]
    assert gpu == sorted(gpu, reverse=True)
    assert host[0] < host[1]


def test_a_picture_too_large_is_refused_with_numbers_and_a_way_out() -> None:
    with pytest.raises(EngineFailed) as refused:
        plan_memory("lyra2", "offload-24", (1920, 1088)).check()
    text = str(refused.value)
    assert "at 1920 x 1088 px needs" in text
    assert "there are 24.0 GB" in text
    assert "Use the preset offload-24 and at most" in text
    width, height = re.search(r"at most (\d+) x (\d+) px", text).groups()
    plan_memory("lyra2", "offload-24", (int(width), int(height))).check()
    assert int(height) < 1088


def test_too_little_memory_names_the_preset_that_fits() -> None:
    plan = plan_memory("lyra2", "resident-80")
    with pytest.raises(EngineFailed, match=r"Use the preset offload-24$"):
        plan.check(gpu_gb=24)
    with pytest.raises(EngineFailed, match="of host memory in stage text"):
        plan_memory("lyra2", "offload-24").check(host_gb=32)
    with pytest.raises(EngineFailed, match="No preset and size fits"):
        plan.check(gpu_gb=1)


@pytest.mark.parametrize(
    ("gpu", "name"), [(80, "resident-80"), (48, "offload-48"), (24, "offload-24")]
)
def test_the_fastest_preset_that_fits_is_chosen(gpu: float, name: str) -> None:
    assert choose_preset("lyra2", (832, 480), gpu).preset.name == name


def test_no_preset_fits_a_small_card() -> None:
    with pytest.raises(EngineFailed, match=r"there are 8\.0 GB"):
        choose_preset("lyra2", (832, 480), 8)


def test_unknown_names_and_sizes_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="unknown memory preset 'all'"):
        plan_memory("lyra2", "all")
    with pytest.raises(InvalidRequest, match="'preview' has no memory plan"):
        plan_memory("preview", "offload-24")
    with pytest.raises(InvalidRequest, match="both must be multiples of 16"):
        plan_memory("lyra2", "offload-24", (833, 480))


def test_the_table_adds_up() -> None:
    plan = plan_memory("lyra2-dmd", "resident-80")
    header, rows = table(plan)
    for place in (DEVICE, HOST):
        mine = [row for row in rows if row[1] == place]
        for column in range(2, len(header)):
            parts = sum(float(row[column] or 0) for row in mine[:-1])
            assert parts == pytest.approx(float(mine[-1][column]), abs=0.1)


def test_the_tiny_engine_is_tiny() -> None:
    assert memory_parts.dit_parameters(LYRA_TINY) < 5e6
    assert plan_memory("lyra2-tiny", "offload-24", (192, 112)).peak(DEVICE) < 2
