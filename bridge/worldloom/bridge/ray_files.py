"""Files between the store and a node that does not see it, in parts over Ray's object store.

Inputs, and what earlier runs left, go to the node before a job. A finished file comes back before
anyone hears of it, so that the journal names only what is whole here. The job's own folder comes
back when the job rests; a node that is lost before takes it along, and the job begins again.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.gpu_host import Stamp, read_part, stamps, write_part
from worldloom.bridge.worker_process import Specification
from worldloom.scene.errors import CorruptData
from worldloom.scene.limits import Limits


class Courier:
    """Carries the files of one job to the node of an actor and back."""

    def __init__(self, actor: Any, specification: Specification, own: str) -> None:
        """Prepare to carry.

        Args:
            actor: A `GpuHost`.
            specification: The job, with paths of the server.
            own: Folder of the actor on its node.
        """
        self._actor, self._here = actor, specification
        self._store = Path(specification.store)
        self._work = Path(specification.work)
        self._root = f"{own}/{self._work.parent.name}"

    async def deliver(self) -> Specification:
        """Bring everything to the node; the job with the paths that hold there."""
        work = str(self._work.relative_to(self._store))
        sources = [Path(path) for path in self._here.inputs.values()]
        # What is on the node is at least as new as what came back from it.
        if not await self._actor.listing.remote(self._root, work):
            sources.append(self._work)
        wanted: dict[str, Stamp] = {}
        for source in sources:
            wanted |= await asyncio.to_thread(_stamps_of, self._store, source)
        for name in await self._actor.lacking.remote(self._root, work, wanted):
            await self._push(name, wanted[name])
        return replace(
            self._here, store=self._root, work=self._there(self._work),
            inputs={role: self._there(Path(p)) for role, p in self._here.inputs.items()},
        )  # fmt: skip

    async def fetch_blob(self, sha256: str, size: int) -> None:
        """Bring a finished file into the store.

        Raises:
            CorruptData: It is not what its name says.
            StorageFull: No space is left.
        """
        blobs = Blobs(self._store / "blobs", Limits())
        if blobs.has(sha256):
            return
        # Named by its content, so that it becomes a blob by a link.
        file = self._store / "blobs" / "partial" / sha256
        await self._pull(self._there(blobs.path(sha256)), file, (size, 0))
        digest, _ = await asyncio.to_thread(blobs.adopt, file)
        file.unlink()
        if digest != sha256:
            raise CorruptData(f"blob {sha256[:16]}... came from its node as {digest[:16]}...")

    async def fetch_work(self) -> None:
        """Bring the job's folder back as a whole, in place of the one that is here."""
        folder = str(self._work.relative_to(self._store))
        there = await self._actor.listing.remote(self._root, folder)
        here = await asyncio.to_thread(stamps, self._store, self._work)
        coming = self._work.with_name("work.coming")
        await asyncio.to_thread(shutil.rmtree, coming, ignore_errors=True)
        coming.mkdir(parents=True)
        for name, stamp in there.items():
            target = coming / Path(name).relative_to(folder)
            if here.get(name) == stamp:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.link(self._store / name, target)
            else:
                await self._pull(f"{self._root}/{name}", target, stamp)
        await asyncio.to_thread(_swap, coming, self._work)
        await self._actor.forget.remote(self._root)

    async def _push(self, name: str, stamp: Stamp) -> None:
        offset = 0
        while True:
            data = await asyncio.to_thread(read_part, self._store / name, offset)
            await self._actor.put.remote(f"{self._root}/{name}", offset, data, stamp)
            offset += len(data)
            if offset >= stamp[0]:
                return

    async def _pull(self, source: str, target: Path, stamp: Stamp) -> None:
        offset = 0
        while True:
            data = await self._actor.get.remote(source, offset)
            await asyncio.to_thread(write_part, target, offset, data, stamp)
            offset += len(data)
            if offset >= stamp[0] or not data:
                return

    def _there(self, path: Path) -> str:
        return f"{self._root}/{path.relative_to(self._store)}"


def _stamps_of(store: Path, source: Path) -> dict[str, Stamp]:
    """One file, or all below a folder."""
    if source.is_dir():
        return stamps(store, source)
    stat = source.stat()
    return {str(source.relative_to(store)): (stat.st_size, stat.st_mtime_ns)}


def _swap(coming: Path, place: Path) -> None:
    """Put a folder in the place of another one."""
    old = place.with_name("work.old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    coming.rename(place)
    shutil.rmtree(old, ignore_errors=True)
