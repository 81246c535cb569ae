"""The wire and the journal: worlds over gRPC, jobs that survive what breaks.

From Python: `from worldloom.bridge import connect`; docs/client.md shows how. The names below are
the whole public interface; they are loaded when they are asked for.

Client half (needs grpc): remote on client, worldcache, transfer, streams and channel.
Server half: server and service behind gate and lanes; scheduler with a pool of workers (local or
Ray); journal, store and blobs; check and restore for a store that was damaged.
The invariant: a journal row never names a blob that is not whole on disk.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "connect": "worldloom.bridge.remote",
    "Server": "worldloom.bridge.remote",
    "Job": "worldloom.bridge.remote",
    "Progress": "worldloom.scene.events",
    "Log": "worldloom.scene.events",
    "Preview": "worldloom.scene.events",
    "ArtifactRef": "worldloom.bridge.messages",
    "StateChange": "worldloom.bridge.messages",
    "WorldloomError": "worldloom.scene.errors",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
