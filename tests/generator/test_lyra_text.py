"""The text encoder: cleaning, positions, padding, names both ways, tokenizer, cache on disk."""

import json

import pytest
import torch

from worldloom.generator.video.lyra.key_table import parameters
from worldloom.generator.video.lyra.prompts import PromptCache
from worldloom.generator.video.lyra.text import (
    PromptTokenizer,
    TextEncoder,
    clean_prompt,
    relative_buckets,
)
from worldloom.generator.video.lyra.text_keys import TextConfig, published_shapes
from worldloom.scene.errors import CorruptData, EngineFailed, NotFound, StorageUnwritable

torch.set_num_threads(2)
TINY = {
    "vocab": 12, "dim": 8, "dim_attn": 6, "dim_ffn": 10, "num_heads": 2, "num_layers": 2,
    "text_len": 6, "num_buckets": 8,
}  # fmt: skip


def tensors(config=TINY, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shapes = published_shapes(TextConfig.parse(config))
    return {n: torch.randn(s, generator=draw) * 0.5 for n, s in shapes.items()}


@pytest.fixture
def tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "red": 4, "door": 5}
    made = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    return PromptTokenizer(tmp_path)


def test_the_released_encoder_has_the_published_size():
    shapes = published_shapes(TextConfig())
    assert (len(shapes), parameters(shapes)) == (242, 5_680_910_336)
    assert shapes["blocks.23.pos_embedding.embedding.weight"] == (32, 64)


@pytest.mark.parametrize("shared", [False, True])
def test_names_go_to_the_library_and_back(shared):
    config = {**TINY, "shared_pos": shared}
    weights = tensors(config)
    back = TextEncoder.load(config, weights).published()
    assert set(back) == set(weights)
    assert all(torch.equal(back[name], weights[name]) for name in weights)


def test_prompts_are_cleaned_as_in_training():
    assert clean_prompt("  a\n\tred   door ") == "a red door"
    assert clean_prompt("salt &amp;amp; pepper &lt;b&gt;") == "salt & pepper <b>"
    assert clean_prompt("") == ""


def test_positions_follow_the_stated_rule():
    distances = torch.tensor([0, 1, -1, 7, 8, -8, 127, 128, 500, -500])
    expected = [0, 17, 1, 23, 24, 8, 31, 31, 31, 15]
    assert relative_buckets(distances).tolist() == expected


def test_positions_agree_with_the_library_at_every_distance():
    layer = TextEncoder.load(TINY, tensors()).model.encoder.block[0].layer[0].SelfAttention
    distances = torch.arange(-300, 301)
    assert torch.equal(
        layer._relative_position_bucket(distances), relative_buckets(distances, buckets=8)
    )


def test_rows_after_the_text_are_zero_and_do_not_matter():
    encoder = TextEncoder.load(TINY, tensors())
    ids = torch.tensor([[3, 4, 5, 1, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    embedding = encoder(ids, mask)
    assert embedding.shape == (1, 6, 8)
    assert not embedding[:, 4:].any()
    assert encoder.hidden(ids, mask)[:, 4:].any()
    other = encoder(torch.tensor([[3, 4, 5, 1, 7, 8]]), mask)
    torch.testing.assert_close(other, embedding)


def test_prompts_become_padded_rows(tokenizer):
    encoder = TextEncoder.load(TINY, tensors())
    ids, mask = tokenizer(["a red door", "red " * 20], 6)
    assert ids.tolist() == [[3, 4, 5, 1, 0, 0], [4, 4, 4, 4, 4, 1]]
    assert mask.sum(1).tolist() == [4, 6]
    both = encoder.embed(["  a red\ndoor", "door"], tokenizer)
    torch.testing.assert_close(both[0], encoder(ids[:1], mask[:1])[0])


def test_a_tokenizer_that_is_missing_or_damaged_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"tokenizer\.json of google/umt5-xxl"):
        PromptTokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text(json.dumps({"no": "tokenizer"}))
    with pytest.raises(CorruptData, match="is no tokenizer"):
        PromptTokenizer(tmp_path)(["a"], 4)


def test_tokens_that_do_not_fit_are_refused():
    encoder = TextEncoder.load(TINY, tensors())
    with pytest.raises(EngineFailed, match="outside the vocabulary of 12"):
        encoder(torch.tensor([[12]]), torch.tensor([[1]]))
    with pytest.raises(EngineFailed, match="one shape"):
        encoder(torch.tensor([[1, 2]]), torch.tensor([[1]]))


def test_weights_and_sizes_that_do_not_fit_are_named():
    weights = tensors()
    with pytest.raises(EngineFailed, match=r"missing: blocks\.1\.ffn\.fc2\.weight"):
        TextEncoder.load(TINY, {n: t for n, t in weights.items() if "1.ffn.fc2" not in n})
    with pytest.raises(EngineFailed, match="buckets by two"):
        TextConfig.parse({**TINY, "num_buckets": 7})


@pytest.fixture
def cache(tmp_path):
    return PromptCache(tmp_path / "prompts", tokenizer_sha256="t", weights_sha256="w")


def test_an_embedding_is_made_once_and_comes_back_padded(cache):
    made = torch.zeros(6, 8, dtype=torch.bfloat16)
    made[:3] = torch.randn(3, 8)
    calls = []

    def encode(prompt):
        calls.append(prompt)
        return made

    for _ in range(2):
        assert torch.equal(cache.embed("a red door", 6, encode), made)
    assert torch.equal(cache.embed(" a  red door", 6, encode), made)
    assert len(calls) == 1
    assert [file.suffix for file in cache.folder.iterdir()] == [".safetensors"]
    assert cache.file("a red door").stat().st_size < 200


def test_other_words_tokenizers_and_weights_have_other_files(cache):
    files = {
        cache.file("a"), cache.file("b"),
        PromptCache(cache.folder, tokenizer_sha256="u", weights_sha256="w").file("a"),
        PromptCache(cache.folder, tokenizer_sha256="t", weights_sha256="v").file("a"),
    }  # fmt: skip
    assert len(files) == 4


def test_an_empty_embedding_can_be_kept(cache):
    cache.put("", torch.zeros(6, 8))
    assert torch.equal(cache.get("", 6), torch.zeros(6, 8))


def test_a_damaged_file_counts_as_unknown_and_is_replaced(cache, caplog):
    file = cache.put("a", torch.ones(2, 8))
    file.write_bytes(b"damaged")
    assert cache.get("a", 6) is None
    assert "cannot be read" in caplog.text
    assert cache.embed("a", 6, lambda _: torch.ones(6, 8)).sum() == 48
    assert cache.get("a", 6).sum() == 48
    assert cache.get("a", 3) is None  # Longer than what is asked for.


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = PromptCache(tmp_path / "file" / "x", tokenizer_sha256="", weights_sha256="")
    with pytest.raises(StorageUnwritable, match="choose another cache folder"):
        cache.put("a", torch.ones(1, 8))
