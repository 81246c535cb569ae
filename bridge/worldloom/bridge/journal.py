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

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  name TEXT UNIQUE NOT NULL, owner TEXT NOT NULL, kind TEXT NOT NULL, engine TEXT NOT NULL,
  request_hash TEXT NOT NULL, request_json TEXT NOT NULL, parent TEXT NOT NULL,
  state TEXT NOT NULL, cancel_requested INTEGER NOT NULL DEFAULT 0,
  error_code TEXT NOT NULL DEFAULT '', error_text TEXT NOT NULL DEFAULT '',
  error_field TEXT NOT NULL DEFAULT '', created_unix_s REAL NOT NULL
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
           "created_unix_s")  # fmt: skip


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
        """Record a job unless its request id is known; the job, and whether it is new.

        Args:
            job: The job, still queued.
            request_id: The client's idempotency key; may be empty.
            content: Hash of everything that the request means.

        Raises:
            Conflict: The request id was used for something else.
        """
        with self._transaction():
            known = self._one(
                "SELECT content, job FROM requests WHERE owner=? AND request_id=?",
                (job.owner, request_id),
            )
            if request_id and known is not None:
                if known[0] != content:
                    raise Conflict(
                        f"request id {request_id!r} was used for another request; choose a new one"
                    )
                return self.get(known[1], job.owner), False
            marks = ",".join("?" * len(COLUMNS))
            self._db.execute(
                f"INSERT INTO jobs ({','.join(COLUMNS)}) VALUES ({marks})",
                tuple(getattr(job, column) for column in COLUMNS),
            )
            if request_id:
                self._remember(job.owner, request_id, content, job.name)
            self._append(job.name, {"type": "state", "state": job.state})
            return job, True

    def alias(self, owner: str, request_id: str, content: str, name: str) -> None:
        """Let a new request id mean a job that exists already (a cache hit)."""
        with self._transaction():
            self._remember(owner, request_id, content, name)

    def get(self, name: str, owner: str | None = None) -> Job:
        """A job by name; jobs of others look as if they did not exist.

        Raises:
            NotFound: There is no such job for this owner.
        """
        row = self._one(f"SELECT {','.join(COLUMNS)} FROM jobs WHERE name=?", (name,))
        if row is None or (owner is not None and row[1] != owner):
            raise NotFound(f"there is no job {name[:80]!r}")
        return _job(row)

    def find_same(self, owner: str, content_hash: str, kind: str, parent: str) -> Job | None:
        """A job of this owner with the same request that is done or will be, if any."""
        row = self._one(
            f"SELECT {','.join(COLUMNS)} FROM jobs WHERE owner=? AND request_hash=? AND kind=? "
            "AND parent=? AND state IN ('queued', 'running', 'done') ORDER BY number DESC LIMIT 1",
            (owner, content_hash, kind, parent),
        )
        return None if row is None else _job(row)

    def jobs(self, owner: str | None = None, states: tuple[JobState, ...] = ()) -> list[Job]:
        """Jobs in the order of their creation."""
        query, values = f"SELECT {','.join(COLUMNS)} FROM jobs WHERE 1", []
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
                for entry in self.events(name):
                    if entry.body == body:
                        return entry.seq
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
        """Forget a finished job; the digests that no other job or upload of anyone needs.

        Raises:
            Conflict: The job has not ended.
        """
        with self._transaction():
            job = self.get(name, owner)
            if not job.ended:
                raise Conflict(f"job {name} is {job.state}; cancel it first")
            mine = self._artifacts([name])
            self._db.execute("DELETE FROM events WHERE job=?", (name,))
            self._db.execute("DELETE FROM requests WHERE job=?", (name,))
            self._db.execute("DELETE FROM jobs WHERE name=?", (name,))
            others = self._artifacts([other.name for other in self.jobs()])
            gone = sorted(mine - others)
            self._db.executemany("DELETE FROM blob_owners WHERE sha256=?", [(s,) for s in gone])
            return gone

    def own_blob(self, owner: str, sha256: str) -> None:
        """Note that an owner may see a blob."""
        with self._transaction():
            self._own(owner, sha256)

    def owns_blob(self, owner: str, sha256: str) -> bool:
        """Whether an owner uploaded a blob or a job of theirs made it."""
        query = "SELECT 1 FROM blob_owners WHERE owner=? AND sha256=?"
        return self._one(query, (owner, sha256)) is not None

    def requeue_running(self) -> list[str]:
        """After a restart: jobs that were running wait again; their names."""
        names = [job.name for job in self.jobs(states=("running",))]
        for name in names:
            self.move(name, "queued")
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
            (name, seq, time.time(), json.dumps(body, sort_keys=True)),
        )
        return seq

    def _remember(self, owner: str, request_id: str, content: str, name: str) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO requests VALUES (?,?,?,?)", (owner, request_id, content, name)
        )

    def _own(self, owner: str, sha256: str) -> None:
        self._db.execute("INSERT OR IGNORE INTO blob_owners VALUES (?,?)", (owner, sha256))

    def _artifacts(self, names: list[str]) -> set[str]:
        bodies = (entry.body for name in names for entry in self.events(name))
        return {body["sha256"] for body in bodies if body["type"] == "artifact"}

    def _one(self, query: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        with self._lock:
            return self._db.execute(query, values).fetchone()


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(COLUMNS, row, strict=True))
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)
