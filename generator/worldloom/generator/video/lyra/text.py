"""Prompt -> cleaned text -> tokens -> embedding [512 4096] whose rows after the text are zero.

The layers are those of transformers' UMT5 encoder, the tokenizer is a local `tokenizer.json`;
nothing is fetched. `prompts` keeps embeddings on disk, so that the encoder is rarely needed.
"""

from __future__ import annotations

import hashlib
import html
import logging
import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from worldloom.generator.video.lyra.strict import check_shapes, fill
from worldloom.generator.video.lyra.text_keys import (
    TextConfig,
    from_library,
    published_shapes,
    to_library,
)
from worldloom.scene.errors import CorruptData, EngineFailed, NotFound

LOG = logging.getLogger(__name__)
TOKENIZER_FILE = "tokenizer.json"
PADDING = 0  # Token that fills rows after the text.


def clean_prompt(text: str) -> str:
    """Prompt as people type it -> as the network was trained on it.

    Broken encodings are mended where `ftfy` is installed, HTML entities are resolved twice, and
    every run of white space becomes one blank.
    """
    try:
        import ftfy
    except ImportError:
        LOG.debug("ftfy is not installed; broken encodings in prompts stay as they are")
    else:
        text = ftfy.fix_text(text)
    return re.sub(r"\s+", " ", html.unescape(html.unescape(text))).strip()


def relative_buckets(distances: Tensor, *, buckets: int = 32, furthest: int = 128) -> Tensor:
    """Key position minus query position [tokens] -> row of the table of relative positions.

    Half of the rows are for keys after the query. In each half, short distances have a row each,
    longer ones share rows by their logarithm, and from `furthest` on all are alike.
    """
    half = buckets // 2
    exact = half // 2
    size = distances.abs()
    # Zero has its own row; one keeps its logarithm finite.
    log = torch.log(size.clamp_min(1).float() / exact) / math.log(furthest / exact)
    far = (exact + (log * (half - exact)).long()).clamp_max(half - 1)
    return torch.where(size < exact, size, far) + half * (distances > 0).long()


class PromptTokenizer:
    """Text -> token numbers, by a `tokenizer.json` of this machine."""

    def __init__(self, place: Path) -> None:
        self.file = place / TOKENIZER_FILE if place.is_dir() else place
        if not self.file.is_file():
            raise NotFound(
                f"there is no tokenizer {self.file}; put the {TOKENIZER_FILE} of google/umt5-xxl "
                "there"
            )

    @cached_property
    def _library(self) -> Any:
        from tokenizers import Tokenizer

        try:
            return Tokenizer.from_file(str(self.file))
        # The library raises nothing more exact than Exception itself.
        except Exception as error:
            raise CorruptData(
                f"{self.file} is no tokenizer ({str(error)[:120]}); fetch it again"
            ) from error

    @cached_property
    def sha256(self) -> str:
        """Hash of the file."""
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    def __call__(self, prompts: Sequence[str], length: int) -> tuple[Tensor, Tensor]:
        """Cleaned prompts -> token numbers and mask, int64 [n length] each; long ones are cut."""
        self._library.no_padding()
        self._library.enable_truncation(length)
        rows = [self._library.encode(prompt).ids for prompt in prompts]
        ids = torch.full((len(rows), length), PADDING)
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.long)
            mask[index, : len(row)] = 1
        return ids, mask


class TextEncoder(nn.Module):
    """UMT5's encoder with one table of relative positions per layer and unscaled attention."""

    def __init__(self, config: TextConfig, model: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.model = model

    @staticmethod
    def load(config: Mapping[str, object], tensors: Mapping[str, Tensor]) -> TextEncoder:
        """Build the encoder from published tensors.

        Args:
            config: `vocab`, `dim`, `dim_attn`, `dim_ffn`, `num_heads`, `num_layers`,
                `num_buckets`, `max_distance`, `text_len`, `shared_pos`; what is left out is as
                released.
            tensors: Every tensor under its published name; their type is kept.

        Raises:
            EngineFailed: The sizes make no encoder, or a tensor is missing, unknown or mis-shaped.
        """
        sizes = TextConfig.parse(config)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        check_shapes(published_shapes(sizes), found, "the text encoder")
        model = _build(sizes)
        fill(model, to_library(tensors, sizes), "the text encoder")
        return TextEncoder(sizes, model)

    def published(self) -> dict[str, Tensor]:
        """All tensors under their published names."""
        return from_library(self.model.state_dict(), self.config)

    @torch.no_grad()
    def hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token numbers and mask [b n] -> features [b n d], those of padding included.

        Raises:
            EngineFailed: A number is outside the vocabulary, or the shapes differ.
        """
        if ids.shape != mask.shape or ids.ndim != 2 or ids.numel() == 0:
            raise EngineFailed(
                f"token numbers {list(ids.shape)} and mask {list(mask.shape)} must have one shape "
                "[batch, tokens]"
            )
        if int(ids.min()) < 0 or int(ids.max()) >= self.config.vocab:
            raise EngineFailed(
                f"token {int(ids.max())} is outside the vocabulary of {self.config.vocab}; the "
                "tokenizer belongs to another encoder"
            )
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Token numbers and mask [b n] -> what the video network gets [b n d]: padding is zero.

        Raises:
            EngineFailed: A number is outside the vocabulary, or the shapes differ.
        """
        return self.hidden(ids, mask) * (mask != 0).unsqueeze(-1)

    def embed(self, prompts: Sequence[str], tokenizer: PromptTokenizer) -> Tensor:
        """Prompts -> embeddings [n 512 d]; they are cleaned first and cut to 512 tokens."""
        device = next(self.parameters()).device
        ids, mask = tokenizer([clean_prompt(p) for p in prompts], self.config.text_len)
        return self(ids.to(device), mask.to(device))


def _build(config: TextConfig) -> nn.Module:
    """The library's encoder without memory for its weights."""
    from transformers import UMT5Config, UMT5EncoderModel

    sizes = UMT5Config(
        vocab_size=config.vocab,
        d_model=config.dim,
        d_kv=config.dim_attn // config.num_heads,
        d_ff=config.dim_ffn,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        relative_attention_num_buckets=config.num_buckets,
        relative_attention_max_distance=config.max_distance,
        layer_norm_epsilon=config.eps,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
    )
    with torch.device("meta"):
        return UMT5EncoderModel(sizes)
