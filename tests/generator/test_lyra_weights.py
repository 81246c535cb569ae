"""Networks' weights: every published form becomes one strict file; pickles stay in the child."""

import json
import pickle
import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from worldloom.cli.main import main
from worldloom.generator import weights, weights_network
from worldloom.generator.video.lyra import clip_keys, text_keys, vae_keys
from worldloom.generator.video.lyra.config import DiTConfig
from worldloom.generator.video.lyra.convert import convert_checkpoint
from worldloom.generator.video.lyra.key_table import expected_shapes
from worldloom.generator.video.lyra.safefile import write_safetensors
from worldloom.generator.video.lyra.sources import open_source
from worldloom.generator.video.lyra.strict import load_strict
from worldloom.generator.video.lyra.vae import published_shapes as vae_shapes
from worldloom.scene.errors import (
    CorruptData,
    EngineFailed,
    InvalidRequest,
    NotFound,
    StorageFull,
)

torch.set_num_threads(2)
VIDEO = {
    "dim": 8, "num_heads": 2, "num_layers": 2, "ffn_dim": 12, "in_dim": 3, "out_dim": 2,
    "freq_dim": 4, "text_dim": 6, "clip_dim": 5, "framepack_type": "f1k1f1s2_g2",
    "use_plucker_condition": True, "use_correspondence": True, "buffer_in_dim": 2,
    "buffer_sincos_multires": 2, "buffer_mlp_squeeze_dim": 3,
}  # fmt: skip
VAE = {"dim": 4, "z_dim": 2, "dim_mult": [1, 2], "num_res_blocks": 1,
       "temporal_downsample": [True], "channel_mean": [0.0, 0.0],
       "channel_std": [1.0, 1.0]}  # fmt: skip
CLIP = {"image_size": 14, "dim": 8, "heads": 2, "layers": 2}
TEXT = {"vocab": 9, "dim": 8, "dim_attn": 8, "dim_ffn": 8, "num_heads": 2, "num_layers": 1,
        "text_len": 4}  # fmt: skip


def random(shapes, dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=draw).to(dtype) for name, shape in shapes.items()}


def video(config=VIDEO):
    return random(expected_shapes(DiTConfig.from_mapping(config)), torch.bfloat16)


def same(file, tensors):
    have = load_file(file)
    assert set(have) == set(tensors)
    assert all(torch.equal(have[name], tensors[name]) for name in tensors)


@pytest.fixture
def distributed(tmp_path):
    """A folder of distributed checkpoints as it is published, wrappers and counters included."""
    import torch.distributed.checkpoint as dcp

    tensors = video()
    stored = {f"net.{name}": tensor for name, tensor in tensors.items()}
    first = "net.blocks.0.self_attn.q.weight"
    stored[first.replace("blocks.0.", "blocks.0._checkpoint_wrapped_module.")] = stored.pop(first)
    stored["net.accum_video_sample_counter"] = torch.tensor(3)
    stored["net.accum_train_in_hours"] = torch.tensor(0.5)
    stored["net.blocks.0.self_attn.norm_q._extra_state"] = torch.zeros(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(stored, checkpoint_id=tmp_path / "published" / "model", no_dist=True)
    return tmp_path / "published", tensors


# ---- every published form ----------------------------------------------------------------------


def test_a_distributed_checkpoint_loses_prefixes_wrappers_and_counters(distributed, tmp_path):
    folder, tensors = distributed
    for source in (folder, folder / "model"):
        made = convert_checkpoint("video", source, tmp_path / "out.safetensors", VIDEO)
        same(tmp_path / "out.safetensors", tensors)
        assert made.tensors == len(tensors)
        assert made.parameters == sum(t.numel() for t in tensors.values())


def test_pieces_of_a_sharded_tensor_are_put_together(tmp_path):
    """What two processes save: each half of the rows in a file of its own."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo
    from torch.distributed.checkpoint.metadata import (
        ChunkStorageMetadata,
        Metadata,
        MetadataIndex,
        TensorProperties,
        TensorStorageMetadata,
    )

    whole = torch.arange(12.0).reshape(4, 3)
    chunks, places = [], {}
    for rank in range(2):
        file = tmp_path / f"__{rank}_0.distcp"
        torch.save(whole[2 * rank : 2 * rank + 2].clone(), file)
        offset = torch.Size([2 * rank, 0])
        chunks.append(ChunkStorageMetadata(offset, torch.Size([2, 3])))
        places[MetadataIndex("w", offset, rank)] = _StorageInfo(file.name, 0, file.stat().st_size)
    entry = TensorStorageMetadata(TensorProperties(torch.float32), torch.Size([4, 3]), chunks)
    index = Metadata(state_dict_metadata={"w": entry}, storage_data=places)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    assert torch.equal(open_source(tmp_path).read("w"), whole)
    entry.chunks.pop()
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CorruptData, match="6 of the 12 numbers of w"):
        open_source(tmp_path).read("w")
    place = places[MetadataIndex("w", torch.Size([0, 0]), 0)]
    place.relative_path = "../elsewhere"
    (tmp_path / ".metadata").write_bytes(pickle.dumps(index))
    with pytest.raises(CorruptData, match="which is not in"):
        open_source(tmp_path).read("w")


def test_shards_of_wan_are_joined_flattened_and_rounded(tmp_path):
    config = {k: v for k, v in VIDEO.items() if not k.startswith(("use_", "buffer", "framepack"))}
    tensors = {name: tensor.float() for name, tensor in video(config).items()}
    stored = dict(tensors)
    flat = stored["patch_embedding.weight"]
    stored["patch_embedding.weight"] = flat.reshape(8, 3, 1, 2, 2)
    names = sorted(stored)
    (tmp_path / "shards").mkdir()
    for part in range(2):
        shard = {name: stored[name].contiguous() for name in names[part::2]}
        save_file(shard, tmp_path / "shards" / f"model-{part}.safetensors")
    convert_checkpoint("wan", tmp_path / "shards", tmp_path / "out.safetensors", config)
    same(tmp_path / "out.safetensors", {n: t.bfloat16() for n, t in tensors.items()})


def test_pytorch_files_of_vae_text_and_clip_become_safetensors(tmp_path):
    vae = random(vae_shapes(vae_keys.VAEConfig.parse(VAE)))
    text = random(text_keys.published_shapes(text_keys.TextConfig.parse(TEXT)), torch.bfloat16)
    clip = random(clip_keys.published_shapes(clip_keys.CLIPConfig.parse(CLIP)))
    published = {f"visual.{name}": tensor for name, tensor in clip.items()}
    published |= {"visual.head": torch.ones(8, 4), "textual.a": torch.ones(2),
                  "log_scale": torch.ones(())}  # fmt: skip
    for kind, config, stored, expected in (
        ("vae", VAE, vae, vae), ("text", TEXT, text, text), ("clip", CLIP, published, clip),
    ):  # fmt: skip
        torch.save(stored, tmp_path / f"{kind}.pth")
        convert_checkpoint(kind, tmp_path / f"{kind}.pth", tmp_path / "out.safetensors", config)
        same(tmp_path / "out.safetensors", expected)
    torch.save(vae, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert_checkpoint("vae", tmp_path / "old.pth", tmp_path / "out.safetensors", VAE)
    same(tmp_path / "out.safetensors", vae)


@pytest.mark.parametrize("lead", [(), (1,)])
def test_the_negative_prompt_becomes_one_embedding(tmp_path, lead):
    rows = torch.randn(4, 8).bfloat16()
    torch.save({"t5_text_embeddings": rows.reshape(*lead, 4, 8)}, tmp_path / "negative_prompt.pt")
    convert_checkpoint(
        "negative", tmp_path / "negative_prompt.pt", tmp_path / "out.safetensors", TEXT
    )
    same(tmp_path / "out.safetensors", {"embedding": rows})
    torch.save({"other": rows}, tmp_path / "other.pt")
    with pytest.raises(EngineFailed, match="missing: embedding"):
        convert_checkpoint("negative", tmp_path / "other.pt", tmp_path / "out", TEXT)


def test_adapters_take_the_names_of_the_network(tmp_path):
    stem = "lora_unet_blocks_1_ffn_0"
    stored = {
        f"{stem}.lora_down.weight": torch.randn(2, 8), f"{stem}.lora_up.weight": torch.randn(12, 2),
        f"{stem}.alpha": torch.tensor(1.0), f"{stem}.diff": torch.randn(12, 8),
    }  # fmt: skip
    save_file(stored, tmp_path / "adapter.safetensors")
    out = tmp_path / "out.safetensors"
    convert_checkpoint("lora", tmp_path / "adapter.safetensors", out, VIDEO)
    have = load_file(out)
    assert set(have) == {f"blocks.1.ffn.0.{n}" for n in ("lora_A.weight", "lora_B.weight", "alpha")}
    with pytest.raises(EngineFailed, match="made for another network"):
        convert_checkpoint("lora", tmp_path / "adapter.safetensors", out, {**VIDEO, "ffn_dim": 16})
    with pytest.raises(EngineFailed, match="fit no layer"):
        convert_checkpoint(
            "lora", tmp_path / "adapter.safetensors", out, {**VIDEO, "num_layers": 1}
        )


# ---- what must not pass ------------------------------------------------------------------------


def test_tensors_that_do_not_fit_are_named_before_anything_is_written(tmp_path):
    tensors = video()
    tensors.pop("blocks.1.cam_encoder.weight")
    tensors["blocks.0.extra"] = torch.zeros(1)
    tensors["head.head.bias"] = torch.zeros(3)
    save_file(tensors, tmp_path / "in.safetensors")
    words = (
        r"1 missing: blocks\.1\.cam_encoder\.weight; 1 unknown: blocks\.0\.extra; "
        r"1 of another shape: head\.head\.bias \[3\] instead of \[8\]"
    )
    with pytest.raises(EngineFailed, match=words):
        convert_checkpoint("video", tmp_path / "in.safetensors", tmp_path / "out", VIDEO)
    assert not (tmp_path / "out").exists()
    with pytest.raises(EngineFailed, match=words):
        load_strict(expected_shapes(DiTConfig.from_mapping(VIDEO)), tmp_path / "in.safetensors")


def test_programs_in_checkpoints_are_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "pwned"), "w"))

    (tmp_path / "vae.pth").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CorruptData, match="no checkpoint of tensors alone"):
        open_source(tmp_path / "vae.pth")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CorruptData, match=r"it names (io|builtins|_io)\.open"):
        open_source(tmp_path / "dcp")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CorruptData, match="holds a list"):
        open_source(tmp_path / "list.pth")
    assert not (tmp_path / "pwned").exists()


def test_sources_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(NotFound, match="there is no checkpoint"):
        open_source(tmp_path / "missing.pth")
    with pytest.raises(NotFound, match=r"distcp"):
        open_source(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptData, match="is no safetensors file"):
        open_source(tmp_path)
    with pytest.raises(CorruptData, match="is no safetensors file"):
        load_strict({}, tmp_path / "a.safetensors")
    with pytest.raises(NotFound, match="weights list"):
        load_strict({}, tmp_path / "b.safetensors")


def test_a_full_disk_is_noticed_beforehand(tmp_path, monkeypatch):
    import shutil

    save_file(video(), tmp_path / "in.safetensors")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(StorageFull, match="--dir"):
        convert_checkpoint("video", tmp_path / "in.safetensors", tmp_path / "out", VIDEO)


# ---- the file ---------------------------------------------------------------------------------


def test_streamed_files_are_read_by_the_public_library(tmp_path):
    tensors = {
        "a": torch.arange(3, dtype=torch.uint8), "b": torch.randn(2, 0), "c": torch.tensor(1.5),
        "d": torch.randn(2, 3).bfloat16(), "e": torch.arange(4), "f": torch.tensor([True, False]),
    }  # fmt: skip
    plan = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    file = tmp_path / "x.safetensors"
    digest = write_safetensors(file, plan, tensors.__getitem__, {"kind": "test"})
    same(file, tensors)
    assert digest == weights.sha256_of(file)
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "kind": "test"}
    with pytest.raises(ValueError, match="e has shape"):
        write_safetensors(file, plan, lambda _: torch.zeros(7), {})


def test_a_module_is_filled_from_a_file(tmp_path):
    tensors = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    save_file(tensors, tmp_path / "x.safetensors")
    with torch.device("meta"):
        layer = torch.nn.Linear(3, 2)
    load_strict(layer, tmp_path / "x.safetensors")
    assert torch.equal(layer.weight, tensors["weight"])
    save_file({"weight": torch.randn(2, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(EngineFailed, match="missing: bias"):
        load_strict(layer, tmp_path / "x.safetensors")


# ---- the command ------------------------------------------------------------------------------


def test_the_command_converts_in_a_child_and_verify_says_what_is_there(
    distributed, tmp_path, capsys
):
    folder, tensors = distributed
    (tmp_path / "sizes.json").write_text(json.dumps(VIDEO))
    home = tmp_path / "weights"
    options = ["--dir", str(home)]
    line = ["weights", "convert", "lyra2-video", str(folder), *options]
    assert main([*line, "--config", str(tmp_path / "sizes.json")]) == 0
    assert "RESEARCH ONLY" in capsys.readouterr().out
    same(home / "lyra2_video.safetensors", tensors)
    assert sorted(item.name for item in home.iterdir()) == [
        "lyra2_video.json", "lyra2_video.safetensors",
    ]  # fmt: skip
    assert main(["weights", "verify", "lyra2-video", *options]) == 0
    said = capsys.readouterr().out
    digest = weights.sha256_of(home / "lyra2_video.safetensors")
    count = sum(t.numel() for t in tensors.values())
    for words in (digest, f"{len(tensors)} tensors, {count:,} parameters in BF16",
                  "research only"):  # fmt: skip
        assert words in said
    assert main(["weights", "list", *options]) == 0
    assert "present" in capsys.readouterr().out
    file = home / "lyra2_video.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert main(["weights", "verify", "lyra2-video", *options]) == 5
    (home / "lyra2_video.json").unlink()
    with pytest.raises(CorruptData, match="convert them again"):
        weights.verify("lyra2-video", home)


def test_errors_of_the_child_keep_their_class_and_words(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "in.safetensors")
    with pytest.raises(EngineFailed, match="1 unknown: a"):
        weights.convert("wan21-vae", tmp_path / "in.safetensors", tmp_path / "w", config=VAE)
    with pytest.raises(NotFound, match="there is no"):
        weights.convert("wan21-vae", tmp_path / "missing", tmp_path / "w")
    with pytest.raises(InvalidRequest, match="weights convert lyra2-video SOURCE"):
        weights.get("lyra2-video", tmp_path / "w")
    with pytest.raises(NotFound, match="convert lyra2-video SOURCE"):
        weights.verify("lyra2-video", tmp_path / "w")
    assert list((tmp_path / "w").iterdir()) == []
    assert main(["weights", "convert", "wan21-vae", str(tmp_path), "--config", "missing"]) == 2
    (tmp_path / "x.safetensors").write_bytes(b"1234")
    with pytest.raises(CorruptData, match="no safetensors file"):
        weights_network.facts(tmp_path / "x.safetensors")


def test_pickles_are_not_opened_in_the_process_of_the_user():
    """The parent's modules may not even load what opens them."""
    import subprocess
    import sys

    code = (
        "import sys, worldloom.generator.weights, worldloom.cli.weights;"
        "sys.exit('worldloom.generator.video.lyra.sources' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
