"""One SQLite file that survives crashes: write-ahead log, synchronous FULL, errors of our own.

A commit is on the disk before it returns. What SQLite says about full disks and damaged pages
becomes StorageFull and CorruptData, whoever runs into it.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from worldloom.scene.errors import CorruptData, StorageFull, WorldloomError
from worldloom.scene.worldfolder import storage_errors, sync_folder

DISK_FAULTS = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)
DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Database:
    """A file of tables. It may be used from any thread; transactions exclude each other."""

    def __init__(self, file: Path, schema: str, later: Mapping[str, Mapping[str, str]]) -> None:
        """Open or make the file.

        Args:
            file: The database.
            schema: Statements that make what is not there.
            later: Columns by table that older files lack, with their type.

        Raises:
            CorruptData: It cannot be read.
            StorageFull: It cannot be written.
        """
        self.file = Path(file)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        try:
            with self._errors():
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(schema)
                self._add_columns(later)
        except WorldloomError:
            self._db.close()
            raise

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def execute(self, query: str, values: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one statement; within a transaction, or where its result is not read by others."""
        with self._lock, self._errors():
            return self._db.execute(query, tuple(values))

    def one(self, query: str, values: Iterable[Any] = ()) -> tuple[Any, ...] | None:
        """The first row of a query."""
        with self._lock, self._errors():
            return self._db.execute(query, tuple(values)).fetchone()

    def all(self, query: str, values: Iterable[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query."""
        with self._lock, self._errors():
            return self._db.execute(query, tuple(values)).fetchall()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """One transaction; inner ones join the outer one.

        Raises:
            StorageFull: The disk is full; nothing of the transaction is kept.
            CorruptData: The file is damaged.
        """
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            try:
                with self._errors():
                    self._db.execute("BEGIN IMMEDIATE")
                    yield
                    self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, one line each; empty when it is whole."""
        return problems_of(self._db, self._lock)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors as ours; mistakes of a caller keep their class."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            ours = _translated(error, self.file)
            if ours is None:
                raise
            raise ours from error

    def _add_columns(self, later: Mapping[str, Mapping[str, str]]) -> None:
        for table, columns in later.items():
            present = {row[1] for row in self._db.execute(f"PRAGMA table_info({table})")}
            for name, kind in columns.items():
                if name not in present:
                    self._db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


def problems_of(
    db: sqlite3.Connection, lock: threading.RLock | None = None, *, quick: bool = False
) -> list[str]:
    """What SQLite's own check finds in an open database, one line each."""
    with lock or threading.RLock():
        try:
            check = "quick_check" if quick else "integrity_check"
            found = [str(row[0]) for row in db.execute(f"PRAGMA {check}")]
        except sqlite3.DatabaseError as error:
            return [str(error)]
    return [] if found == ["ok"] else found


def file_problems(file: Path, *, quick: bool = False) -> list[str]:
    """The same for a file that perhaps cannot even be opened; it is not changed.

    Args:
        file: The database.
        quick: Leave out whether the indexes agree with their tables.
    """
    try:
        with closing(sqlite3.connect(file.resolve().as_uri() + "?mode=ro", uri=True)) as db:
            return problems_of(db, quick=quick)
    except sqlite3.Error as error:
        return [str(error)]


def copy_database(source: Path, target: Path) -> bool:
    """Copy a database that may be in use, unless it is damaged; whether it was copied.

    An older copy is replaced by a whole one or not at all.

    Raises:
        StorageFull: No space is left; an older copy is kept.
    """
    part = target.with_name(target.name + ".part")
    part.unlink(missing_ok=True)
    uri = source.resolve().as_uri() + "?mode=ro"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as db, closing(sqlite3.connect(part)) as copy:
            db.backup(copy)
            # A copy is one file: nobody would look for a write-ahead log beside it.
            copy.execute("PRAGMA journal_mode=DELETE")
    except sqlite3.DatabaseError as error:
        part.unlink(missing_ok=True)
        ours = _translated(error, source) or error
        if isinstance(ours, CorruptData):
            return False
        raise ours from error
    if file_problems(part):
        part.unlink()
        return False
    with storage_errors(target):
        with part.open("rb") as handle:
            os.fsync(handle.fileno())
        part.replace(target)
        sync_folder(target.parent)
    return True


def _translated(error: sqlite3.DatabaseError, file: Path) -> WorldloomError | None:
    """Our error for what the disk or a damaged file is to blame for; None for mistakes."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in DISK_FAULTS:
        return StorageFull(
            f"{file.name} cannot be written ({error}); free some space, nothing of it is lost"
        )
    if code in DAMAGE:
        return CorruptData(
            f"{file.name} cannot be read ({error}); keep it for inspection, and let "
            "'worldloom check --repair' bring back the last good state"
        )
    return None
