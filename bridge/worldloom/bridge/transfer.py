"""Blobs over the wire, the client's side: parts, offsets, checksums; .part -> fsync -> rename."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from worldloom.bridge.messages import ArtifactRef, ServerInfo
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import CorruptData
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder


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


def part_file(ref: ArtifactRef, file: Path) -> Path:
    """Where a download waits until it is whole."""
    return file.with_name(f"{file.name}.{ref.sha256[:12]}.part")


def begun(part: Path) -> int:
    """Bytes of a download that are here already."""
    return part.stat().st_size if part.is_file() else 0


def incoming(parts: Iterable[pb.Part], ref: ArtifactRef, part: Path) -> None:
    """Append what the server sends to a part file, and make it durable.

    Raises:
        CorruptData: A part is damaged or out of place; those before it are kept.
        StorageFull: No space is left; what was written is kept.
    """
    offset = begun(part)
    with storage_errors(part), part.open("ab") as out:
        for message in parts:
            if zlib.crc32(message.data) != message.crc32 or message.offset != offset:
                raise CorruptData(
                    f"the part at byte {message.offset} of {ref.path} was damaged on the way; it "
                    "is fetched again"
                )
            out.write(message.data)
            offset += len(message.data)
        out.flush()
        os.fsync(out.fileno())


def is_whole(ref: ArtifactRef, file: Path) -> bool:
    """Whether a file has the content that its reference names."""
    try:
        return file.stat().st_size == ref.bytes and file_sha256(file) == ref.sha256
    except FileNotFoundError:
        return False


def accept(ref: ArtifactRef, part: Path, file: Path) -> None:
    """Let a complete part take its place.

    Raises:
        CorruptData: Its content is not what was named; it is thrown away.
    """
    if not is_whole(ref, part):
        part.unlink(missing_ok=True)
        raise CorruptData(
            f"{ref.path} came with other content than its sha256 {ref.sha256[:16]}... names; the "
            "server's copy may be damaged: run 'worldloom check' on its store"
        )
    with storage_errors(file):
        part.replace(file)
        sync_folder(file.parent)


def link_from_store(info: ServerInfo, ref: ArtifactRef, part: Path) -> bool:
    """Hard-link a blob of a server that runs on this host as this user; False otherwise."""
    store = Path(info.store)
    blob = store / "blobs" / ref.sha256[:2] / ref.sha256
    try:
        if (store / "nonce").read_text() != info.nonce or blob.stat().st_uid != os.getuid():
            return False
        part.unlink(missing_ok=True)
        os.link(blob, part)
    except OSError:
        return False
    if is_whole(ref, part):
        return True
    part.unlink()
    return False
