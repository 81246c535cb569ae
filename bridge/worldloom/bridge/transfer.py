"""Blobs over the wire, the client's side: parts, offsets, checksums; .part -> fsync -> rename."""

from __future__ import annotations

import hashlib
import os
import queue
import re
import shutil
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from worldloom.bridge.messages import ArtifactRef
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import CorruptData, ServerUnreachable, StorageFull
from worldloom.scene.limits import MIB, Limits
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
KEPT_FREE = 64 * MIB
"""Free space that a download leaves on our disk [bytes]."""
AHEAD = 8
"""Parts that may wait for the thread that hashes: its memory is bounded."""


class DamagedFile(CorruptData):
    """A whole download has other content than its name says."""

    code = "damaged-file"


def outgoing(ref: InputRef, file: Path, offset: int, *, part_bytes: int) -> Iterator[pb.Part]:
    """The parts of an upload from an offset on; at least one, because the first names the blob."""
    with file.open("rb") as source:
        source.seek(offset)
        first = True
        while (data := source.read(part_bytes)) or first:
            yield pb.Part(
                sha256=ref.sha256 if first else "", offset=offset, data=data,
                crc32=zlib.crc32(data), total=ref.bytes,
            )  # fmt: skip
            offset, first = offset + len(data), False


def check_ref(ref: ArtifactRef, *, limits: Limits | None = None) -> None:
    """Refuse a reference that no honest server sends, before anything is fetched.

    Raises:
        CorruptData: The digest is none, or the size is above the limit of a blob.
    """
    limit = (limits or Limits()).blob_bytes
    if not DIGEST.fullmatch(ref.sha256):
        raise CorruptData(
            f"the server names {ref.path[:80]!r} by {ref.sha256[:80]!r}, which is no sha256"
        )
    if not 0 <= ref.bytes <= limit:
        raise CorruptData(
            f"the server says that {ref.path[:80]!r} has {ref.bytes} bytes; {limit} are possible"
        )


def part_file(ref: ArtifactRef, file: Path) -> Path:
    """Where a download waits until it is whole."""
    return file.with_name(f"{file.name}.{ref.sha256[:12]}.part")


def begun(part: Path) -> int:
    """Bytes of a download that are here already."""
    return part.stat().st_size if part.is_file() else 0


def check_space(ref: ArtifactRef, part: Path) -> None:
    """Refuse a download that our disk cannot hold.

    Raises:
        StorageFull: Too little space is left.
    """
    coming = ref.bytes - begun(part)
    free = shutil.disk_usage(part.parent).free
    if free - coming < KEPT_FREE:
        raise StorageFull(
            f"{part.parent} has {free // MIB} MiB left for {coming // MIB} MiB of {ref.path}; "
            f"{KEPT_FREE // MIB} MiB are kept free. Free some space and run the same command "
            "again, it continues"
        )


def incoming(parts: Iterable[pb.Part], ref: ArtifactRef, part: Path) -> str:
    """Append what the server sends to a part file and make it durable; the sha256 of the file.

    The digest is taken in a thread while the parts come, so that a whole file is not read again.

    Raises:
        CorruptData: A part is damaged or out of place, or more comes than was said; the parts
            before it are kept.
        ServerUnreachable: The stream ended too early.
        StorageFull: No space is left; what was written is kept.
    """
    offset = begun(part)
    with storage_errors(part), part.open("ab", buffering=0) as out, _hasher(part) as digest:
        for message in parts:
            data = message.data
            _check_part(message, data, ref, offset)
            _write_all(out, data)
            digest.add(data)
            offset += len(data)
        os.fsync(out.fileno())
    if offset < ref.bytes:
        raise ServerUnreachable(
            f"the server ended {ref.path} at byte {offset} of {ref.bytes}; it is asked for the rest"
        )
    return digest.value()


def is_whole(ref: ArtifactRef, file: Path) -> bool:
    """Whether a file has the content that its reference names."""
    try:
        return file.stat().st_size == ref.bytes and file_sha256(file) == ref.sha256
    except FileNotFoundError:
        return False


def accept(ref: ArtifactRef, part: Path, file: Path, *, digest: str | None = None) -> None:
    """Let a complete part take its place.

    Args:
        ref: What it should be.
        part: The complete download.
        file: Its place.
        digest: Its sha256, where that is known already.

    Raises:
        DamagedFile: Its content is not what was named; it is thrown away.
    """
    if digest != ref.sha256 and not is_whole(ref, part):
        part.unlink(missing_ok=True)
        raise DamagedFile(
            f"{ref.path} came with other content than its sha256 {ref.sha256[:16]}... names; the "
            "server's copy may be damaged: run 'worldloom check' on its store"
        )
    with storage_errors(file):
        part.replace(file)
        sync_folder(file.parent)


def _check_part(message: pb.Part, data: bytes, ref: ArtifactRef, offset: int) -> None:
    if zlib.crc32(data) != message.crc32 or message.offset != offset:
        raise CorruptData(
            f"the part at byte {message.offset} of {ref.path} was damaged on the way; it is "
            "fetched again"
        )
    if not data or offset + len(data) > ref.bytes:
        raise CorruptData(
            f"the server sends {len(data)} bytes at byte {offset} of {ref.path}, which has "
            f"{ref.bytes}; it is not to be trusted"
        )


def _write_all(out: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]


class _Digest:
    """A sha256 that is taken in a thread: hashlib lets others run meanwhile."""

    def __init__(self, part: Path) -> None:
        self._waiting: queue.Queue[bytes | None] = queue.Queue(AHEAD)
        with part.open("rb") as source:
            self._digest = hashlib.file_digest(source, "sha256")
        self._thread = threading.Thread(target=self._take, name="sha256", daemon=True)
        self._thread.start()

    def add(self, data: bytes) -> None:
        self._waiting.put(data)

    def end(self) -> None:
        self._waiting.put(None)
        self._thread.join()

    def value(self) -> str:
        return self._digest.hexdigest()

    def _take(self) -> None:
        while (data := self._waiting.get()) is not None:
            self._digest.update(data)


@contextmanager
def _hasher(part: Path) -> Iterator[_Digest]:
    digest = _Digest(part)
    try:
        yield digest
    finally:
        digest.end()
