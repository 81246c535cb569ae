"""Dataclasses <-> protobuf messages: callers of the client never see a protobuf class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import CorruptData
from worldloom.scene.events import Log, Preview, Progress
from worldloom.scene.limits import Limits

PROTOCOL = 1
"""Version of the wire; raised only when an old peer could misread a new one."""


def _version() -> str:
    """Version of this code; inside Kit it lies on the path without being installed."""
    try:
        return metadata.version("worldloom")
    except metadata.PackageNotFoundError:
        return "0+path"


VERSION = _version()
PACKED = "packed"
"""Encoding of splat blobs for slow links: compressed PLY, lossy."""
TERMINAL = ("done", "failed", "cancelled")
LONGEST_TEXT = 4000
"""Most characters of a text from the other side that are shown."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    version: str
    protocol: tuple[int, int]
    """Lowest and highest protocol that it speaks."""
    engines: tuple[str, ...]
    presets: tuple[dict[str, Any], ...]
    limits: Limits
    store: str
    nonce: str
    default_engine: str
    gpus: tuple[str, ...] = ()
    queued: int = 0
    """Jobs that wait there, of everybody."""
    running: int = 0
    """Jobs that run there, of everybody."""
    licences: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Licence of each of the weights that a preset uses, by preset and weights."""
    features: tuple[str, ...] = ()
    """What the server can do beyond the first version of the protocol."""


@dataclass(frozen=True)
class JobInfo:
    """A job as the server sees it."""

    name: str
    kind: str
    state: str
    request_hash: str
    engine: str
    error_code: str
    error_text: str
    last_seq: int
    created_unix_s: float
    error_field: str = ""
    priority: int = 0


@dataclass(frozen=True)
class ArtifactRef:
    """A finished file of a world, by content."""

    chunk: int
    kind: str
    path: str
    sha256: str
    bytes: int
    supersedes: str | None = None
    seq: int = 0


@dataclass(frozen=True)
class StateChange:
    """The job entered another state."""

    state: str
    error_code: str = ""
    error_text: str = ""
    error_field: str = ""
    seq: int = 0


Happening = Progress | Log | Preview | ArtifactRef | StateChange
"""What a watcher receives."""


def plain(text: str) -> str:
    """A text from the other side without what could steer a terminal, and not too long."""
    text = text[:LONGEST_TEXT]
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in text)


def server_info(message: pb.Server) -> ServerInfo:
    """Read a Server message.

    Raises:
        CorruptData: Its presets or limits cannot be read.
    """
    try:
        presets = tuple(json.loads(message.presets_json or "[]"))
        engines = tuple(plain(str(preset["name"])) for preset in presets)
        told = json.loads(message.limits_json or "{}")
        numbers = {k: v for k, v in told.items() if isinstance(v, int | float)}
        licences = _licences(json.loads(message.licenses_json or "{}"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptData(
            f"the server describes itself in a way that cannot be read ({type(error).__name__}: "
            f"{plain(str(error))[:200]}); is it a worldloom server of this version?"
        ) from error
    return ServerInfo(
        version=plain(message.version),
        protocol=(message.protocol_min, message.protocol_max),
        engines=engines,
        presets=presets,
        limits=Limits.from_json(numbers),
        store=message.store,
        nonce=message.nonce,
        default_engine=message.default_engine,
        gpus=tuple(plain(name) for name in message.gpus),
        queued=message.queued,
        running=message.running,
        licences=licences,
        features=tuple(plain(name) for name in message.features),
    )


def _licences(told: dict[str, dict[str, str]]) -> dict[str, dict[str, str]]:
    return {
        plain(preset): {plain(name): plain(text) for name, text in weights.items()}
        for preset, weights in told.items()
    }


def job_info(message: pb.Job) -> JobInfo:
    """Read a Job message."""
    values = {name: getattr(message, name) for name in JobInfo.__dataclass_fields__}
    return JobInfo(**{k: plain(v) if isinstance(v, str) else v for k, v in values.items()})


def job_message(job: JobInfo) -> pb.Job:
    """Write a Job message."""
    return pb.Job(**{name: getattr(job, name) for name in JobInfo.__dataclass_fields__})


def event_message(seq: int, at: float, body: dict[str, Any]) -> pb.Event:
    """Write an event from the dictionary that workers and the journal use."""
    kind = body["type"]
    fields = {key: value for key, value in body.items() if key != "type" and value is not None}
    message = pb.Event(seq=seq, at_unix_s=at)
    if kind == "heartbeat":
        message.heartbeat.SetInParent()
        return message
    getattr(message, kind).CopyFrom(_BODIES[kind](**fields))
    return message


def happening(message: pb.Event) -> Happening | None:
    """Read an event; None for heartbeats and for kinds of a later version."""
    kind = message.WhichOneof("what")
    if kind == "progress":
        p = message.progress
        eta = p.eta_s if p.HasField("eta_s") else None
        return Progress(plain(p.stage)[:64], p.done, p.total, plain(p.unit)[:64], eta)
    if kind == "artifact":
        a = message.artifact
        return ArtifactRef(
            a.chunk, a.kind, a.path, a.sha256, a.bytes, a.supersedes or None, message.seq
        )
    if kind == "log":
        return Log(plain(message.log.level), plain(message.log.text))
    if kind == "state":
        s = message.state
        texts = (s.state, s.error_code, s.error_text, s.error_field)
        return StateChange(*map(plain, texts), message.seq)
    if kind == "preview":
        return Preview(message.preview.frame, message.preview.jpeg)
    return None


_BODIES = {
    "progress": pb.Progress,
    "artifact": pb.Artifact,
    "log": pb.Log,
    "state": pb.State,
    "preview": pb.Preview,
}
