"""Server on this host: its files are linked or copied instead of sent.

The server names its store and what its nonce file holds. Who can read the same nonce there shares
a disk with it. Files of our own user are hard-linked; the store keeps them read-only and named by
their content, so they are not read again. Files of anybody else are copied and checked.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import shutil
import stat
from pathlib import Path

from worldloom.bridge.messages import ArtifactRef, ServerInfo
from worldloom.bridge.transfer import DIGEST, is_whole

NONCE_BYTES = 128
"""Most bytes of a nonce file that are read."""
FICLONE = 0x40049409
"""Linux's request to share the blocks of a file (btrfs, XFS)."""


def take_from_store(info: ServerInfo, ref: ArtifactRef, part: Path) -> bool:
    """Bring a blob of a server on this host to `part`; False where that is not possible.

    A hard link where blob and store are ours and nobody can write to the blob; a checked copy
    where they belong to another user who lets us read them, or lie on another disk.
    """
    if not DIGEST.fullmatch(ref.sha256) or not shares_disk(info):
        return False
    blob = Path(info.store) / "blobs" / ref.sha256[:2] / ref.sha256
    try:
        found = blob.lstat()
        if not stat.S_ISREG(found.st_mode) or found.st_size != ref.bytes:
            return False
        part.unlink(missing_ok=True)
        if _ours(found) and _ours(Path(info.store).lstat()):
            if found.st_mode & 0o222:
                return False
            with contextlib.suppress(OSError):
                os.link(blob, part)
                return True
        _copy(blob, part)
    except OSError:
        return False
    if is_whole(ref, part):
        return True
    part.unlink()
    return False


def shares_disk(info: ServerInfo) -> bool:
    """Whether the server's store is on a disk of this host: its nonce can be read there."""
    if not info.store or not info.nonce:
        return False
    try:
        # The path comes from the server: a pipe or a device behind it must not hold us up.
        handle = os.open(
            Path(info.store) / "nonce", os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC
        )
    except (OSError, ValueError):
        return False
    with os.fdopen(handle, "rb") as source:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return False
        return hmac.compare_digest(source.read(NONCE_BYTES), info.nonce.encode())


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.getuid()


def _copy(source: Path, target: Path) -> None:
    """Copy a file, sharing its blocks where the file system can."""
    with source.open("rb") as have, target.open("wb") as out:
        with contextlib.suppress(OSError):
            fcntl.ioctl(out.fileno(), FICLONE, have.fileno())
            return
        shutil.copyfileobj(have, out, 1 << 20)
        out.flush()
        os.fsync(out.fileno())
