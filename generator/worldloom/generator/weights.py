"""Names of public weights -> verified safetensors files on this machine.

Every file is pinned by its hash, both as published and as converted. Nothing is fetched unless the
user asks, and pickled checkpoints are opened only in a child process (architecture page 3.5).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from worldloom.generator.depth.model import WeightsRecord
from worldloom.scene.errors import (
    CorruptData,
    NotFound,
    ServerUnreachable,
    StorageUnwritable,
)

FOLDER_VARIABLE = "WORLDLOOM_WEIGHTS"
GET_SECONDS = 10.0
"""Longest time that `get` takes by default [s]; the demo asks once and must not wait for long."""
CONVERT_SECONDS = 120.0  # Longest time that a conversion takes [s]; importing torch is most of it.
POLL_SECONDS = 0.1  # Time between two looks at a running transfer [s].


@dataclass(frozen=True)
class Weights:
    """One entry of the catalogue."""

    name: str
    title: str
    url: str
    """Where its authors publish it."""
    sha256: str
    """Hash of the published file."""
    bytes: int
    """Size of the published file."""
    licence: str
    research_only: bool
    source: str
    """The page that a person reads about it."""
    note: str
    """What else a user has to know about the terms."""
    converted_sha256: str
    """Hash of the safetensors file that `convert` makes of it, always the same bytes."""

    @property
    def file_name(self) -> str:
        """Name of the safetensors file in the weights folder."""
        return self.name.replace("-", "_") + ".safetensors"

    def record(self) -> WeightsRecord:
        """What a manifest says about these weights."""
        return WeightsRecord(self.name, self.converted_sha256, self.licence, self.research_only)


CATALOGUE = (
    Weights(
        name="tcmonodepth-small",
        title="TCMonoDepth small, relative depth from one view",
        url="https://raw.githubusercontent.com/yu-li/TCMonoDepth/main/weights/_ckpt_small.pt.tar",
        sha256="c7a87f34a432d11b831d9d27c531eaaef90e0282e2f8a7b87c0202b80ad76b2b",
        bytes=914_272,
        licence="MIT",
        research_only=False,
        source="https://github.com/yu-li/TCMonoDepth",
        note="(c) 2021 Yu Li; the terms of its training data are not stated there",
        converted_sha256="5050c53b770d447da65ddacb8d338ab912f14cb1093b82170183fac8bd0a0b08",
    ),
)


def catalogue() -> tuple[Weights, ...]:
    """All weights that this version can use."""
    return CATALOGUE


def lookup(name: str) -> Weights:
    """The catalogue entry called `name`.

    Raises:
        NotFound: There is none; the text lists those that exist.
    """
    for entry in CATALOGUE:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in CATALOGUE)
    raise NotFound(f"no weights are called {name[:80]!r}; known are: {known}")


def weights_folder(folder: Path | None = None) -> Path:
    """`folder`, else `$WORLDLOOM_WEIGHTS`, else the user's cache."""
    if folder is not None:
        return folder
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "worldloom" / "weights"


def find_weights(name: str, folder: Path | None = None) -> Path | None:
    """The safetensors file of `name` in the weights folder, or None; its hash is not read yet."""
    file = weights_folder(folder) / lookup(name).file_name
    return file if file.is_file() else None


def verify(name: str, folder: Path | None = None) -> Path:
    """The safetensors file of `name`, after its hash was compared with the pinned one.

    Raises:
        NotFound: It is not there.
        CorruptData: It has another hash.
    """
    entry, file = lookup(name), find_weights(name, folder)
    if file is None:
        raise NotFound(
            f"weights {name} are not in {weights_folder(folder)}; "
            f"get them with: worldloom weights get {name}"
        )
    found = _sha256(file)
    if found != entry.converted_sha256:
        raise CorruptData(
            f"weights {file} have sha256 {found[:16]}..., expected "
            f"{entry.converted_sha256[:16]}...; delete the file and run: "
            f"worldloom weights get {name}"
        )
    return file


def get(
    name: str,
    folder: Path | None = None,
    *,
    timeout_s: float = GET_SECONDS,
    url: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fetch, check and convert the weights called `name`; at once when they are there already.

    Args:
        name: Entry of the catalogue.
        folder: Where to put the file; the usual folder by default.
        timeout_s: Longest time for the transfer [s].
        url: Another place to fetch the same bytes from (a mirror).
        progress: Called with the bytes that have come and their total.

    Raises:
        NotFound: No such weights.
        ServerUnreachable: The transfer failed or took too long.
        CorruptData: What came is not the published file.
        StorageUnwritable: The folder cannot be written.
    """
    entry = lookup(name)
    if find_weights(name, folder) is not None:
        return verify(name, folder)
    target = weights_folder(folder)
    with _scratch(target) as scratch:
        part = Path(scratch) / "download"
        _fetch(entry, url or entry.url, part, timeout_s, progress)
        return convert(name, part, folder)


def convert(name: str, source: Path, folder: Path | None = None) -> Path:
    """Turn the published file of `name` into the safetensors file of the weights folder.

    Raises:
        NotFound: No such weights, or no such source file.
        CorruptData: The source is not the published file.
        StorageUnwritable: The folder cannot be written.
    """
    entry = lookup(name)
    if not source.is_file():
        raise NotFound(f"there is no file {source} to convert; give the published {entry.url}")
    found = _sha256(source)
    if found != entry.sha256:
        raise CorruptData(
            f"{source} ({source.stat().st_size} bytes) has sha256 {found[:16]}..., the published "
            f"{name} has {entry.sha256[:16]}... ({entry.bytes} bytes). Fetch it again from "
            f"{entry.url}"
        )
    target = weights_folder(folder)
    with _scratch(target) as scratch:
        made = Path(scratch) / "converted"
        _run_child(["convert", name, str(source.resolve()), str(made)], CONVERT_SECONDS, name)
        if _sha256(made) != entry.converted_sha256:
            raise CorruptData(
                f"converting {name} gave sha256 {_sha256(made)[:16]}..., expected "
                f"{entry.converted_sha256[:16]}...; another safetensors version may write other "
                "bytes. Install the versions of constraints.txt"
            )
        os.replace(made, target / entry.file_name)
    return target / entry.file_name


def _scratch(folder: Path) -> tempfile.TemporaryDirectory[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryDirectory(prefix=".part-", dir=folder)
    except OSError as error:
        raise StorageUnwritable(
            f"the weights folder {folder} cannot be written ({error.strerror}); "
            f"set {FOLDER_VARIABLE} to another one"
        ) from error


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _fetch(
    entry: Weights,
    url: str,
    part: Path,
    timeout_s: float,
    progress: Callable[[int, int], None] | None,
) -> None:
    """Download in a child, which is stopped at the deadline whatever it is waiting for."""

    def failure(reason: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"weights {entry.name} cannot be fetched from {url} ({reason}). Check the network, or "
            f"bring the file and run: worldloom weights convert {entry.name} FILE"
        )

    child = _start_child(["fetch", url, str(part), str(entry.bytes)])
    deadline = time.monotonic() + timeout_s
    try:
        while child.poll() is None:
            if time.monotonic() > deadline:
                raise failure(f"no end after {timeout_s:g} s")
            if progress is not None and part.is_file():
                progress(part.stat().st_size, entry.bytes)
            time.sleep(POLL_SECONDS)
    finally:
        if child.poll() is None:
            child.kill()
        _, words = child.communicate()
    if child.returncode != 0:
        raise failure(_last_line(words))
    if progress is not None:
        progress(part.stat().st_size, entry.bytes)


def _start_child(arguments: list[str]) -> subprocess.Popen[bytes]:
    # `-m` finds our package through the same paths as this process did.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-m", "worldloom.generator.weights_child", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def _run_child(arguments: list[str], timeout_s: float, name: str) -> None:
    child = _start_child(arguments)
    try:
        _, words = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise CorruptData(f"converting {name} took more than {timeout_s:g} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode != 0:
        raise CorruptData(f"{name} cannot be converted: {_last_line(words)}")


def _last_line(words: bytes) -> str:
    lines = words.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else "the child process ended without a word"
