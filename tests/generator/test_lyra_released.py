"""Published forms of the weights, in small, become networks that make a chunk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from worldloom.generator import weights
from worldloom.generator.keep import drop_kept
from worldloom.generator.memory.cache import FrameCache
from worldloom.generator.seed import make_seed
from worldloom.generator.truth.photos import ten_photos
from worldloom.generator.video.lyra import released, tiny
from worldloom.generator.video.lyra.clip_keys import CLIPConfig
from worldloom.generator.video.lyra.clip_keys import published_shapes as clip_shapes
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.loop import LyraOptions
from worldloom.generator.video.lyra.model import LyraModel, PromptBook
from worldloom.generator.video.lyra.text_keys import TextConfig
from worldloom.generator.video.lyra.text_keys import published_shapes as text_shapes
from worldloom.generator.video.lyra.vae import published_shapes as vae_shapes
from worldloom.generator.video.lyra.vae_keys import VAEConfig
from worldloom.scene.errors import CorruptData, EngineFailed, NotFound
from worldloom.scene.path_presets import preset

SIZES = released.Sizes(tiny.DIT, tiny.VAE, tiny.CLIP, tiny.TEXT)
CPU = torch.device("cpu")


def dit_config() -> dict:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(tiny.DIT).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A weights folder as `worldloom weights convert` makes it, from small published files."""
    source, target = tmp_path_factory.mktemp("published"), tmp_path_factory.mktemp("weights")
    rand = tiny.random_tensors
    video = {f"net.{k}": v for k, v in rand(expected_shapes(tiny.DIT), 1).items()}
    save_file(video, source / "video.safetensors")
    torch.save(rand(vae_shapes(VAEConfig.parse(tiny.VAE)), 2), source / "vae.pth")
    clip = rand(clip_shapes(CLIPConfig.parse(tiny.CLIP)), 3)
    clip = {f"visual.{k.removeprefix('visual.')}": v for k, v in clip.items()}
    torch.save(clip | {"log_scale": torch.zeros(())}, source / "clip.pth")
    torch.save(rand(text_shapes(TextConfig.parse(tiny.TEXT)), 4), source / "text.pth")
    rows = torch.randn(7, 32, generator=torch.Generator().manual_seed(5))
    torch.save({"t5_text_embeddings": rows[None]}, source / "negative.pt")
    dim = tiny.DIT.dim
    lora = {
        "blocks.0.self_attn.q.lora_A.weight": torch.randn(2, dim),
        "blocks.0.self_attn.q.lora_B.weight": torch.randn(dim, 2),
    }
    save_file(lora, source / "lora.safetensors")
    for name, file, config in (
        ("lyra2-video", "video.safetensors", dit_config()),
        ("wan21-vae", "vae.pth", tiny.VAE),
        ("clip-vit-h14", "clip.pth", tiny.CLIP),
        ("umt5-xxl", "text.pth", tiny.TEXT),
        ("lyra2-negative-prompt", "negative.pt", tiny.TEXT),
        ("lyra2-distilled", "lora.safetensors", dit_config()),
    ):
        weights.convert(name, source / file, target, config=json.loads(json.dumps(dict(config))))
    (target / released.TOKENIZER_FOLDER).mkdir()
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "garage": 3}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
    (target / released.TOKENIZER_FOLDER / "tokenizer.json").write_text(json.dumps(tokenizer))
    return target


def parts(folder: Path, **changes) -> released.ReleasedParts:
    given = {"adapters": {}, "guided": True, "folder": folder, "device": CPU, "sizes": SIZES}
    return released.open_released("lyra2", (96, 48), ["a garage"], **(given | changes))


def state(networks) -> dict:
    """Everything in the networks that a job could change: tensors and plain attributes."""
    found = {}
    for which in ("dit", "vae", "clip"):
        for name, module in getattr(networks, which).named_modules():
            plain = {k: repr(v) for k, v in vars(module).items() if not k.startswith("_")}
            tensors = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            found[which, name] = plain, [(t.shape, t.double().sum().item()) for t in tensors]
    return found


def test_converted_weights_make_a_chunk_of_finite_frames(folder, tmp_path) -> None:
    rgb = (np.clip(ten_photos()[4].rgb, 0, 1) * 255).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "photo.png")
    seed = make_seed(tmp_path / "photo.png", work_size=(96, 48))
    made = parts(folder)
    assert made.networks.dit.dtype == torch.bfloat16
    book = PromptBook({0: "a garage"}, made.embed, made.negative)
    model = LyraModel(seed, made.networks, LyraOptions(steps=1, vae_group=24), book)
    path = preset("dolly", distance=0.5, frames=81)
    cameras = path.resolve(seed.c2w, seed.K, (96, 48)).select(slice(1, 81))
    cache, seen = FrameCache(), []
    frame = model.first()
    cache.add(0, frame.rgb, frame.depth, frame.origin, frame.c2w, frame.K)
    before = state(made.networks)
    keyframes = model.chunk(cameras, cache, on_frame=seen.append)
    # The next job of this process gets the same networks: a job may not change them.
    assert state(made.networks) == before
    assert len(seen) == 80
    assert [k.frame_id for k in keyframes] == list(range(8, 81, 8))
    assert all(np.isfinite(f.rgb).all() for f in seen)


def test_the_manifest_learns_of_every_weight_and_its_terms(folder) -> None:
    records = {record["name"]: record for record in parts(folder).records}
    assert set(records) == {
        "lyra2-video", "wan21-vae", "clip-vit-h14", "umt5-xxl", "lyra2-negative-prompt"
    }  # fmt: skip
    assert records["lyra2-video"]["research_only"]
    assert not records["wan21-vae"]["research_only"]
    assert all(len(record["sha256"]) == 64 for record in records.values())


def test_prompts_are_embedded_once_and_kept_on_disk(folder, monkeypatch) -> None:
    first = parts(folder).embed("a garage")
    assert first.shape == (1, 512, 32)

    def refuse(*_: object) -> None:
        raise AssertionError("the text encoder was loaded for a known prompt")

    monkeypatch.setattr(released.TextEncoder, "load", refuse)
    assert torch.equal(parts(folder).embed("a  garage "), first)


def test_an_adapter_changes_the_layers_it_names_alone(folder) -> None:
    plain = parts(folder).networks.dit.state_dict()
    merged = parts(folder, adapters={"lyra2-distilled": 1.0}, guided=False).networks.dit
    changed = [k for k, v in merged.state_dict().items() if not torch.equal(v, plain[k])]
    assert changed == ["blocks.0.self_attn.q.weight"]


def test_missing_weights_are_all_named(folder, tmp_path) -> None:
    some = tmp_path / "some"
    some.mkdir()
    for name in ("wan21_vae", "clip_vit_h14", "lyra2_negative_prompt"):
        (some / f"{name}.safetensors").symlink_to(folder / f"{name}.safetensors")
    with pytest.raises(NotFound, match=r"2 of 5 weights.*lyra2-video.*umt5-xxl"):
        parts(some)


def test_weights_that_changed_since_their_conversion_are_not_loaded(folder, tmp_path) -> None:
    import shutil

    shutil.copytree(folder, tmp_path / "w")
    file = tmp_path / "w" / "wan21_vae.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(CorruptData, match=r"wan21[_-]vae"):
        parts(tmp_path / "w")


def test_weights_of_another_network_are_refused_by_name(folder) -> None:
    from dataclasses import replace

    other = replace(SIZES, dit=replace(tiny.DIT, ffn_dim=100))
    with pytest.raises(EngineFailed, match=r"ffn\.0"):
        parts(folder, sizes=other)


def test_the_next_job_of_a_process_finds_its_networks_loaded(folder, monkeypatch) -> None:
    drop_kept()
    first = parts(folder)
    monkeypatch.setattr(released, "load_strict", lambda *_: pytest.fail("loaded again"))
    assert parts(folder).networks is first.networks
    file = weights.find_weights("wan21-vae", folder)
    os.utime(file, ns=(1, 1))  # It may have another content now.
    with pytest.raises(pytest.fail.Exception, match="loaded again"):
        parts(folder)
