"""The append-only record of jobs and their events: the only writer of state (SQLite, WAL).

State changes and artifacts are committed with synchronous FULL before anyone hears of them;
progress and previews never come here. Sequence numbers of a job are gap-free and start at 1.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloom.bridge.jobs import Job, JobState, moved
from worldloom.scene.errors import Conflict, CorruptData, NotFound, StorageFull
from worldloom.scene.request import WorldRequest

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, engine TEXT NOT NULL,
  request_hash TEXT NOT NULL, request_json TEXT NOT NULL, parent TEXT NOT NULL,
  state TEXT NOT NULL, cancel_requested INTEGER NOT NULL DEFAULT 0,
  error_code TEXT NOT NULL DEFAULT '', error_text TEXT NOT NULL DEFAULT '',
  error_field TEXT NOT NULL DEFAULT '', created_unix_s REAL NOT NULL,
  engine_key TEXT NOT NULL DEFAULT ''
);
CREATE TABLE IF NOT EXISTS events (
  job TEXT NOT NULL, seq INTEGER NOT NULL, at_unix_s REAL NOT NULL, body TEXT NOT NULL,
  PRIMARY KEY (job, seq)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS requests (
  owner TEXT NOT NULL, request_id TEXT NOT NULL, content TEXT NOT NULL, job TEXT NOT NULL,
  PRIMARY KEY (owner, request_id)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS blob_owners (
  owner TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (owner, sha256)
) WITHOUT ROWID;
"""
COLUMNS = ("name", "owner", "kind", "engine", "request_hash", "request_json", "parent", "state",
           "cancel_requested", "error_code", "error_text", "error_field",
           "created_unix_s", "engine_key")  # fmt: skip
FIELDS = ",".join(COLUMNS)
CANCELLED = "cancelled; finished chunks are kept"
LATER_COLUMNS = {"engine_key": "TEXT NOT NULL DEFAULT ''"}
"""Columns of `jobs` that older stores lack."""


@dataclass(frozen=True)
class Entry:
    """One journalled event."""

    seq: int
    at_unix_s: float
    body: dict[str, Any]
    """`type` and the fields of that kind of event."""


class Journal:
    """All jobs of one store. Every method is one transaction and may be called from any thread."""

    def __init__(self, file: Path) -> None:
        self._lock = threading.RLock()
        self._db = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        try:
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.executescript(SCHEMA)
            self._add_later_columns()
        except sqlite3.DatabaseError as error:
            raise CorruptData(
                f"the journal {file} cannot be read ({error}); keep it for inspection and start "
                "with another --store"
            ) from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def create(self, job: Job, request_id: str, content: str) -> tuple[Job, bool]:
        """Record a job unless it is there already; the job, and whether it is new.

        It is there when its request id is known, or when a job of this owner asks for the same
        and is done or will be (a cache hit).

        Args:
            job: The job, still queued.
            request_id: The client's idempotency key; may be empty.
            content: Hash of everything that the request means.

        Raises:
            Conflict: The request id was used for something else.
        """
        with self._transaction():
            known = self.find(job, request_id, content)
            if known is not None:
                return known, False
            self._insert(job)
            self._remember(job, request_id, content)
            return job, True

    def find(self, job: Job, request_id: str, content: str) -> Job | None:
        """The job that is there already instead of `job`, as in `create`; it gets the request id.

        Raises:
            Conflict: The request id was used for something else.
        """
        with self._transaction():
            known = self._replayed(job.owner, request_id, content)
            if known is None and (known := self._same(job)) is not None:
                self._remember(known, request_id, content)
            return known

    def get(self, name: str, owner: str | None = None) -> Job:
        """A job by name; jobs of others look as if they did not exist.

        Raises:
            NotFound: There is no such job for this owner.
        """
        row = self._one(f"SELECT {FIELDS} FROM jobs WHERE name=?", (name,))
        if row is None or (owner is not None and row[1] != owner):
            raise NotFound(f"there is no job {name[:80]!r}")
        return _job(row)

    def jobs(
        self, owner: str | None = None, *, states: tuple[JobState, ...] = ()
    ) -> list[Job]:
        """Jobs in the order of their creation."""
        query, values = f"SELECT {FIELDS} FROM jobs WHERE 1", []
        if owner is not None:
            query, values = query + " AND owner=?", [owner]
        if states:
            query += f" AND state IN ({','.join('?' * len(states))})"
            values += states
        with self._lock:
            rows = self._db.execute(query + " ORDER BY number", values).fetchall()
        return [_job(row) for row in rows]

    def move(
        self, name: str, state: JobState, *, code: str = "", text: str = "", field: str = ""
    ) -> Job:
        """Bring a job into its next state and journal it.

        Raises:
            Conflict: That state may not follow.
        """
        with self._transaction():
            job = moved(self.get(name), state, code=code, text=text, field=field)
            self._db.execute(
                "UPDATE jobs SET state=?, error_code=?, error_text=?, error_field=? WHERE name=?",
                (state, code, text, field, name),
            )
            body = {"type": "state", "state": state, "error_code": code, "error_text": text,
                    "error_field": field}  # fmt: skip
            self._append(name, body)
            return job

    def request_cancel(self, name: str, owner: str) -> Job:
        """Note that a job shall stop; one that waits is cancelled at once."""
        with self._transaction():
            job = self.get(name, owner)
            if job.state == "queued":
                return self.move(name, "cancelled", code="cancelled", text="cancelled while queued")
            if not job.ended:
                self._db.execute("UPDATE jobs SET cancel_requested=1 WHERE name=?", (name,))
            return self.get(name, owner)

    def append(self, name: str, body: dict[str, Any]) -> int:
        """Journal an event unless the same artifact is there already; its sequence number."""
        with self._transaction():
            if body["type"] == "artifact":
                self._own(self.get(name).owner, body["sha256"])
                known = self._one(
                    "SELECT seq FROM events WHERE job=? AND body=?", (name, _text(body))
                )
                if known is not None:
                    return int(known[0])
            return self._append(name, body)

    def events(self, name: str, after: int = 0) -> list[Entry]:
        """Events of a job after a sequence number, in order."""
        with self._lock:
            rows = self._db.execute(
                "SELECT seq, at_unix_s, body FROM events WHERE job=? AND seq>? ORDER BY seq",
                (name, after),
            ).fetchall()
        return [Entry(seq, at, json.loads(body)) for seq, at, body in rows]

    def last_seq(self, name: str) -> int:
        """Sequence number of the newest event of a job."""
        row = self._one("SELECT MAX(seq) FROM events WHERE job=?", (name,))
        return int(row[0] or 0) if row else 0

    def delete(self, name: str, owner: str) -> list[str]:
        """Forget a finished job; the digests that nobody needs any more.

        Its files and its inputs go unless another job of the owner has them too; a blob itself
        may go when no owner is left.

        Raises:
            Conflict: The job, or one that extends its world, has not ended.
        """
        with self._transaction():
            job = self.get(name, owner)
            for other in (job, *(child for child in self.jobs(owner) if child.parent == name)):
                if not other.ended:
                    raise Conflict(
                        f"job {other.name} is {other.state} and needs {name}; cancel it first"
                    )
            loose = self._digests(job)
            self._db.execute("DELETE FROM events WHERE job=?", (name,))
            self._db.execute("DELETE FROM requests WHERE job=?", (name,))
            self._db.execute("DELETE FROM jobs WHERE name=?", (name,))
            loose = loose.difference(*(self._digests(other) for other in self.jobs(owner)))
            self._db.executemany(
                "DELETE FROM blob_owners WHERE owner=? AND sha256=?", [(owner, s) for s in loose]
            )
            return sorted(loose - self.known_blobs())

    def own_blob(self, owner: str, sha256: str) -> None:
        """Note that an owner may see a blob."""
        with self._transaction():
            self._own(owner, sha256)

    def owns_blob(self, owner: str, sha256: str) -> bool:
        """Whether an owner uploaded a blob or a job of theirs made it."""
        query = "SELECT 1 FROM blob_owners WHERE owner=? AND sha256=?"
        return self._one(query, (owner, sha256)) is not None

    def known_blobs(self) -> set[str]:
        """Digests of all blobs that someone may see."""
        with self._lock:
            return {row[0] for row in self._db.execute("SELECT sha256 FROM blob_owners")}

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, one line each; empty when it is whole."""
        with self._lock:
            found = [row[0] for row in self._db.execute("PRAGMA integrity_check")]
        return [] if found == ["ok"] else found

    def requeue_running(self) -> list[str]:
        """After a restart: jobs that were running wait again; their names.

        One that its owner had asked to stop is cancelled now.
        """
        names = []
        for job in self.jobs(states=("running",)):
            if job.cancel_requested:
                self.move(job.name, "cancelled", code="cancelled", text=CANCELLED)
            else:
                self.move(job.name, "queued")
                names.append(job.name)
        return names

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One transaction; inner ones join the outer one."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield
                self._db.execute("COMMIT")
            except sqlite3.OperationalError as error:
                self._roll_back()
                if "full" in str(error) or "disk I/O" in str(error):
                    raise StorageFull(
                        f"the journal cannot be written ({error}); free some space"
                    ) from error
                raise
            except BaseException:
                self._roll_back()
                raise

    def _roll_back(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _append(self, name: str, body: dict[str, Any]) -> int:
        seq = self.last_seq(name) + 1
        self._db.execute(
            "INSERT INTO events VALUES (?,?,?,?)",
            (name, seq, time.time(), _text(body)),
        )
        return seq

    def _add_later_columns(self) -> None:
        present = {row[1] for row in self._db.execute("PRAGMA table_info(jobs)")}
        for name, kind in LATER_COLUMNS.items():
            if name not in present:
                self._db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")

    def _replayed(self, owner: str, request_id: str, content: str) -> Job | None:
        """The job that a request id already means, if any."""
        known = self._one(
            "SELECT content, job FROM requests WHERE owner=? AND request_id=?", (owner, request_id)
        )
        if known is None:
            return None
        if known[0] != content:
            raise Conflict(
                f"request id {request_id!r} was used for another request; choose a new one"
            )
        return self.get(known[1], owner)

    def _same(self, job: Job) -> Job | None:
        """A job of the same owner with the same request that is done or will be, if any."""
        row = self._one(
            f"SELECT {FIELDS} FROM jobs WHERE owner=? AND request_hash=? AND kind=? AND parent=? "
            "AND engine_key=? AND state IN ('queued', 'running', 'done') "
            "AND (state='done' OR NOT cancel_requested) ORDER BY number DESC LIMIT 1",
            (job.owner, job.request_hash, job.kind, job.parent, job.engine_key),
        )
        return None if row is None else _job(row)

    def _remember(self, job: Job, request_id: str, content: str) -> None:
        if request_id:
            values = (job.owner, request_id, content, job.name)
            self._db.execute("INSERT INTO requests VALUES (?,?,?,?)", values)

    def _insert(self, job: Job) -> None:
        marks = ",".join("?" * len(COLUMNS))
        values = tuple(getattr(job, column) for column in COLUMNS)
        self._db.execute(f"INSERT INTO jobs ({FIELDS}) VALUES ({marks})", values)
        self._append(job.name, {"type": "state", "state": job.state})

    def _own(self, owner: str, sha256: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO blob_owners VALUES (?,?)", (owner, sha256))

    def _digests(self, job: Job) -> set[str]:
        """Blobs that a job reads or made."""
        inputs = WorldRequest.from_bytes(job.request_json.encode()).inputs()
        bodies = (entry.body for entry in self.events(job.name))
        made = {body["sha256"] for body in bodies if body["type"] == "artifact"}
        return made | {ref.sha256 for ref in inputs}

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            return self._db.execute(query, values).fetchone()


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(COLUMNS, row, strict=True))
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)
