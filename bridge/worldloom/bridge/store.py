"""A store's journal, blobs and work folders together: what is forgotten, swept and counted."""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import tempfile
from pathlib import Path

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.journal import Journal
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.worldfolder import storage_errors

JOURNAL, GOOD, DAMAGED = "journal.sqlite", "journal.good.sqlite", "damaged"
TRASH = "trash"
RESTORED = "restored"
"""A file of this name says that the journal is not all that it once was: nothing is swept."""


def work_folder(store: Path, work_name: str) -> Path:
    """Where the jobs of one work name write their world."""
    return store / "jobs" / work_name / "work"


def forget_job(store: Path, journal: Journal, blobs: Blobs, name: str, owner: str) -> None:
    """Delete an ended job, the blobs that only it needed, and its work folder.

    The folder waits in the trash for `empty_trash`.

    Raises:
        NotFound: There is no such job for this owner.
        Conflict: It has not ended, or another job needs it.
    """
    job = journal.get(name, owner)
    # No row may name a blob that is gone, so the rows go first, for good.
    loose = journal.delete(name, owner)
    journal.owners.remove_unknown(loose, blobs.remove)
    with journal.transaction():
        if all(other.work_name != job.work_name for other in journal.jobs(owner)):
            _discard(store, job.work_name)


def sweep(store: Path, journal: Journal, blobs: Blobs, *, now: float | None = None) -> int:
    """Delete what a day ago was begun and never ended, or made and never named.

    Args:
        store: The store.
        journal: Its journal.
        blobs: Its blobs.
        now: The time [s since 1970]; None reads the clock.

    Returns:
        How many files went.
    """
    partial = blobs.sweep_partial(now=now)
    if (store / RESTORED).exists():
        return partial
    # The listing comes first: a blob that is named meanwhile is known when it would be removed.
    gone = journal.owners.remove_unknown(blobs.old(now=now), blobs.remove)
    empty_trash(store)
    return partial + len(gone)


def unknown_work(store: Path, journal: Journal) -> list[str]:
    """Names of work folders that no job has."""
    known = {job.work_name for job in journal.jobs()}
    return sorted(
        folder.name for folder in (store / "jobs").glob("*/") if folder.name not in known
    )


def empty_trash(store: Path) -> None:
    """Delete the work folders of forgotten jobs."""
    for folder in (store / TRASH).glob("*"):
        shutil.rmtree(folder, ignore_errors=True)


def page_token(number: int) -> str:
    """Where a page of jobs begins, as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps({"before": number}).encode()).decode()


def page_start(token: str) -> int | None:
    """The number in a page token; None for the first page.

    Raises:
        InvalidRequest: It is no token of ours.
    """
    if not token:
        return None
    try:
        return int(json.loads(base64.b64decode(token, altchars=b"-_", validate=True))["before"])
    except (binascii.Error, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"{token[:40]!r} is no page token; use the next_page_token of an earlier answer, or "
            "none",
            field="page_token",
        ) from error


def _discard(store: Path, work_name: str) -> None:
    """Move a work folder away at once; a new job of this name finds none."""
    folder = store / "jobs" / work_name
    if folder.is_dir():
        with storage_errors(store):
            (store / TRASH).mkdir(exist_ok=True)
            folder.rename(Path(tempfile.mkdtemp(dir=store / TRASH)) / work_name)
