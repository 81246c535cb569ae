"""The Ray actor: runs jobs in a process of its node, in the store or in a folder of its own."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from importlib import metadata
from pathlib import Path
from typing import Any

from worldloom.bridge.coalesce import batches
from worldloom.bridge.pool import LocalPool, Recycling
from worldloom.bridge.worker_process import Patience, Specification

MARK = "ray-mark"
"""File in both shared folders of the store by which an actor proves that it sees the same ones."""
SHARED = ("blobs", "jobs")  # The journal may be on a disk of the server alone.
PROGRESS_S = 2.0  # Between two messages that tell of nothing but progress [s].
PART = 32 << 20  # Bytes of a file that travel in one message.

Stamp = tuple[int, int]
"""Size [bytes] and time of change [ns] of a file: what has both is taken for the same."""


class GpuHost:
    """Runs one job at a time in a process of the node that Ray placed it on."""

    def __init__(
        self, store: str, mark: str, patience: Patience | None, recycling: Recycling | None
    ) -> None:
        """Look whether this node sees the store.

        Args:
            store: Folder of the store on the server's machine.
            mark: What the files `MARK` hold there.
            patience: How long the process may take.
            recycling: When it is replaced.
        """
        files = [Path(store) / folder / MARK for folder in SHARED]
        self._sees = all(file.is_file() and file.read_text() == mark for file in files)
        # A later actor of the same server on this node finds what a lost one had made.
        self._own = Path(tempfile.gettempdir()) / f"worldloom-{os.getuid()}" / mark
        if not self._sees:
            self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = (Path(store) if self._sees else self._own) / "worker.log"
        self._pool = LocalPool(("",), log, patience=patience, recycling=recycling)
        self._one = asyncio.Lock()
        self._worker: Any = None

    async def hello(self) -> dict[str, Any]:
        """What the server needs to know before it sends a job."""
        return {
            "version": metadata.version("worldloom"), "sees": self._sees, "pid": os.getpid(),
            "node": os.uname().nodename, "own": str(self._own),
        }  # fmt: skip

    async def run(self, specification: Specification) -> AsyncIterator[list[dict[str, Any]]]:
        """The events of a job, some at a time: every message costs the server the same."""
        async with self._one:  # A job that nobody listens to any more may still be ending.
            self._worker = worker = self._pool.take(specification)
            try:
                if why := await worker.start():
                    yield [{"type": "lost", "text": why}]
                    return
                async with aclosing(batches(worker.events(), every_s=PROGRESS_S)) as news:
                    async for batch in news:
                        yield batch
            finally:
                self._worker = None
                await worker.close()

    async def stop(self) -> None:
        """Ask the present job to stop, and make sure that it does."""
        if self._worker is not None:
            await self._worker.stop()

    async def lacking(self, root: str, work: str, wanted: Mapping[str, Stamp]) -> list[str]:
        """Make the work folder; which files are not below `root` as they should be."""
        (Path(root) / work).mkdir(parents=True, exist_ok=True)
        have = await self.listing(root, "")
        return [name for name, stamp in wanted.items() if have.get(name) != stamp]

    async def listing(self, root: str, folder: str) -> dict[str, Stamp]:
        """All files below a folder of `root`, by their name from `root`."""
        return await asyncio.to_thread(stamps, Path(root), Path(root) / folder)

    async def put(self, file: str, offset: int, data: bytes, stamp: Stamp) -> None:
        """Take a part of a file; with the last one it is there."""
        await asyncio.to_thread(write_part, Path(file), offset, data, stamp)

    async def get(self, file: str, offset: int) -> bytes:
        """A part of a file."""
        return await asyncio.to_thread(read_part, Path(file), offset)

    async def forget(self, root: str) -> None:
        """Delete a folder of this actor."""
        await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)


def stamps(root: Path, folder: Path) -> dict[str, Stamp]:
    """Files below `folder`, by their name from `root`."""
    found = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            stat = file.stat()
            found[str(file.relative_to(root))] = (stat.st_size, stat.st_mtime_ns)
    return found


def read_part(file: Path, offset: int) -> bytes:
    """Bytes of a file, at most PART of them."""
    with file.open("rb") as source:
        source.seek(offset)
        return source.read(PART)


def write_part(file: Path, offset: int, data: bytes, stamp: Stamp) -> None:
    """Add a part; the file appears, with its stamp, when it is whole."""
    part = file.with_name(file.name + ".part")
    file.parent.mkdir(parents=True, exist_ok=True)
    with part.open("r+b" if offset else "wb") as out:
        out.seek(offset)
        out.write(data)
    if offset + len(data) >= stamp[0]:
        os.utime(part, ns=(stamp[1], stamp[1]))
        part.replace(file)
