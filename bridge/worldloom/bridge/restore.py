"""A damaged or lost journal -> the last good state of it, with all that can still be read.

The server keeps a checked copy of its journal. When the journal cannot be trusted, the copy takes
its place, and rows that the damaged file still gives are put over it. The damaged file is kept, no
blob is touched, and until `worldloom check --repair` has looked at the store nothing is swept.
"""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.database import copy_database, file_problems
from worldloom.bridge.jobs import NEXT
from worldloom.bridge.journal import Journal
from worldloom.bridge.store import DAMAGED, GOOD, JOURNAL, RESTORED
from worldloom.scene.errors import WorldloomError
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import storage_errors, sync_folder, write_whole

LOGGER = logging.getLogger(__name__)
BESIDE = ("", "-wal", "-shm")
"""What the names of SQLite's files end with."""
TABLES = {
    "jobs": ("number",),
    "events": ("job", "seq"),
    "requests": ("owner", "request_id"),
    "blob_owners": ("owner", "sha256"),
}
"""Tables and what identifies a row of each."""


def open_journal(store: Path, blobs: Blobs) -> Journal:
    """The journal of a store; a damaged or lost one is restored first.

    Raises:
        StorageFull: It cannot be written.
        CorruptData: Not even a new one can be made.
    """
    file = store / JOURNAL
    if file.is_file() and file.stat().st_size:
        problems = file_problems(file, quick=True)
    else:
        held = bool(blobs.names()) or (store / GOOD).is_file()
        problems = ["it is gone or empty"] if held else []
    if problems:
        LOGGER.error("the journal is damaged (%s); its last good state is restored", problems[0])
        restore(store)
    if (store / RESTORED).exists():
        LOGGER.warning("nothing is swept before 'worldloom check --store %s --repair'", store)
    return Journal(file, whole=blobs.has)


def keep_copy(store: Path) -> bool:
    """Keep a copy of the journal as it is now, unless it is damaged; whether it was kept."""
    return copy_database(store / JOURNAL, store / GOOD)


def restore(store: Path) -> Path:
    """Put the last good state of the journal in its place; the folder with the damaged files.

    Raises:
        StorageFull: No space is left; nothing was changed.
    """
    with storage_errors(store):
        write_whole(store / RESTORED, b"run 'worldloom check --repair' to end this state\n")
        aside = _copy_aside(store)
        part = store / (JOURNAL + ".part")
        for ending in BESIDE:
            (store / (part.name + ending)).unlink(missing_ok=True)
        good = store / GOOD
        if good.is_file() and not file_problems(good):
            shutil.copyfile(good, part)
        _rebuild(part, aside / JOURNAL)
        # A log of the damaged file would be applied to the new one.
        for ending in BESIDE[1:]:
            (store / (JOURNAL + ending)).unlink(missing_ok=True)
        part.replace(store / JOURNAL)
        sync_folder(store)
    return aside


def salvaged(file: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows by table that a damaged file still gives."""
    found: dict[str, list[dict[str, Any]]] = {table: [] for table in TABLES}
    if file.is_file():
        with closing(sqlite3.connect(file.resolve().as_uri() + "?mode=ro", uri=True)) as db:
            db.row_factory = sqlite3.Row
            for table in TABLES:
                rows = [dict(row) for row in _readable(db, table)]
                found[table] = [row for row in rows if _makes_sense(table, row)]
            for job in found["jobs"]:
                # Damage between two jobs does not hide the events of a third.
                rows = [dict(row) for row in _readable(db, "events", job["name"])]
                found["events"] += [row for row in rows if _makes_sense("events", row)]
    return found


def _copy_aside(store: Path) -> Path:
    """Copy the damaged journal into a folder of its own."""
    number = 1
    while (aside := store / DAMAGED / f"journal-{number:04d}").exists():
        number += 1
    aside.mkdir(parents=True)
    for ending in BESIDE:
        if (store / (JOURNAL + ending)).is_file():
            shutil.copyfile(store / (JOURNAL + ending), aside / (JOURNAL + ending))
    sync_folder(aside)
    return aside


def _readable(db: sqlite3.Connection, table: str, job: str = "") -> Iterator[sqlite3.Row]:
    """Rows from the first one up to the damage, and from the last one back to it.

    Args:
        db: The damaged file.
        table: Which table.
        job: Whose rows; empty for all.
    """
    only = "WHERE job=?" if job else ""
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{key} {direction}" for key in TABLES[table])
        try:
            yield from db.execute(
                f"SELECT * FROM {table} {only} ORDER BY {order}", (job,) if job else ()
            )
        except sqlite3.DatabaseError as error:
            LOGGER.info("not all of table %s can be read: %s", table, error)
        else:
            return


def _makes_sense(table: str, row: dict[str, Any]) -> bool:
    """Whether a row is what we once wrote, as far as that can be told."""
    try:
        if table == "jobs":
            request = WorldRequest.from_bytes(row["request_json"].encode())
            return row["state"] in NEXT and request.hash() == row["request_hash"]
        if table == "events":
            return "type" in json.loads(row["body"]) and row["seq"] > 0
    except (WorldloomError, ValueError, TypeError, AttributeError, KeyError):
        return False
    return all(isinstance(row[key], str) for key in TABLES[table])


def _rebuild(part: Path, damaged: Path) -> None:
    """Put salvaged rows over those of the last good copy, and make the whole consistent."""
    rows = salvaged(damaged)
    # Opening it as a journal makes the tables and columns that are not there.
    Journal(part).close()
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous=FULL")
        db.execute("BEGIN IMMEDIATE")
        for table, found in rows.items():
            for row in found:
                _put(db, table, row)
        _make_consistent(db)
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode=DELETE")


def _put(db: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    known = {info[1] for info in db.execute(f"PRAGMA table_info({table})")}
    columns = [name for name in row if name in known]
    marks = ",".join("?" * len(columns))
    db.execute(
        f"INSERT OR REPLACE INTO {table} ({','.join(columns)}) VALUES ({marks})",
        [row[name] for name in columns],
    )


def _make_consistent(db: sqlite3.Connection) -> None:
    """End each job's events before their first gap, and let the last of them tell its state."""
    db.execute("DELETE FROM events WHERE job NOT IN (SELECT name FROM jobs)")
    db.execute("DELETE FROM requests WHERE job NOT IN (SELECT name FROM jobs)")
    for name, state in db.execute("SELECT name, state FROM jobs").fetchall():
        rows = db.execute("SELECT seq, body FROM events WHERE job=? ORDER BY seq", (name,))
        kept = list(_without_gap(rows.fetchall()))
        db.execute("DELETE FROM events WHERE job=? AND seq>?", (name, len(kept)))
        told = [body["state"] for body in kept if body["type"] == "state"]
        if not told:
            body = json.dumps({"state": "queued", "type": "state"}, sort_keys=True)
            db.execute("INSERT INTO events VALUES (?,?,0,?)", (name, len(kept) + 1, body))
            told = ["queued"]
        if told[-1] != state:
            db.execute(
                "UPDATE jobs SET state=?, error_code='', error_text='', error_field='' "
                "WHERE name=?",
                (told[-1], name),
            )


def _without_gap(rows: Iterable[tuple[int, str]]) -> Iterator[dict[str, Any]]:
    for expected, (seq, body) in enumerate(rows, 1):
        if seq != expected:
            return
        yield json.loads(body)
