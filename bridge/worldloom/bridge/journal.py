"""The append-only record of jobs and their events: the only writer of state (SQLite, WAL).

State changes and artifacts are committed with synchronous FULL before anyone hears of them;
progress and previews never come here. Sequence numbers of a job are gap-free and start at 1.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldloom.bridge.database import Database
from worldloom.bridge.jobs import Job, JobState, moved
from worldloom.bridge.owners import Owners
from worldloom.bridge.tables import ARTIFACT, LATER_COLUMNS, NAMES_BLOB, SCHEMA
from worldloom.scene.errors import Conflict, NotFound
from worldloom.scene.request import WorldRequest

COLUMNS = ("name", "owner", "kind", "engine", "request_hash", "request_json", "parent", "state",
           "cancel_requested", "error_code", "error_text", "error_field",
           "created_unix_s", "engine_key", "priority")  # fmt: skip
FIELDS = ",".join(COLUMNS)
CANCELLED = "cancelled; finished chunks are kept"


@dataclass(frozen=True)
class Entry:
    """One journalled event."""

    seq: int
    at_unix_s: float
    body: dict[str, Any]
    """`type` and the fields of that kind of event."""


class Journal:
    """All jobs of one store. Every method is one transaction and may be called from any thread."""

    def __init__(self, file: Path, *, whole: Callable[[str], bool] | None = None) -> None:
        """Open or begin a journal.

        Args:
            file: The database.
            whole: Tells whether a blob is whole on disk; what is not is never named here. None
                trusts the caller.

        Raises:
            CorruptData: The file cannot be read.
            StorageFull: It cannot be written.
        """
        self._db = Database(file, SCHEMA, LATER_COLUMNS)
        self.owners = Owners(self._db, whole or (lambda _: True))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def transaction(self) -> AbstractContextManager[None]:
        """Make several calls one transaction."""
        return self._db.transaction()

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
        with self._db.transaction():
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
        with self._db.transaction():
            known = self._replayed(job.owner, request_id, content)
            if known is None and (known := self._same(job)) is not None:
                self._remember(known, request_id, content)
            return known

    def get(self, name: str, owner: str | None = None) -> Job:
        """A job by name; jobs of others look as if they did not exist.

        Raises:
            NotFound: There is no such job for this owner.
        """
        row = self._db.one(f"SELECT {FIELDS} FROM jobs WHERE name=?", (name,))
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
        return [_job(row) for row in self._db.all(query + " ORDER BY number", values)]

    def page(
        self, owner: str, size: int, *, before: int | None = None
    ) -> tuple[list[tuple[Job, int]], int | None]:
        """Jobs of an owner, newest first, each with its last sequence number.

        Args:
            owner: Whose.
            size: Most jobs.
            before: Where an earlier page ended; None begins with the newest.

        Returns:
            The jobs, and where the next page begins; None when there is none.
        """
        rows = self._db.all(
            f"SELECT number, (SELECT MAX(seq) FROM events WHERE job=name), {FIELDS} FROM jobs "
            "WHERE owner=? AND (? IS NULL OR number<?) ORDER BY number DESC LIMIT ?",
            (owner, before, before, size + 1),
        )
        found = [(_job(row[2:]), int(row[1] or 0)) for row in rows[:size]]
        return found, int(rows[size - 1][0]) if len(rows) > size else None

    def waiting(self, owner: str) -> tuple[int, int]:
        """How many jobs are queued, and how many of them are this owner's."""
        query = "SELECT COUNT(*), COALESCE(SUM(owner=?), 0) FROM jobs WHERE state='queued'"
        row = self._db.one(query, (owner,)) or (0, 0)
        return int(row[0]), int(row[1])

    def depth(self) -> dict[str, int]:
        """How many jobs are queued, and how many are running."""
        found = {
            state: self._db.one("SELECT COUNT(*) FROM jobs WHERE state=?", (state,))
            for state in ("queued", "running")
        }
        return {state: int(row[0]) if row else 0 for state, row in found.items()}

    def move(
        self, name: str, state: JobState, *, code: str = "", text: str = "", field: str = ""
    ) -> Job:
        """Bring a job into its next state and journal it.

        Raises:
            Conflict: That state may not follow.
        """
        with self._db.transaction():
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
        with self._db.transaction():
            job = self.get(name, owner)
            if job.state == "queued":
                return self.move(name, "cancelled", code="cancelled", text="cancelled while queued")
            if not job.ended:
                self._db.execute("UPDATE jobs SET cancel_requested=1 WHERE name=?", (name,))
            return self.get(name, owner)

    def append(self, name: str, body: dict[str, Any]) -> int:
        """Journal an event unless the same artifact is there already; its sequence number.

        Raises:
            CorruptData: It names a blob that is not whole on disk.
        """
        with self._db.transaction():
            if body["type"] == "artifact":
                self.owners.add(self.get(name).owner, body["sha256"], int(body["bytes"]))
                known = self._db.one(
                    f"SELECT seq FROM events WHERE job=? AND {NAMES_BLOB} AND body=?",
                    (name, body["sha256"], _text(body)),
                )
                if known is not None:
                    return int(known[0])
            return self._append(name, body)

    def events(self, name: str, after: int = 0) -> list[Entry]:
        """Events of a job after a sequence number, in order."""
        query = "SELECT seq, at_unix_s, body FROM events WHERE job=? AND seq>? ORDER BY seq"
        rows = self._db.all(query, (name, after))
        return [Entry(seq, at, json.loads(body)) for seq, at, body in rows]

    def last_seq(self, name: str) -> int:
        """Sequence number of the newest event of a job."""
        row = self._db.one("SELECT MAX(seq) FROM events WHERE job=?", (name,))
        return int(row[0] or 0) if row else 0

    def delete(self, name: str, owner: str) -> list[str]:
        """Forget a finished job; the digests that nobody needs any more.

        Give them to `Owners.remove_unknown` afterwards. The job's files and its inputs go unless
        another job of the owner has them too; a blob itself may go when no owner is left.

        Raises:
            Conflict: The job, or one that extends its world, has not ended.
        """
        with self._db.transaction():
            job = self.get(name, owner)
            for other in (job, *(child for child in self.jobs(owner) if child.parent == name)):
                if not other.ended:
                    raise Conflict(
                        f"job {other.name} is {other.state} and needs {name}; cancel it first"
                    )
            loose = self._digests(job)
            for table, column in (("events", "job"), ("requests", "job"), ("jobs", "name")):
                self._db.execute(f"DELETE FROM {table} WHERE {column}=?", (name,))
            return self.owners.release(owner, loose)

    def own_blob(self, owner: str, sha256: str, size: int) -> None:
        """Note that an owner may see a blob, as in `Owners.add`."""
        self.owners.add(owner, sha256, size)

    def owns_blob(self, owner: str, sha256: str) -> bool:
        """Whether an owner uploaded a blob or a job of theirs made it."""
        return self.owners.may_see(owner, sha256)

    def known_blobs(self) -> set[str]:
        """Digests of all blobs that someone may see."""
        return self.owners.all_blobs()

    def problems(self) -> list[str]:
        """What SQLite finds wrong with the file, one line each; empty when it is whole."""
        return self._db.problems()

    def reopen(self, name: str, why: str) -> None:
        """Let an ended job wait again, because what it made is lost."""
        with self._db.transaction():
            self._append(name, {"type": "log", "level": "warning", "text": why})
            self._db.execute(
                "UPDATE jobs SET state='queued', cancel_requested=0, error_code='', error_text='', "
                "error_field='' WHERE name=?",
                (name,),
            )
            self._append(name, {"type": "state", "state": "queued", "error_code": "",
                                "error_text": "", "error_field": ""})  # fmt: skip

    def makers(self, sha256: str) -> list[Job]:
        """Jobs that made a blob, in the order of their creation."""
        rows = self._db.all(
            f"SELECT {FIELDS} FROM jobs WHERE name IN "
            f"(SELECT job FROM events WHERE {NAMES_BLOB}) ORDER BY number",
            (sha256,),
        )
        return [_job(row) for row in rows]

    def readers(self, sha256: str) -> list[Job]:
        """Jobs that have a blob among their inputs."""
        query = f"SELECT {FIELDS} FROM jobs WHERE instr(request_json, ?) ORDER BY number"
        return [_job(row) for row in self._db.all(query, (sha256,))]

    def made_blobs(self) -> set[str]:
        """Digests of all blobs that events name."""
        query = "SELECT DISTINCT json_extract(body, '$.sha256') FROM events WHERE " + ARTIFACT
        return {row[0] for row in self._db.all(query)}

    def requeue_running(self) -> list[str]:
        """After a restart: jobs that were running wait again; their names.

        One that its owner had asked to stop is cancelled now.
        """
        names = []
        with self._db.transaction():
            for job in self.jobs(states=("running",)):
                if job.cancel_requested:
                    self.move(job.name, "cancelled", code="cancelled", text=CANCELLED)
                else:
                    self.move(job.name, "queued")
                    names.append(job.name)
        return names

    def _append(self, name: str, body: dict[str, Any]) -> int:
        seq = self.last_seq(name) + 1
        self._db.execute(
            "INSERT INTO events VALUES (?,?,?,?)",
            (name, seq, time.time(), _text(body)),
        )
        return seq

    def _replayed(self, owner: str, request_id: str, content: str) -> Job | None:
        """The job that a request id already means, if any."""
        known = self._db.one(
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
        row = self._db.one(
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

    def _digests(self, job: Job) -> set[str]:
        """Blobs that a job reads or made."""
        inputs = WorldRequest.from_bytes(job.request_json.encode()).inputs()
        bodies = (entry.body for entry in self.events(job.name))
        made = {body["sha256"] for body in bodies if body["type"] == "artifact"}
        return made | {ref.sha256 for ref in inputs}


def _text(body: dict[str, Any]) -> str:
    return json.dumps(body, sort_keys=True)


def _job(row: tuple[Any, ...]) -> Job:
    values = dict(zip(COLUMNS, row, strict=True))
    values["cancel_requested"] = bool(values["cancel_requested"])
    return Job(**values)
