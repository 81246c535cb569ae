"""Tensors one after another -> a safetensors file, without ever holding two of them.

The public library writes what is all in memory; a network of 34 GB is better streamed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

TYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8",
    torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Element types and their names in the format."""

Plan = Mapping[str, tuple[tuple[int, ...], torch.dtype]]
"""Shape and element type of each tensor."""


def planned_bytes(plan: Plan) -> int:
    """Size of all tensors together."""
    return sum(prod(shape) * dtype.itemsize for shape, dtype in plan.values())


def write_safetensors(
    path: Path, plan: Plan, read: Callable[[str], Tensor], notes: Mapping[str, str]
) -> str:
    """Write the tensors of `plan` to `path`.

    Args:
        path: The file to write.
        plan: Shape and element type of each tensor.
        read: Gives a tensor by its name; called once for each, wide elements first, then by name.
        notes: Words for the header.

    Returns:
        The sha256 of the file.

    Raises:
        OSError: It cannot be written.
        ValueError: A tensor has another shape than planned.
    """
    # Wide elements come first, so that every tensor lies at a multiple of its element's size.
    order = sorted(plan, key=lambda name: (-plan[name][1].itemsize, name))
    digest = hashlib.sha256()
    with path.open("wb") as file:

        def put(data: bytes | memoryview) -> None:
            file.write(data)
            digest.update(data)

        head = _header(order, plan, notes)
        put(len(head).to_bytes(8, "little"))
        put(head)
        for name in order:
            shape, dtype = plan[name]
            tensor = read(name)
            if tuple(tensor.shape) != tuple(shape):
                raise ValueError(f"{name} has shape {list(tensor.shape)}, not {list(shape)}")
            put(_bytes(tensor.to(dtype)))
    return digest.hexdigest()


def _header(order: list[str], plan: Plan, notes: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **notes}}
    place = 0
    for name in order:
        shape, dtype = plan[name]
        end = place + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": TYPES[dtype], "shape": list(shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(entries, separators=(",", ":")).encode("utf-8")
    return text + b" " * (-len(text) % 8)


def _bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, without a copy where it lies in one piece."""
    flat = tensor.detach().contiguous().reshape(-1)
    return memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else memoryview(b"")
