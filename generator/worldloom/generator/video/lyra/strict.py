"""Tensors under expected names and shapes, or an error that names each one that does not fit.

The release loads its networks leniently: a missing tensor stays random without a word. Here every
network is built without memory, checked against what it is given, and only then filled.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from worldloom.scene.errors import CorruptData, EngineFailed, NotFound

NAMED = 5
"""Names listed for each kind of mistake; the rest are counted."""

Shapes = Mapping[str, tuple[int, ...]]


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Names and shapes of everything that `module` saves."""
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def check_shapes(expected: Shapes, found: Shapes, what: str) -> None:
    """Compare names and shapes.

    Args:
        expected: Shape of each tensor that the configuration asks for.
        found: Shape of each tensor that is there.
        what: Whose tensors they are, for the message.

    Raises:
        EngineFailed: A tensor is missing, unknown or of another shape; each is named.
    """
    missing = sorted(set(expected) - set(found))
    extra = sorted(set(found) - set(expected))
    wrong = [
        f"{name} {list(found[name])} instead of {list(expected[name])}"
        for name in sorted(set(expected) & set(found))
        if tuple(expected[name]) != tuple(found[name])
    ]
    parts = [_few("missing", missing), _few("unknown", extra), _few("of another shape", wrong)]
    parts = [part for part in parts if part]
    if parts:
        raise EngineFailed(
            f"the weights of {what} do not fit its configuration: {'; '.join(parts)}. "
            f"{len(expected)} tensors are expected, {len(found)} are there; convert the published "
            "weights again with: worldloom weights convert"
        )


def _few(kind: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{len(names)} {kind}: {', '.join(names[:NAMED])}{more}"


def fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    """Give `tensors` to `module` (built on the meta device or not) without copying them.

    Raises:
        EngineFailed: They are not exactly its tensors.
    """
    check_shapes(shapes_of(module), {n: tuple(t.shape) for n, t in tensors.items()}, what)
    module.load_state_dict(dict(tensors), strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


def file_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file, read from its header alone.

    Raises:
        NotFound: There is no such file.
        CorruptData: It is no safetensors file.
    """
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def load_strict(target: nn.Module | Shapes, path: Path) -> dict[str, Tensor]:
    """Read a safetensors file that must hold exactly the tensors of `target`.

    Args:
        target: A module, which is filled with them, or the expected shapes.
        path: The safetensors file; the header is compared before any tensor is read.

    Returns:
        The tensors, memory-mapped where the system allows it.

    Raises:
        NotFound: There is no such file.
        CorruptData: It is no safetensors file.
        EngineFailed: A tensor is missing, unknown or of another shape.
    """
    expected = shapes_of(target) if isinstance(target, nn.Module) else target
    check_shapes(expected, file_shapes(path), path.name)
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in expected}
    if isinstance(target, nn.Module):
        fill(target, tensors, path.name)
    return tensors


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise NotFound(f"there is no weights file {path}; see: worldloom weights list")
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise CorruptData(
            f"{path} ({path.stat().st_size} bytes) is no safetensors file ({str(error)[:120]}); "
            "convert the published weights again with: worldloom weights convert"
        ) from error
