"""Published checkpoints -> tensors by name, read one at a time.

Three forms: safetensors (a file or a folder of shards), a PyTorch file, and a folder of PyTorch's
distributed checkpoints. The last two hold pickles: open them only in the child process of
`weights_child`. Pickles are read through a list of allowed classes, never freely.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from worldloom.scene.errors import CorruptData, NotFound

INDEX = ".metadata"  # What a distributed checkpoint calls its table of contents.
_CHECKPOINT = "torch.distributed.checkpoint."
ALLOWED = {
    f"{_CHECKPOINT}metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
        "TensorProperties", "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    f"{_CHECKPOINT}filesystem": {"_StorageInfo"},
    "torch": {"Size"},
    "torch.serialization": {"_get_layout"},
    "collections": {"OrderedDict"},
    "pathlib": {"PosixPath", "PurePosixPath"},
}  # fmt: skip
"""All that the table of contents of a distributed checkpoint may name; element types besides."""

BOXES = ("module", "model")
"""Sub-dictionaries in which training keeps the tensors of a PyTorch file."""


@dataclass(frozen=True)
class Source:
    """An opened checkpoint."""

    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, torch.dtype]
    read: Callable[[str], Tensor]
    """Gives one tensor by its name."""


def open_source(path: Path) -> Source:
    """Open a published checkpoint of any of the three forms.

    Raises:
        NotFound: There is nothing at `path`, or nothing that could be a checkpoint.
        CorruptData: It is damaged, or names classes that no checkpoint needs.
    """
    if path.is_dir():
        for folder in (path, path / "model"):
            if (folder / INDEX).is_file():
                return _distributed(folder)
        shards = sorted(path.glob("*.safetensors"))
        if not shards:
            raise NotFound(
                f"the folder {path} holds neither {INDEX} with .distcp files (a distributed "
                "checkpoint, perhaps in its subfolder model) nor .safetensors files"
            )
        return _safetensors(shards)
    if not path.is_file():
        raise NotFound(f"there is no checkpoint {path}")
    return _safetensors([path]) if path.suffix == ".safetensors" else _pickled(path)


def _safetensors(files: list[Path]) -> Source:
    from safetensors import SafetensorError, safe_open

    places: dict[str, Any] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, torch.dtype] = {}
    for file in files:
        try:
            shard = safe_open(file, framework="pt")
        except SafetensorError as error:
            raise CorruptData(f"{file} is no safetensors file ({str(error)[:120]})") from error
        for name in shard.keys():  # noqa: SIM118
            if name in places:
                raise CorruptData(f"{name} is in two of the files beside {file.name}")
            part = shard.get_slice(name)
            places[name], shapes[name] = shard, tuple(part.get_shape())
            # An empty piece tells the element type without reading the tensor.
            dtypes[name] = part[0:0].dtype if shapes[name] else shard.get_tensor(name).dtype
    return Source(shapes, dtypes, lambda name: places[name].get_tensor(name))


def _pickled(file: Path) -> Source:
    """A file of `torch.save`; its tensors stay on disk until they are read where that works."""
    try:
        stored = torch.load(
            file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise CorruptData(
            f"{file} is no checkpoint of tensors alone ({str(error)[:160]})"
        ) from error
    for box in BOXES:
        if isinstance(stored, Mapping) and isinstance(stored.get(box), Mapping):
            stored = stored[box]
    if not isinstance(stored, Mapping):
        raise CorruptData(f"{file} holds a {type(stored).__name__}, not tensors by name")
    tensors = {name: value for name, value in stored.items() if isinstance(value, Tensor)}
    return Source(
        {name: tuple(tensor.shape) for name, tensor in tensors.items()},
        {name: tensor.dtype for name, tensor in tensors.items()},
        tensors.__getitem__,
    )


class _Index(pickle.Unpickler):
    """Reads a table of contents and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """An allowed class, an element type, or an error."""
        if name in ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint needs")


def _distributed(folder: Path) -> Source:
    try:
        with (folder / INDEX).open("rb") as file:
            index = _Index(file).load()
        kept = {
            name: entry for name, entry in index.state_dict_metadata.items()
            if hasattr(entry, "chunks")
        }  # fmt: skip
        shapes = {name: tuple(entry.size) for name, entry in kept.items()}
        dtypes = {name: entry.properties.dtype for name, entry in kept.items()}
        where = {(key.fqn, _key(key.offset)): at for key, at in index.storage_data.items()}
    except (pickle.UnpicklingError, AttributeError, TypeError, ValueError, EOFError) as error:
        raise CorruptData(
            f"{folder / INDEX} is no table of a distributed checkpoint ({str(error)[:160]})"
        ) from error

    def read(name: str) -> Tensor:
        whole = torch.empty(shapes[name], dtype=dtypes[name])
        filled = 0
        for chunk in kept[name].chunks:
            place = where.get((name, _key(chunk.offsets)))
            if place is None:
                raise CorruptData(f"a piece of {name} is not listed in {folder / INDEX}")
            piece = _piece(folder, place, name)
            whole[_cut(chunk.offsets, chunk.sizes)] = piece.reshape(tuple(chunk.sizes))
            filled += piece.numel()
        if filled != whole.numel():
            raise CorruptData(f"{folder} holds {filled} of the {whole.numel()} numbers of {name}")
        return whole

    return Source(shapes, dtypes, read)


def _key(offset: Any) -> tuple[int, ...]:
    return tuple(offset) if offset is not None else ()


def _cut(offsets: Any, sizes: Any) -> tuple[slice, ...]:
    return tuple(slice(o, o + s) for o, s in zip(offsets, sizes, strict=True))


def _piece(folder: Path, place: Any, name: str) -> Tensor:
    """One stored piece of a tensor."""
    file = (folder / place.relative_path).resolve()
    if not file.is_relative_to(folder.resolve()) or not file.is_file():
        raise CorruptData(f"{name} should be in {place.relative_path}, which is not in {folder}")
    if getattr(place, "transform_descriptors", None):
        raise CorruptData(f"{name} is stored in a transformed form that is not known")
    with file.open("rb") as stream:
        stream.seek(place.offset)
        data = stream.read(place.length)
    try:
        piece = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CorruptData(f"{name} cannot be read from {file.name} ({str(error)[:120]})") from error
    if not isinstance(piece, Tensor):
        raise CorruptData(f"{name} in {file.name} is a {type(piece).__name__}, no tensor")
    return piece
