"""Names of public weights -> verified safetensors files on this machine.

Small files are pinned by their hash, both as published and as converted. The large networks of
`weights_network` are compared tensor by tensor with what the network expects. Nothing is fetched
unless the user asks, and pickles are opened only in a child process (architecture page 3.5).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from worldloom.generator import weights_network
from worldloom.generator.weights_catalogue import CATALOGUE, Weights
from worldloom.generator.weights_network import last_line, start_child
from worldloom.scene.errors import (
    CorruptData,
    InvalidRequest,
    NotFound,
    ServerUnreachable,
    StorageUnwritable,
)

FOLDER_VARIABLE = "WORLDLOOM_WEIGHTS"
GET_SECONDS = 10.0
"""Longest time that `get` takes by default [s]; the demo asks once and must not wait for long."""
CONVERT_SECONDS = 120.0  # Longest time that a conversion takes [s]; importing torch is most of it.
POLL_SECONDS = 0.1  # Time between two looks at a running transfer [s].


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

    The hash of a network is pinned when it is converted.

    Raises:
        NotFound: It is not there.
        CorruptData: It has another hash.
    """
    entry, file = lookup(name), find_weights(name, folder)
    if file is None:
        way = f"convert {name} SOURCE" if entry.kind else f"get {name}"
        raise NotFound(
            f"weights {name} are not in {weights_folder(folder)}; "
            f"get them with: worldloom weights {way}"
        )
    found = sha256_of(file)
    if entry.kind:
        weights_network.check_hash(entry, file, found)
        return file
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
        InvalidRequest: They are a network, which is not fetched by us.
        ServerUnreachable: The transfer failed or took too long.
        CorruptData: What came is not the published file.
        StorageUnwritable: The folder cannot be written.
    """
    entry = lookup(name)
    if find_weights(name, folder) is not None:
        return verify(name, folder)
    if entry.kind:
        raise InvalidRequest(
            f"{name} ({entry.licence}) is not fetched by this command, because its terms are "
            f"accepted where it is published: {entry.source}. Bring it and run: "
            f"worldloom weights convert {name} SOURCE"
        )
    target = weights_folder(folder)
    with _scratch(target) as scratch:
        part = Path(scratch) / "download"
        _fetch(entry, url or entry.url, part, timeout_s, progress)
        return convert(name, part, folder)


def convert(
    name: str,
    source: Path,
    folder: Path | None = None,
    *,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """Turn the published file or folder of `name` into the safetensors file of the weights folder.

    Args:
        name: Entry of the catalogue.
        source: As published.
        folder: Where to put the file; the usual folder by default.
        config: Sizes of a network that are not those of the release.

    Raises:
        NotFound: No such weights, or no such source file.
        CorruptData: The source is not the published file, or no checkpoint.
        EngineFailed: Its tensors are not those of the network.
        StorageFull: The disk has not enough room.
        StorageUnwritable: The folder cannot be written.
    """
    entry = lookup(name)
    if entry.kind:
        target = weights_folder(folder)
        with _scratch(target) as scratch:
            made = weights_network.convert_in(Path(scratch), entry, source, config)
            return weights_network.keep(made, target / entry.file_name)
    if not source.is_file():
        raise NotFound(f"there is no file {source} to convert; give the published {entry.url}")
    found = sha256_of(source)
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
        if sha256_of(made) != entry.converted_sha256:
            raise CorruptData(
                f"converting {name} gave sha256 {sha256_of(made)[:16]}..., expected "
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


def sha256_of(file: Path) -> str:
    """Hash of a file's bytes."""
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

    child = start_child(["fetch", url, str(part), str(entry.bytes)])
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
        raise failure(last_line(words))
    if progress is not None:
        progress(part.stat().st_size, entry.bytes)


def _run_child(arguments: list[str], timeout_s: float, name: str) -> None:
    child = start_child(arguments)
    try:
        _, words = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise CorruptData(f"converting {name} took more than {timeout_s:g} s") from error
    finally:
        if child.poll() is None:
            child.kill()
            child.communicate()
    if child.returncode != 0:
        raise CorruptData(f"{name} cannot be converted: {last_line(words)}")
