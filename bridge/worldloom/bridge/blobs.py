"""A store of immutable files, each named by the sha256 of its content.

Order of writes: bytes to a partial file, fsync, rename to its name, fsync of the folder; only then
may the journal name it. File names are made of hex digits alone, never of what a client sends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound, WrongOffset
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
GARBAGE_AGE_S = 24 * 3600.0
"""Age at which an upload that never ended, or a blob that no job names, is swept away [s]."""


@dataclass(frozen=True)
class Upload:
    """An upload in progress."""

    sha256: str
    total: int
    offset: int
    """Durable bytes so far."""


class Blobs:
    """The blob store of one server."""

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        with storage_errors(folder):
            (folder / "partial").mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Where a blob lies when it is whole.

        Raises:
            InvalidRequest: That is no digest.
        """
        if not DIGEST.fullmatch(sha256):
            raise InvalidRequest(
                f"{sha256[:80]!r} is no blob name; 64 lower-case hex digits are needed"
            )
        return self.folder / sha256[:2] / sha256

    def has(self, sha256: str) -> bool:
        """Whether the whole blob is here."""
        return self.path(sha256).is_file()

    def size(self, sha256: str) -> int:
        """Bytes of a whole blob.

        Raises:
            NotFound: It is not here.
        """
        return self._existing(sha256).stat().st_size

    def offset(self, owner: str, sha256: str) -> int:
        """Durable bytes of an owner's upload; 0 when there is none."""
        part = self._partial(owner, sha256)
        if not part.is_file():
            return 0
        with storage_errors(part), part.open("rb") as handle:
            # The offset that is told must survive a power loss.
            os.fsync(handle.fileno())
            return os.fstat(handle.fileno()).st_size

    def begin(self, owner: str, sha256: str, total: int, offset: int) -> Upload:
        """Start or continue an upload.

        Raises:
            InvalidRequest: The size is not possible.
            WrongOffset: It must continue elsewhere; the error tells where.
        """
        if not 0 < total <= self._limits.blob_bytes:
            raise InvalidRequest(
                f"the blob has {total} bytes; 1 to {self._limits.blob_bytes} are possible"
            )
        have = self.offset(owner, sha256)
        if have > total:
            # An earlier try declared another size; one of the two is wrong, so start again.
            self._partial(owner, sha256).unlink(missing_ok=True)
            have = 0
        if offset != have:
            raise _wrong_offset(offset, have)
        return Upload(sha256, total, offset)

    def append(self, owner: str, upload: Upload, data: bytes) -> Upload:
        """Add bytes to an upload.

        Raises:
            CorruptData: More bytes than the declared size.
            WrongOffset: Another stream sent bytes of the same upload meanwhile.
            StorageFull: No space is left; the upload can go on later.
        """
        end = upload.offset + len(data)
        if end > upload.total:
            raise CorruptData(
                f"the upload has {end} bytes, more than the {upload.total} that it declared"
            )
        part = self._partial(owner, upload.sha256)
        with self._lock, storage_errors(part), part.open("ab") as out:
            have = os.fstat(out.fileno()).st_size
            if have != upload.offset:
                raise _wrong_offset(upload.offset, have)
            out.write(data)
        return Upload(upload.sha256, upload.total, end)

    def commit_upload(self, owner: str, upload: Upload) -> None:
        """Make a complete upload a blob.

        Raises:
            CorruptData: Its content is not what its name says; it is thrown away.
        """
        part = self._partial(owner, upload.sha256)
        try:
            with storage_errors(part):
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())
                digest = file_sha256(part)
                if digest != upload.sha256:
                    part.unlink()
                    raise CorruptData(
                        f"the upload's content has sha256 {digest[:16]}..., its name says "
                        f"{upload.sha256[:16]}...; it was damaged on the way. Send it again"
                    )
                self._publish(part, self.path(upload.sha256))
        except FileNotFoundError as error:
            # Two streams of one upload ended together, and the other one committed it first.
            if not self.has(upload.sha256):
                raise _wrong_offset(upload.offset, 0) from error

    def adopt(self, file: Path) -> tuple[str, int]:
        """Make a finished file of ours a blob; digest and size.

        A file that is named by its content is hard-linked where possible; any other may be
        written again later, so the blob gets bytes of its own.

        Raises:
            StorageFull: No space is left.
        """
        digest = file_sha256(file)
        target = self.path(digest)
        if not target.is_file() or target.stat().st_size != file.stat().st_size:
            part = self.folder / "partial" / f"adopt-{os.getpid()}-{digest}"
            part.unlink(missing_ok=True)
            with storage_errors(target):
                _link_or_copy(file, part, link=file.stem == digest)
                with part.open("rb") as handle:
                    os.fsync(handle.fileno())
                self._publish(part, target)
        return digest, target.stat().st_size

    def read(self, sha256: str, offset: int, length: int) -> bytes:
        """Bytes of a blob.

        Raises:
            NotFound: It is not here.
        """
        with self._existing(sha256).open("rb") as source:
            source.seek(offset)
            return source.read(length)

    def remove(self, sha256: str) -> None:
        """Delete a blob."""
        self.path(sha256).unlink(missing_ok=True)

    def sweep(self, known: Collection[str], *, now: float | None = None) -> int:
        """Delete what was left behind: old partial files, and old blobs that nobody knows.

        Args:
            known: Digests that the journal names.
            now: The time [s since 1970]; None reads the clock.

        Returns:
            How many files went.
        """
        now = time.time() if now is None else now
        candidates = [*(self.folder / "partial").iterdir(), *self._files()]
        old = [
            file
            for file in candidates
            if file.name not in known and now - file.stat().st_mtime > GARBAGE_AGE_S
        ]
        for file in old:
            file.unlink(missing_ok=True)
        return len(old)

    def check(self) -> list[str]:
        """Blobs whose content no longer matches their name, one line each."""
        return [
            f"{file.name}: content does not match its name"
            for file in self._files()
            if file_sha256(file) != file.name
        ]

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9a-f][0-9a-f]/*"))

    def _existing(self, sha256: str) -> Path:
        path = self.path(sha256)
        if not path.is_file():
            raise NotFound(f"there is no blob {sha256[:16]}...")
        return path

    def _partial(self, owner: str, sha256: str) -> Path:
        self.path(sha256)
        mark = hashlib.sha256(owner.encode()).hexdigest()[:16]
        return self.folder / "partial" / f"{mark}-{sha256}"

    def _publish(self, part: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):
            # A link to a file of another user cannot be made read-only; its content is checked.
            part.chmod(0o444)
        part.replace(target)
        sync_folder(target.parent)


def _link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _wrong_offset(offset: int, have: int) -> WrongOffset:
    return WrongOffset(
        f"the upload continues at byte {have}, not {offset}; send from there", offset=have
    )
