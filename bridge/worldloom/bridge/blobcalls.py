"""Blobs to and from a server: upload and download that go on where they were cut."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldloom.bridge.messages import PACKED, ArtifactRef, ServerInfo
from worldloom.bridge.samehost import take_from_store
from worldloom.bridge.streams import Idle, Tries, idle_guard, messages_of
from worldloom.bridge.transfer import (
    DamagedFile,
    accept,
    begun,
    check_ref,
    check_space,
    incoming,
    is_whole,
    outgoing,
    part_file,
)
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    ServerUnreachable,
    WorldloomError,
    WrongOffset,
)
from worldloom.scene.limits import MIB
from worldloom.scene.request import InputRef
from worldloom.scene.worldfolder import file_sha256, storage_errors

PACKING_S = 90.0
"""How long a server may pack before its first byte comes [s]."""
SLOWEST_HASH = 50e6
"""Rate at which a server at least reads an upload again before it answers [bytes/s]."""


class BlobCalls:
    """The blob calls of one connection."""

    def __init__(
        self,
        stub: rpc.WorldsStub,
        control: Callable[[Any, Any], Any],
        address: str,
        *,
        idle_s: float,
        tries: Callable[[], Tries],
    ) -> None:
        """Use a connection.

        Args:
            stub: The calls.
            control: Makes one control call, with its deadline and errors.
            address: For error texts.
            idle_s: Silence after which a stream counts as broken [s].
            tries: How often a stream is tried again.
        """
        self._stub, self._control, self._address = stub, control, address
        self._idle_s, self._tries = idle_s, tries

    def upload(self, ref: InputRef, file: Path) -> None:
        """Send a file unless the server has it; continues where an earlier try ended.

        Raises:
            CorruptData: It arrives damaged again and again, or it changed meanwhile.
            ServerUnreachable: The connection broke for good.
            InvalidRequest: The server does not take it.
        """
        tries, most = self._tries(), -1
        while True:
            try:
                message = pb.BlobRef(sha256=ref.sha256, bytes=ref.bytes)
                stat = self._control(self._stub.StatBlob, message)
                if stat.committed:
                    return
                if most < stat.bytes <= ref.bytes:
                    most = stat.bytes
                    tries.news()
                if self._send(ref, file, min(stat.bytes, ref.bytes)).committed:
                    return
                error: WorldloomError = CorruptData(
                    f"the server at {self._address} took {file} but does not keep it; try another"
                )
            except (WrongOffset, CorruptData, ServerUnreachable) as failed:
                error = failed
            if isinstance(error, CorruptData) and file_sha256(file) != ref.sha256:
                raise CorruptData(f"{file} changed while it was sent; try again") from error
            if not tries.again(error):
                raise error
            del error  # It holds the broken call; see idle_guard.

    def _send(self, ref: InputRef, file: Path, offset: int) -> pb.BlobStat:
        """Send a file from an offset on; what the server then has of it."""
        ready = threading.Event()
        guards: list[Idle] = []

        def parts() -> Iterator[pb.Part]:
            ready.wait()
            for part in outgoing(ref, file, offset, part_bytes=MIB):
                guards[0].waiting()
                yield part
            # Now the server reads all of it again before it answers.
            guards[0].waiting(ref.bytes / SLOWEST_HASH)

        call = self._stub.WriteBlob.future(parts())
        with idle_guard(call, self._idle_s, self._address) as idle:
            guards.append(idle)
            ready.set()
            return call.result()

    def fetch(self, ref: ArtifactRef, file: Path, *, info: ServerInfo | None = None) -> Path:
        """Bring a blob to `file`, checked; continues a part of it that is there already.

        Args:
            ref: Which blob.
            file: Where to; replaced only by the whole content.
            info: The server, to link instead of copying where it is on this host.

        Raises:
            CorruptData: It arrives damaged again and again, or the server's copy is damaged.
            ServerUnreachable: The server stays away; the part so far is kept.
            StorageFull: No space is left; the part so far is kept.
        """
        check_ref(ref)
        if is_whole(ref, file):
            return file
        part = part_file(ref, file)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if info is not None and take_from_store(info, ref, part):
                part.replace(file)
                return file
        check_space(ref, part)
        try:
            accept(ref, part, file, digest=self._complete(ref, part))
        except DamagedFile:
            # What was here before may have been damaged; a fresh copy says who is to blame.
            accept(ref, part, file, digest=self._complete(ref, part))
        return file

    def fetch_packed(self, ref: ArtifactRef, file: Path) -> Path:
        """Bring a splat blob to `file` as compressed PLY, a third of the bytes and lossy.

        Args:
            ref: The splat layer.
            file: Where to; replaced only by the whole content.

        Raises:
            InvalidRequest: The blob is no splat layer, or the server cannot pack.
            CorruptData: It arrives damaged again and again.
            ServerUnreachable: The server stays away; the part so far is kept.
            StorageFull: No space is left; the part so far is kept.
        """
        check_ref(ref)
        packed = self._packed_ref(ref)
        if is_whole(packed, file):
            return file
        part = part_file(packed, file)
        with storage_errors(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        check_space(packed, part)
        digest = self._complete(packed, part, packed_from=ref.sha256)
        accept(packed, part, file, digest=digest)
        return file

    def _packed_ref(self, ref: ArtifactRef) -> ArtifactRef:
        """What the packed form of a blob is: its own sha256 and size, told by its first byte."""
        request = pb.ReadBlobRequest(sha256=ref.sha256, length=1, encoding=PACKED)
        call = self._stub.ReadBlob(request)
        first = next(messages_of(call, PACKING_S, self._address), None)
        if first is None or not first.sha256:
            raise InvalidRequest(
                f"the server at {self._address} cannot pack splats; fetch them as they are",
                field="encoding",
            )
        packed = replace(ref, sha256=first.sha256, bytes=first.total)
        check_ref(packed)
        return packed

    def _complete(self, ref: ArtifactRef, part: Path, *, packed_from: str = "") -> str | None:
        """Bring a part file to its full size; its sha256 if all of it came now."""
        tries, most = self._tries(), begun(part)
        while begun(part) < ref.bytes or not part.is_file():
            request = pb.ReadBlobRequest(
                sha256=packed_from or ref.sha256, offset=begun(part),
                encoding=PACKED if packed_from else "",
            )  # fmt: skip
            try:
                call = self._stub.ReadBlob(request)
                return incoming(messages_of(call, self._idle_s, self._address), ref, part)
            except (ServerUnreachable, CorruptData) as error:
                if begun(part) > most:
                    most = begun(part)
                    tries.news()
                if not tries.again(error):
                    raise
        return None
