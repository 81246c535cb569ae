"""Who may use a server beyond this machine: a file of owners and the hashes of their tokens.

One line for each token, `OWNER SHA256`; lines that begin with # are comments. The token itself is
told once, when it is made, and kept nowhere on the server.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from worldloom.bridge.channel import read_private
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.worldfolder import storage_errors, sync_folder

OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
TOKEN_BYTES = 32
"""Random bytes of a token; so many cannot be guessed, and need no slow hash."""
LONGEST_TOKEN = 512
HEADER = "# worldloom tokens: owner and sha256 of the token, one a line\n"


@dataclass(frozen=True)
class Entry:
    """One token."""

    owner: str
    digest: bytes
    """sha256 of the token."""


class Tokens:
    """The tokens of one server."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = tuple(entries)

    def __len__(self) -> int:
        return len(self._entries)

    @classmethod
    def read(cls, file: Path) -> Tokens:
        """Read a file of tokens.

        Raises:
            InvalidRequest: It cannot be read, others can read it too, or a line is no entry.
        """
        text = read_private(file, "token file").decode("utf-8", "replace")
        lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
        entries = [_entry(file, n, line) for n, line in lines if line and not line.startswith("#")]
        if not entries:
            raise InvalidRequest(
                f"{file} holds no token, so nobody could use the server; make one with "
                f"'worldloom serve --new-token OWNER --tokens {file}'"
            )
        return cls(entries)

    def owner(self, token: str) -> str | None:
        """Whose token this is; takes equally long whether and where it is found."""
        digest = hashlib.sha256(token[:LONGEST_TOKEN].encode()).digest()
        found = None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.owner
        return found


def add_token(file: Path, owner: str) -> str:
    """Make a token, add its hash to a file that only we can read, and return it.

    An owner may have several tokens: so one is replaced without a gap.

    Raises:
        InvalidRequest: The owner's name is not possible, or the file is not safe.
        StorageUnwritable: The file cannot be written.
    """
    if not OWNER.fullmatch(owner):
        raise InvalidRequest(
            f"{owner[:80]!r} is no owner; use 1 to 64 letters, digits and . _ @ + -"
        )
    before = read_private(file, "token file").decode() if file.exists() else HEADER
    if before and not before.endswith("\n"):
        before += "\n"
    token = secrets.token_urlsafe(TOKEN_BYTES)
    line = f"{owner} {hashlib.sha256(token.encode()).hexdigest()}\n"
    _write_private(file, (before + line).encode())
    return token


def _write_private(file: Path, data: bytes) -> None:
    """Replace a file by one that was never anybody else's to read."""
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with storage_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
        sync_folder(file.parent)


def _entry(file: Path, number: int, line: str) -> Entry:
    owner, _, digest = line.partition(" ")
    if not (OWNER.fullmatch(owner) and re.fullmatch(r"[0-9a-f]{64}", digest.strip())):
        raise InvalidRequest(
            f"line {number} of {file} is not 'OWNER SHA256'; make lines with "
            f"'worldloom serve --new-token OWNER --tokens {file}'"
        )
    return Entry(owner, bytes.fromhex(digest.strip()))
