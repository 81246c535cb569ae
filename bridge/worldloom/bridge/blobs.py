"""A store of immutable files, each named by the sha256 of its content.

Order of writes: bytes to a partial file, fsync, rename to its name, fsync of the folder; only then
may the journal name it. File names are made of hex digits alone, never of what a client sends.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from worldloom.scene.errors import CorruptData, InvalidRequest, NotFound, WrongOffset
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder

DIGEST = re.compile(r"[0-9a-f]{64}")
GARBAGE_AGE_S = 24 * 3600.0
"""Age at which an upload that never ended, or a blob that no job names, is swept away [s]."""
CLOCK_SET_S = 1_704_067_200.0
"""2024-01-01 [s since 1970]; a clock that tells an earlier time has not been set yet."""


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
        self._touched: dict[Path, float] = {}
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
        return _is_own_file(self.path(sha256))

    def size(self, sha256: str) -> int:
        """Bytes of a whole blob.

        Raises:
            NotFound: It is not here.
        """
        return self._existing(sha256).stat().st_size

    def offset(self, owner: str, sha256: str) -> int:
        """Durable bytes of an owner's upload; 0 when there is none."""
        part = self._partial(owner, sha256)
        if not _is_own_file(part):
            part.unlink(missing_ok=True)
            return 0
        with storage_errors(part), part.open("rb") as handle:
            # The offset that is told must survive a power loss.
            os.fsync(handle.fileno())
            sync_folder(part.parent)
            return os.fstat(handle.fileno()).st_size

    def partial_bytes(self, owner: str) -> int:
        """Bytes of all uploads that an owner has begun."""
        files = (self.folder / "partial").glob(f"{_mark(owner)}-*")
        return sum(size for file in files if (size := _size(file)) is not None)

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
        with self._lock, storage_errors(part), open(part, "ab", opener=_no_link) as out:
            have = os.fstat(out.fileno()).st_size
            if have != upload.offset:
                raise _wrong_offset(upload.offset, have)
            out.write(data)
            self._touched[part] = time.monotonic()
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
        written again later, so the blob gets bytes of its own. A damaged blob is replaced.

        Raises:
            StorageFull: No space is left.
        """
        digest = file_sha256(file)
        target = self.path(digest)
        if not _holds(target, file, digest):
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

    def sweep_partial(self, *, now: float | None = None) -> int:
        """Delete what was begun and left behind a day ago; how many files went.

        Args:
            now: The time [s since 1970]; None reads the clock.
        """
        old = [file for file in (self.folder / "partial").iterdir() if self._is_old(file, now)]
        for file in old:
            file.unlink(missing_ok=True)
            self._touched.pop(file, None)
        return len(old)

    def old(self, *, now: float | None = None) -> list[str]:
        """Digests of blobs that were stored a day ago or earlier."""
        return [file.name for file in self._files() if self._is_old(file, now)]

    def names(self) -> list[str]:
        """Digests of all blobs."""
        return [file.name for file in self._files()]

    def is_sound(self, sha256: str) -> bool:
        """Whether a blob is here and its content is what its name says."""
        path = self.path(sha256)
        return _is_own_file(path) and file_sha256(path) == sha256

    def set_aside(self, sha256: str, folder: Path) -> None:
        """Move a damaged blob out of the store, where nobody takes it for the whole one."""
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self.path(sha256).replace(folder / sha256)
            sync_folder(folder)
            sync_folder(self.path(sha256).parent)

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9a-f][0-9a-f]/*"))

    def _existing(self, sha256: str) -> Path:
        path = self.path(sha256)
        if not _is_own_file(path):
            raise NotFound(f"there is no blob {sha256[:16]}...")
        return path

    def _partial(self, owner: str, sha256: str) -> Path:
        self.path(sha256)
        return self.folder / "partial" / f"{_mark(owner)}-{sha256}"

    def _is_old(self, file: Path, now: float | None) -> bool:
        """Whether a file has been left alone for a day.

        Times that no set clock can have written say nothing: the day begins now.
        """
        now = time.time() if now is None else now
        try:
            stat = file.stat()
        except FileNotFoundError:
            return False
        # Renames and links change the second of the two, whatever the first was set to.
        written = max(stat.st_mtime, stat.st_ctime)
        if now < CLOCK_SET_S or time.monotonic() - self._touched.get(file, -1e9) < GARBAGE_AGE_S:
            return False
        if not CLOCK_SET_S <= written <= now:
            os.utime(file)
            return False
        return now - written > GARBAGE_AGE_S

    def _publish(self, part: Path, target: Path) -> None:
        if not target.parent.is_dir():
            target.parent.mkdir(exist_ok=True)
            sync_folder(self.folder)
        with contextlib.suppress(PermissionError):
            # A link to a file of another user cannot be made read-only; its content is checked.
            part.chmod(0o444)
        part.replace(target)
        sync_folder(target.parent)
        self._touched.pop(part, None)


def _mark(owner: str) -> str:
    """What begins the names of an owner's partial files."""
    return hashlib.sha256(owner.encode()).hexdigest()[:16]


def _size(file: Path) -> int | None:
    """Bytes of a file that may vanish meanwhile."""
    try:
        return file.stat().st_size
    except FileNotFoundError:
        return None


def _holds(blob: Path, file: Path, digest: str) -> bool:
    """Whether a blob is there with the content of a file."""
    if _size(blob) != _size(file):
        return False
    return blob.samefile(file) or file_sha256(blob) == digest


def _link_or_copy(source: Path, target: Path, *, link: bool) -> None:
    if link:
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _is_own_file(path: Path) -> bool:
    """Whether this is a file itself: a link could lead anywhere."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise
        return False


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _wrong_offset(offset: int, have: int) -> WrongOffset:
    return WrongOffset(
        f"the upload continues at byte {have}, not {offset}; send from there", offset=have
    )
