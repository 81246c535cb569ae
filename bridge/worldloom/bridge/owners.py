"""Who may see which blob, and which blobs nobody needs any more.

A row is written only while the blob is whole on disk, and a blob is removed only while no row can
be written: both happen within transactions of the journal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from worldloom.bridge.database import Database
from worldloom.bridge.tables import NAMES_BLOB
from worldloom.scene.errors import CorruptData


class Owners:
    """The table of owners and their blobs, on the journal's database."""

    def __init__(self, database: Database, whole: Callable[[str], bool]) -> None:
        """Use a database.

        Args:
            database: The journal's.
            whole: Tells whether a blob is whole on disk.
        """
        self._db = database
        self._whole = whole

    def add(self, owner: str, sha256: str, size: int) -> None:
        """Note that an owner may see a blob of `size` bytes.

        Raises:
            CorruptData: It is not whole on disk.
        """
        with self._db.transaction():
            if not self._whole(sha256):
                raise CorruptData(
                    f"blob {sha256[:16]}... is gone before the journal could name it; send or "
                    "make it again"
                )
            self._db.execute(
                "INSERT INTO blob_owners (owner, sha256, bytes) VALUES (?,?,?) "
                "ON CONFLICT DO UPDATE SET bytes=excluded.bytes",
                (owner, sha256, size),
            )

    def may_see(self, owner: str, sha256: str) -> bool:
        """Whether an owner uploaded a blob or a job of theirs made it."""
        query = "SELECT 1 FROM blob_owners WHERE owner=? AND sha256=?"
        return self._db.one(query, (owner, sha256)) is not None

    def all_blobs(self) -> set[str]:
        """Digests of all blobs that someone may see."""
        return {row[0] for row in self._db.all("SELECT sha256 FROM blob_owners")}

    def bytes_of(self, owner: str) -> int:
        """Bytes of all blobs that an owner may see."""
        row = self._db.one("SELECT SUM(bytes) FROM blob_owners WHERE owner=?", (owner,))
        return int(row[0] or 0) if row else 0

    def release(self, owner: str, digests: Iterable[str]) -> list[str]:
        """Take blobs from an owner whose jobs no longer need them; those that nobody has now."""
        with self._db.transaction():
            loose = [sha256 for sha256 in digests if not self._needed(owner, sha256)]
            for sha256 in loose:
                self._db.execute(
                    "DELETE FROM blob_owners WHERE owner=? AND sha256=?", (owner, sha256)
                )
            return sorted(sha256 for sha256 in loose if not self._known(sha256))

    def drop(self, sha256: str) -> None:
        """Forget that anybody may see a blob: it is lost."""
        self._db.execute("DELETE FROM blob_owners WHERE sha256=?", (sha256,))

    def remove_unknown(
        self, digests: Iterable[str], remove: Callable[[str], None]
    ) -> list[str]:
        """Remove blobs that nobody may see, and tell which; meanwhile no row can name one."""
        with self._db.transaction():
            gone = [sha256 for sha256 in digests if not self._known(sha256)]
            for sha256 in gone:
                remove(sha256)
            return gone

    def _known(self, sha256: str) -> bool:
        return self._db.one("SELECT 1 FROM blob_owners WHERE sha256=?", (sha256,)) is not None

    def _needed(self, owner: str, sha256: str) -> bool:
        """Whether a job of an owner made or reads a blob."""
        made = self._db.one(
            f"SELECT 1 FROM events JOIN jobs ON name=job WHERE {NAMES_BLOB} AND owner=?",
            (sha256, owner),
        )
        # A digest within the text of a request is the digest of one of its inputs.
        read = made or self._db.one(
            "SELECT 1 FROM jobs WHERE owner=? AND instr(request_json, ?)", (owner, sha256)
        )
        return read is not None
