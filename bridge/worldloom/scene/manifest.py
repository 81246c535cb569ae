"""The manifest: what a finished world is, file by file, and what made it.

It holds only what is a function of request, weights and code, so that an interrupted and resumed
job gives the same bytes; times and hosts go to `run.json`, which no hash covers.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import chain
from math import isfinite
from typing import Any

from worldloom.scene.errors import CorruptData

MANIFEST_SCHEMA = "worldloom.world/1"
FILE_KINDS = (
    "splats", "points", "collision", "visual", "video",
    "cameras", "cameras_usd", "depth", "scale", "ply", "spz", "glb", "vdb",
)  # fmt: skip
IMMUTABLE_KINDS = ("splats", "points", "collision", "visual", "video")
"""Kinds whose files are named by their content and never rewritten."""
RESEARCH_NOTICE = (
    "Made with weights that are licensed for research and evaluation only; "
    "commercial use of this world is not permitted."
)


@dataclass(frozen=True)
class FileEntry:
    """One file of the world."""

    path: str
    """Place in the world folder, forward slashes."""
    sha256: str
    bytes: int
    kind: str
    """One of FILE_KINDS."""
    chunk: int | None = None
    """Chunk that made it."""
    tile: int | None = None
    """Number among the files of the same kind and chunk, or of the collider tile."""
    count: int = 0
    """Splats, triangles or frames in it."""
    extent: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    """Box of its geometry in the world [m]."""
    supersedes: str | None = None
    """Path of the file that this one replaces."""
    move: tuple[tuple[float, ...], ...] | None = None
    """Where its content stands in the world: a similarity [4 4] from the file's axes to the world,
    metres; None: as it is. Closing a loop moves a chunk and leaves its file alone."""


@dataclass(frozen=True)
class Manifest:
    """A world at one revision."""

    world_id: str
    """Hash of the first request."""
    request: dict[str, Any]
    """The canonical request."""
    engine: dict[str, Any]
    """`preset`, and `weights`: list of {name, sha256, licence, research_only}."""
    scale: dict[str, Any]
    """The content of scale.json."""
    chunks: int
    """Chunks finished."""
    frames: int
    """Frames finished, the photo included."""
    files: tuple[FileEntry, ...] = ()
    parents: tuple[str, ...] = ()
    """World ids that this one extends, oldest first."""
    seeds: tuple[int, ...] = ()
    photo_sha256: str | None = None
    depth_source: str = ""
    """Which depth model or file the world stands on."""
    notices: tuple[str, ...] = ()
    """Licence and honesty notices that must travel with the world."""
    code_version: str = ""
    complete: bool = False
    """Whether all chunks of the request are finished."""

    def live(self, kind: str) -> list[FileEntry]:
        """Entries of one kind that no later entry supersedes, in chunk and tile order."""
        found = [entry for entry in live_entries(self.files) if entry.kind == kind]
        return sorted(found, key=lambda e: (e.chunk or 0, e.tile or 0, e.path))

    def research_only(self) -> bool:
        """Whether any weights behind this world forbid commercial use."""
        return any(weights.get("research_only") for weights in self.engine.get("weights", []))

    def to_json(self) -> dict[str, Any]:
        """The manifest as a plain dictionary."""
        return {
            "schema": MANIFEST_SCHEMA,
            "units": {"metersPerUnit": 1.0, "upAxis": "Z"},
            **json.loads(json.dumps(asdict(self))),
        }

    def to_bytes(self) -> bytes:
        """The one byte string of this manifest: sorted keys, two spaces, a final newline."""
        text = json.dumps(self.to_json(), sort_keys=True, indent=2, allow_nan=False)
        return text.encode("utf-8") + b"\n"

    @staticmethod
    def from_bytes(data: bytes) -> Manifest:
        """Read manifest.json.

        Raises:
            CorruptData: Not JSON, another schema, or a field is missing or wrong.
        """
        try:
            raw = json.loads(data)
            schema = raw.pop("schema")
            if schema != MANIFEST_SCHEMA:
                raise CorruptData(f"manifest has schema {schema!r}; expected {MANIFEST_SCHEMA!r}")
            raw.pop("units", None)
            known = {key: raw[key] for key in raw if key in Manifest.__dataclass_fields__}
            for key in ("parents", "seeds", "notices"):
                known[key] = tuple(known.get(key, ()))
            known["files"] = tuple(_entry(item) for item in known.get("files", ()))
            return Manifest(**known)
        except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptData(
                f"manifest.json cannot be read: {type(error).__name__} {error}"
            ) from error


def live_entries(files: Iterable[FileEntry]) -> list[FileEntry]:
    """The entries that no other entry supersedes, in their order."""
    files = list(files)
    gone = {entry.supersedes for entry in files if entry.supersedes}
    return [entry for entry in files if entry.path not in gone]


def notices_for(weights: Iterable[dict[str, Any]], *extra: str) -> tuple[str, ...]:
    """Notices that the licences of `weights` demand, then `extra`."""
    found = [RESEARCH_NOTICE] if any(w.get("research_only") for w in weights) else []
    return tuple(found + [text for text in extra if text])


def _entry(item: dict[str, Any]) -> FileEntry:
    known = {key: item[key] for key in item if key in FileEntry.__dataclass_fields__}
    if known.get("extent") is not None:
        low, high = known["extent"]
        known["extent"] = (tuple(low), tuple(high))
    if known.get("move") is not None:
        known["move"] = _check_move(known["move"])
    _check_path(known["path"])
    return FileEntry(**known)


def _check_move(rows: Any) -> tuple[tuple[float, ...], ...]:
    """A finite 4 x 4 whose last row is 0 0 0 1, or ValueError."""
    move = tuple(tuple(float(value) for value in row) for row in rows)
    whole = len(move) == 4 and all(len(row) == 4 for row in move)
    if not whole or move[3] != (0.0, 0.0, 0.0, 1.0) or not all(map(isfinite, chain(*move))):
        raise ValueError(f"a move must be a finite affine 4 x 4 matrix, not {str(rows)[:80]}")
    return move


def _check_path(path: str) -> None:
    bad_parts = {"", ".", ".."} & set(path.split("/"))
    if bad_parts or "\\" in path or "\0" in path:
        raise CorruptData(f"manifest names the file {path[:80]!r}, which is not inside the world")
