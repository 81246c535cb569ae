"""Depth Anything 3: tensors of every variant against a frozen table, and strict loading."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
import torch

from worldloom.generator.depth.da3 import keys
from worldloom.generator.depth.da3.load import build, load, load_file, random_network
from worldloom.generator.depth.da3.variants import SMALL, VARIANTS, variant_of
from worldloom.generator.video.lyra.strict import shapes_of
from worldloom.scene.errors import CorruptData, EngineFailed, InvalidRequest, NotFound

FROZEN = json.loads((Path(__file__).parent / "da3_tensors.json").read_text("utf-8"))
"""Pattern of names (layer numbers as *) -> [number of tensors, shape], by variant."""

MEASURED = {
    "nested": (1383, 1_689_845_711), "giant": (977, 1_355_674_317), "large": (643, 410_941_959),
    "base": (443, 135_366_791), "small": (443, 34_299_655), "metric-large": (406, 334_171_394),
    "mono-large": (406, 334_171_394),
}  # fmt: skip


def folded(table):
    """Names with layer numbers as *, how many there are of each, and their common shape."""
    patterns = {name: re.sub(r"(blocks|trunk)\.\d+\.", r"\1.*.", name) for name in table}
    counts = Counter(patterns.values())
    return {patterns[n]: [counts[patterns[n]], list(shape)] for n, shape in table.items()}


@pytest.mark.parametrize("name", MEASURED)
def test_every_variant_has_the_frozen_tensors(name):
    table = keys.expected_shapes(variant_of(name))
    assert (len(table), keys.parameters(table)) == MEASURED[name]
    if name == "nested":
        parts = {"da3.": "giant", "da3_metric.": "metric-large"}
        frozen = {p + n: entry for p, part in parts.items() for n, entry in FROZEN[part].items()}
    else:
        frozen = FROZEN[{"mono-large": "metric-large"}.get(name, name)]
    assert folded(table) == frozen


@pytest.mark.parametrize("name", VARIANTS)
def test_the_table_is_that_of_the_modules(name):
    variant = variant_of(name)
    assert shapes_of(build(variant)) == keys.expected_shapes(variant)


def test_the_parts_of_the_giant_have_the_measured_sizes():
    table = keys.expected_shapes(variant_of("giant"))
    parts = Counter()
    for name, shape in table.items():
        parts[name.split(".")[0]] += torch.Size(shape).numel()
    millions = {part: round(count / 1e6, 1) for part, count in parts.items()}
    assert millions == {
        "backbone": 1136.5, "head": 50.1, "cam_enc": 114.5, "cam_dec": 18.9, "gs_head": 35.6
    }  # fmt: skip
    assert sum("gs_head" not in name for name in table) == 977 - sum("gs_head" in n for n in table)


def test_spot_checks_of_the_published_table():
    table = keys.expected_shapes(variant_of("nested"))
    main = "da3.backbone.pretrained.blocks."
    assert table[f"{main}0.mlp.w12.weight"] == (8192, 1536)
    assert table[f"{main}39.mlp.w3.weight"] == (1536, 4096)
    assert f"{main}12.attn.q_norm.weight" not in table
    assert table[f"{main}13.attn.q_norm.weight"] == (64,)
    assert table["da3.cam_dec.fc_qvec.weight"] == (4, 3072)
    assert table["da3.head.scratch.output_conv2_aux.3.5.weight"] == (7, 32, 1, 1)
    assert table["da3.head.scratch.output_conv1_aux.2.1.weight"] == (256, 128, 3, 3)
    assert table["da3.gs_head.scratch.output_conv2.2.weight"] == (38, 32, 1, 1)
    assert table["da3_metric.head.projects.3.weight"] == (1024, 1024, 1, 1)
    assert "da3.head.scratch.refinenet4_aux.resConfUnit1.conv1.weight" not in table
    assert "da3_metric.backbone.pretrained.camera_token" not in table


@pytest.fixture(scope="module")
def tiny():
    return {name: t.clone() for name, t in random_network("tiny").state_dict().items()}


@pytest.fixture(scope="module")
def nested():
    return {name: t.clone() for name, t in random_network("tiny-nested").state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "model.", "module.model.", "model.da3."])
def test_published_prefixes_fall_away(tiny, prefix):
    network = load("tiny", {prefix + name: tensor for name, tensor in tiny.items()})
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in tiny.items())


@pytest.mark.parametrize("box", ["module", "model"])
def test_boxes_of_training_checkpoints_are_opened(nested, box):
    stored = {box: {f"model.{name}": tensor for name, tensor in nested.items()}, "step": 3}
    assert load("tiny-nested", stored).state_dict().keys() == nested.keys()


def test_one_network_can_be_taken_out_of_a_nested_file(nested):
    published = {f"model.{name}": tensor for name, tensor in nested.items()}
    assert load("tiny", published).config.splats
    alone = load("tiny-metric", {n: t for n, t in published.items() if "da3_metric" in n})
    assert not alone.config.multi_view


def test_missing_unknown_and_misshaped_tensors_are_named(tiny):
    spoilt = dict(tiny)
    del spoilt["cam_dec.fc_t.bias"]
    spoilt["cam_dec.fc_tt.bias"] = torch.zeros(3)
    spoilt["head.norm.weight"] = torch.zeros(5)
    with pytest.raises(EngineFailed) as caught:
        load("tiny", spoilt)
    text = str(caught.value)
    assert "1 missing: cam_dec.fc_t.bias" in text
    assert "1 unknown: cam_dec.fc_tt.bias" in text
    assert "head.norm.weight [5] instead of [128]" in text
    assert "worldloom weights convert" in text


def test_a_file_without_the_gaussian_head_is_no_giant(tiny):
    without = {name: t for name, t in tiny.items() if not name.startswith("gs_head.")}
    with pytest.raises(EngineFailed, match=r"missing: gs_head\."):
        load("tiny", without)


def test_weights_of_half_precision_are_raised_to_single(tiny):
    network = load("tiny", {name: tensor.bfloat16() for name, tensor in tiny.items()})
    assert {p.dtype for p in network.parameters()} == {torch.float32}


def test_files_that_are_not_there_or_no_safetensors(tmp_path):
    with pytest.raises(NotFound, match="weights list"):
        load_file("small", tmp_path / "none.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(CorruptData, match="convert the published weights again"):
        load_file("small", tmp_path / "x.safetensors")
    with pytest.raises(InvalidRequest, match="metric-large"):
        variant_of("huge")


def test_hidden_widths_follow_the_published_rule():
    assert VARIANTS["giant"].main.hidden == 4096
    assert SMALL.hidden == 1536
