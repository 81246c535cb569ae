"""Prompt embeddings on disk, by hash of the cleaned text and of what made them.

The text encoder has 11 GB of weights; a prompt that was used once does not need it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from worldloom.generator.video.lyra.text import clean_prompt
from worldloom.scene.errors import StorageUnwritable

LOG = logging.getLogger(__name__)
TENSOR = "embedding"


class PromptCache:
    """A folder of embeddings; each file holds the rows of one text, without padding."""

    def __init__(self, folder: Path, *, tokenizer_sha256: str, weights_sha256: str) -> None:
        self.folder = folder
        self._makers = [tokenizer_sha256, weights_sha256]

    def file(self, prompt: str) -> Path:
        """Where the embedding of `prompt` is or would be."""
        words = json.dumps([clean_prompt(prompt), *self._makers]).encode("utf-8")
        return self.folder / f"{hashlib.sha256(words).hexdigest()}.safetensors"

    def get(self, prompt: str, length: int) -> Tensor | None:
        """The embedding [length d] with zeros after the text, or None where it is not known.

        A file that cannot be read counts as not known; the next `put` replaces it.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        file = self.file(prompt)
        if not file.is_file():
            return None
        try:
            rows = load_file(file)[TENSOR]
        except (SafetensorError, KeyError, OSError) as error:
            LOG.warning("the prompt embedding %s cannot be read (%s)", file, error)
            return None
        if rows.ndim != 2 or rows.shape[0] > length:
            LOG.warning("the prompt embedding %s has shape %s", file, list(rows.shape))
            return None
        return torch.cat([rows, rows.new_zeros(length - rows.shape[0], rows.shape[1])])

    def put(self, prompt: str, embedding: Tensor) -> Path:
        """Keep an embedding [n d]; zero rows at its end are not stored.

        Raises:
            StorageUnwritable: The folder cannot be written.
        """
        from safetensors.torch import save

        used = embedding.abs().amax(dim=1).nonzero()
        count = int(used.max()) + 1 if len(used) else 0
        file = self.file(prompt)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, part = tempfile.mkstemp(prefix=".part-", dir=self.folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(save({TENSOR: embedding[:count].detach().cpu().contiguous()}))
            os.replace(part, file)
        except OSError as error:
            raise StorageUnwritable(
                f"the prompt embedding {file} cannot be written ({error.strerror}); "
                "free space or choose another cache folder"
            ) from error
        return file

    def embed(self, prompt: str, length: int, encode: Callable[[str], Tensor]) -> Tensor:
        """The embedding [length d] of `prompt`; `encode` is called where it is not known yet.

        Raises:
            StorageUnwritable: The folder cannot be written.
        """
        known = self.get(prompt, length)
        if known is None:
            known = encode(prompt)
            self.put(prompt, known)
        return known
