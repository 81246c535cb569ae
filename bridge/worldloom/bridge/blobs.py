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
import time
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound, WrongOffset
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
PARTIAL_AGE_S = 24 * 3600.0
"""Age at which an upload that never ended is swept away [s]."""


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
        return part.stat().st_size if part.is_file() else 0

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
        if offset != have:
            raise WrongOffset(
                f"the upload continues at byte {have}, not {offset}; send from there", offset=have
            )
        return Upload(sha256, total, offset)

    def append(self, owner: str, upload: Upload, data: bytes) -> Upload:
        """Add bytes to an upload.

        Raises:
            CorruptData: More bytes than the declared size.
            StorageFull: No space is left; the upload can go on later.
        """
        end = upload.offset + len(data)
        if end > upload.total:
            raise CorruptData(
                f"the upload has {end} bytes, more than the {upload.total} that it declared"
            )
        part = self._partial(owner, upload.sha256)
        with storage_errors(part), part.open("ab") as out:
            out.write(data)
        return Upload(upload.sha256, upload.total, end)

    def commit_upload(self, owner: str, upload: Upload) -> None:
        """Make a complete upload a blob.

        Raises:
            CorruptData: Its content is not what its name says; it is thrown away.
        """
        part = self._partial(owner, upload.sha256)
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

    def adopt(self, file: Path) -> tuple[str, int]:
        """Make a finished file of ours a blob, by hard link where possible; digest and size.

        Raises:
            StorageFull: No space is left.
        """
        digest = file_sha256(file)
        target = self.path(digest)
        if not target.is_file():
            part = self.folder / "partial" / f"adopt-{os.getpid()}-{digest}"
            part.unlink(missing_ok=True)
            with storage_errors(target):
                try:
                    os.link(file, part)
                except OSError:
                    shutil.copyfile(file, part)
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

    def sweep(self, now: float | None = None) -> int:
        """Delete uploads that were left behind; how many."""
        now = time.time() if now is None else now
        old = [p for p in (self.folder / "partial").iterdir()
               if now - p.stat().st_mtime > PARTIAL_AGE_S]  # fmt: skip
        for part in old:
            part.unlink(missing_ok=True)
        return len(old)

    def check(self) -> list[str]:
        """Blobs whose content no longer matches their name, one line each."""
        return [
            f"{file.name}: content does not match its name"
            for file in sorted(self.folder.glob("[0-9a-f][0-9a-f]/*"))
            if file_sha256(file) != file.name
        ]

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
