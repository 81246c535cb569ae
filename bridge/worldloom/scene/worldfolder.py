"""A world on disk: immutable files by content, and revisions that appear whole or not at all.

Order of writes: immutable files first, then the revision files one by one (.part, fsync, rename)
with manifest.json last, so that whoever opens the folder at any moment finds a manifest whose
files are all there. Revision k is also kept under `.revisions/k`: a revert restores k - 1.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from worldloom.scene.errors import CorruptData, NotFound, StorageFull, StorageUnwritable
from worldloom.scene.limits import MIB
from worldloom.scene.manifest import Manifest

MANIFEST, WORLD, REVISIONS = "manifest.json", "world.usda", ".revisions"


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's storage errors into ours, naming `path`.

    Raises:
        StorageFull: No space or quota is left.
        StorageUnwritable: The place cannot be written.
    """
    try:
        yield
    except OSError as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        if error.errno in full:
            raise StorageFull(
                f"no space left while writing {path} ({error.strerror}); free some space and run "
                "the same command again, it continues"
            ) from error
        unwritable = (
            errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST
        )  # fmt: skip
        if error.errno in unwritable:
            raise StorageUnwritable(
                f"cannot write {path} ({error.strerror}); choose another folder or fix its "
                "permissions"
            ) from error
        raise


def make_folder(folder: Path) -> Path:
    """Make `folder` and prove that it can be written.

    Raises:
        StorageUnwritable: It cannot be made or written.
        StorageFull: No space is left.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    return folder


def write_whole(file: Path, data: bytes) -> None:
    """Write a file so that it is either the old one or all of the new one, even after a crash.

    Raises:
        StorageFull: No space is left; the old file is untouched.
        StorageUnwritable: The place cannot be written.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            part.replace(file)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def file_sha256(file: Path) -> str:
    """The sha256 of a file in hex, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while block := source.read(MIB):
            digest.update(block)
    return digest.hexdigest()


def put_immutable(folder: Path, path: str, source: Path) -> Path:
    """Place `source` at `path` in the world unless it is there; the source stays.

    Raises:
        StorageFull: No space is left.
        StorageUnwritable: The place cannot be written.
    """
    target = folder / path
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return target
    copy_whole(source, target)
    return target


def copy_whole(source: Path, target: Path) -> None:
    """Copy a file so that the target is either the old one or all of the new one.

    Raises:
        StorageFull: No space is left; the old file is untouched.
        StorageUnwritable: The place cannot be written.
    """
    part = target.with_name(f"{target.name}.{os.getpid()}.part")
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, part)
            with part.open("rb") as handle:
                os.fsync(handle.fileno())
            part.replace(target)
        except OSError:
            part.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)


def write_revision(folder: Path, files: Mapping[str, bytes | Path], *, revision: int) -> None:
    """Make one revision current: `files` by path in the world, manifest.json among them.

    A file is given as its bytes, or as a path to copy it from.

    A copy goes to `.revisions/<revision>` first, then the current files are replaced one by one
    with the manifest last.

    Raises:
        CorruptData: There is no manifest among the files.
        StorageFull: No space is left; the previous revision stays current.
        StorageUnwritable: The place cannot be written.
    """
    if MANIFEST not in files:
        raise CorruptData(f"a revision needs {MANIFEST}; got {', '.join(sorted(files))}")
    names = sorted(files, key=lambda name: (name == MANIFEST, name == WORLD, name))
    kept = folder / REVISIONS / f"{revision:04d}"
    for place in (kept, folder):
        for name in names:
            content = files[name]
            if isinstance(content, Path):
                copy_whole(content, place / name)
            else:
                write_whole(place / name, content)


def revert(folder: Path) -> int:
    """Restore the revision before the current one and return its number.

    Raises:
        NotFound: There is no earlier revision.
    """
    kept = sorted(p for p in (folder / REVISIONS).glob("[0-9]*") if (p / MANIFEST).exists())
    if len(kept) < 2:
        raise NotFound(f"{folder} has no earlier revision to go back to")
    files = {
        str(file.relative_to(kept[-2])): file.read_bytes()
        for file in sorted(kept[-2].rglob("*"))
        if file.is_file()
    }
    number = int(kept[-2].name)
    write_revision(folder, files, revision=number)
    shutil.rmtree(kept[-1])
    return number


def open_world(folder: Path) -> Manifest:
    """Read the manifest of a world folder.

    Raises:
        NotFound: The folder holds no world.
        CorruptData: The manifest cannot be read.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise NotFound(
            f"{folder} holds no world ({MANIFEST} is missing); make one with 'worldloom generate'"
        )
    return Manifest.from_bytes(file.read_bytes())


def check_files(folder: Path, manifest: Manifest, *, hashes: bool = True) -> list[str]:
    """What is missing or damaged in a world folder, one line each; empty when all is well."""
    problems = []
    for entry in manifest.files:
        file = folder / entry.path
        if not file.is_file():
            problems.append(f"{entry.path}: missing")
        elif file.stat().st_size != entry.bytes:
            problems.append(f"{entry.path}: {file.stat().st_size} bytes, expected {entry.bytes}")
        elif hashes and file_sha256(file) != entry.sha256:
            problems.append(f"{entry.path}: content does not match its sha256")
    return problems
