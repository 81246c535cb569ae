"""Splat blobs as compressed PLY for slow links: made on demand in a child, kept for a while.

The front knows no USD: a short-lived worker process reads the layer, by a name that is resolved
there, and writes the packed file. The same blob gives the same bytes; they have a sha256 of their
own, which readers are told. What is kept here can be thrown away at any time.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.messages import PACKED
from worldloom.bridge.worker_process import start_process
from worldloom.scene.errors import EngineFailed, InvalidRequest
from worldloom.scene.limits import GIB
from worldloom.scene.worldfolder import file_sha256, storage_errors, sync_folder

READ_SPLATS = "worldloom.generator.layers.read:read_splat_layer"
PACK_S = 60.0  # A layer of 250,000 splats takes a second [s].
KEPT_BYTES = 2 * GIB
"""Packed files that are kept; the oldest go first."""


@dataclass(frozen=True)
class PackedFile:
    """A packed blob."""

    file: Path
    sha256: str
    bytes: int


class Packing:
    """The packed files of one store."""

    def __init__(self, blobs: Blobs, store: Path, *, target: str = READ_SPLATS) -> None:
        """Use a store.

        Args:
            blobs: Its blobs.
            store: Its folder.
            target: `module:function` that reads a layer file as Splats, inside a worker.
        """
        self._blobs, self._folder, self._log = blobs, store / PACKED, store / "worker.log"
        self._target = target
        self._turns: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        # One at a time: packing must not take the machine from the jobs.
        self._one = asyncio.Semaphore(1)

    async def packed(self, sha256: str, io: Callable[..., Any]) -> PackedFile:
        """A blob as compressed PLY, made now or earlier.

        Args:
            sha256: The blob, which the caller may see.
            io: Runs blocking calls off the event loop.

        Raises:
            InvalidRequest: It is no splat layer.
            EngineFailed: It takes too long, or no process can be started.
            StorageFull: No space is left.
        """
        async with self._turns[sha256]:
            found = await io(self._find, sha256)
            if found is None:
                async with self._one:
                    found = await self._make(sha256, io)
        self._turns.pop(sha256, None)
        return found

    async def _make(self, sha256: str, io: Callable[..., Any]) -> PackedFile:
        source, output = await io(self._prepare, sha256)
        try:
            await self._ask(sha256, source, output)
            return await io(self._keep, sha256, output)
        finally:
            source.unlink(missing_ok=True)
            output.unlink(missing_ok=True)

    async def _ask(self, sha256: str, source: Path, output: Path) -> None:
        """Let a child pack a layer."""
        question = {"pack": self._target, "source": str(source), "output": str(output)}
        try:
            process = await start_process(self._log)
        except OSError as error:
            raise EngineFailed(f"no process can be started ({error})") from error
        try:
            line = json.dumps(question).encode() + b"\n"
            out, _ = await asyncio.wait_for(process.communicate(line), PACK_S)
        except TimeoutError as error:
            raise EngineFailed(f"packing a blob took more than {PACK_S:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        said = [json.loads(text) for text in out.splitlines()]
        if {"type": "packed"} not in said:
            why = next((body["text"] for body in said if body["type"] == "error"), "it ended early")
            raise InvalidRequest(
                f"blob {sha256[:16]}... is no splat layer that can be packed ({why}); read it "
                "as it is",
                field="encoding",
            )

    def _find(self, sha256: str) -> PackedFile | None:
        for file in self._folder.glob(f"{sha256}.*.ply"):
            os.utime(file)
            return PackedFile(file, file.name.split(".")[1], file.stat().st_size)
        return None

    def _prepare(self, sha256: str) -> tuple[Path, Path]:
        """The blob under a name that tells its format, and where the packed file goes."""
        blob = self._blobs.path(sha256)
        with blob.open("rb") as handle:
            suffix = ".usdc" if handle.read(8) == b"PXR-USDC" else ".usda"
        with storage_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            self._prune()
            source = self._folder / f"{sha256}{suffix}"
            source.unlink(missing_ok=True)
            os.link(blob, source)
        return source, self._folder / f"{sha256}.part"

    def _keep(self, sha256: str, output: Path) -> PackedFile:
        digest = file_sha256(output)
        file = self._folder / f"{sha256}.{digest}.ply"
        with storage_errors(file):
            output.replace(file)
            sync_folder(self._folder)
        return PackedFile(file, digest, file.stat().st_size)

    def _prune(self) -> None:
        """Throw away what belongs to no blob any more, and the oldest above the limit."""
        kept = 0
        for file in sorted(self._folder.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True):
            kept += file.stat().st_size
            if kept > KEPT_BYTES or not self._blobs.has(file.name.split(".")[0]):
                file.unlink()
