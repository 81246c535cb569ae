"""A store -> what is damaged in it, and what of that could be repaired.

Everything is read: the pages and rows of the journal, the bytes of every blob, the files of every
work folder. Repair never deletes what is good. A damaged blob is moved aside; it comes back from a
work folder that still has its bytes, or its job waits to make it again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.database import file_problems
from worldloom.bridge.jobs import NEXT, Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.mending import mend_blob, mend_work
from worldloom.bridge.restore import restore
from worldloom.bridge.store import JOURNAL, RESTORED, unknown_work, work_folder
from worldloom.bridge.storelock import lock_store
from worldloom.scene.errors import CorruptData, NotFound, WorldloomError
from worldloom.scene.limits import Limits
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import MANIFEST, check_files, open_world


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be."""

    what: str
    """`journal`, `row`, `blob`, `work` for damage; `litter` for what only takes space."""
    name: str
    """Which one: a digest, a job, a folder, or the file itself."""
    text: str
    repaired: str = ""
    """What was done about it; empty when nothing was."""

    @property
    def is_damage(self) -> bool:
        """Whether something is lost or wrong, and still is."""
        return self.what != "litter" and not self.repaired


def check_store(store: Path, *, repair: bool = False) -> list[Finding]:
    """Look at everything in a store, in the order in which it depends on each other.

    Args:
        store: The folder. A server may run on it, unless it is to be repaired.
        repair: Put right what can be put right.

    Raises:
        ServerRefused: A server runs on the store that is to be repaired.
        StorageFull: No space is left for the repair.
    """
    blobs = Blobs(store / "blobs", Limits())
    with _held(store) if repair else nullcontext():
        found = list(_journal_findings(store, repair=repair))
        if any(finding.is_damage for finding in found):
            # Rows that may be wrong would accuse blobs that are right.
            return found + [_nameless(blobs, name) for name in blobs.names() if _bad(blobs, name)]
        with closing(Journal(store / JOURNAL)) as journal:
            found += _row_findings(journal)
            found += _blob_findings(store, journal, blobs, repair=repair)
            found += _work_findings(store, journal, blobs, repair=repair)
            found += _litter(store, journal, blobs)
        if repair and not any(finding.is_damage for finding in found):
            (store / RESTORED).unlink(missing_ok=True)
    return found


@contextmanager
def _held(store: Path) -> Iterator[None]:
    """Keep servers away."""
    handle = lock_store(store)
    try:
        yield
    finally:
        os.close(handle)


def _journal_findings(store: Path, *, repair: bool) -> Iterator[Finding]:
    file = store / JOURNAL
    there = file.is_file() and file.stat().st_size
    problems = file_problems(file) if there else ["the file is gone or empty"]
    for problem in problems[:5]:
        yield Finding("journal", JOURNAL, problem, "restored" if repair else "")
    if problems and repair:
        aside = restore(store)
        yield Finding("litter", str(aside.relative_to(store)), "the damaged journal is kept here")
    elif (store / RESTORED).exists():
        yield Finding(
            "litter", RESTORED,
            "the journal was restored; nothing is swept before 'worldloom check --repair'",
        )  # fmt: skip


def _row_findings(journal: Journal) -> Iterator[Finding]:
    """Rows that contradict each other or themselves."""
    for job in journal.jobs():
        try:
            for text in _job_problems(journal, job):
                yield Finding("row", job.name, text)
        except (WorldloomError, ValueError, KeyError, TypeError) as error:
            yield Finding("row", job.name, f"a row cannot be read: {error}")


def _job_problems(journal: Journal, job: Job) -> Iterator[str]:
    if WorldRequest.from_bytes(job.request_json.encode()).hash() != job.request_hash:
        yield "the request is not the one that its hash names"
    entries = journal.events(job.name)
    if [entry.seq for entry in entries] != list(range(1, len(entries) + 1)):
        yield f"the {len(entries)} events are not numbered 1, 2, 3, ..."
    told = [entry.body["state"] for entry in entries if entry.body["type"] == "state"]
    if job.state not in NEXT or told[-1:] != [job.state]:
        yield f"the job is {job.state!r}, its events end with {told[-1:]}"


def _blob_findings(
    store: Path, journal: Journal, blobs: Blobs, *, repair: bool
) -> Iterator[Finding]:
    named = journal.known_blobs() | journal.made_blobs()
    here = set(blobs.names())
    damaged = {name for name in here if _bad(blobs, name)}
    # A server may have forgotten a job while the blobs were read.
    missing = (named - here) & (journal.known_blobs() | journal.made_blobs())
    for name in sorted(damaged | missing):
        lack = "content does not match its name" if name in damaged else "it is missing"
        if name not in named:
            finding = _nameless(blobs, name)
        else:
            finding = Finding("blob", name, f"{lack}; {_whose(journal, name)}")
        if repair:
            done = mend_blob(store, journal, blobs, name, damaged=name in damaged)
            finding = replace(finding, repaired=done)
        yield finding


def _work_findings(
    store: Path, journal: Journal, blobs: Blobs, *, repair: bool
) -> Iterator[Finding]:
    """Files of work folders: a job that goes on builds upon them."""
    for job in {job.work_name: job for job in journal.jobs()}.values():
        world = work_folder(store, job.work_name) / "world"
        if not (world / MANIFEST).is_file():
            continue
        try:
            problems = check_files(world, open_world(world))
        except (CorruptData, NotFound) as error:
            problems = [str(error)]
        for problem in problems:
            finding = Finding("work", job.name, f"{job.work_name}: {problem}")
            if repair:
                finding = replace(finding, repaired=mend_work(store, journal, blobs, job))
            yield finding


def _litter(store: Path, journal: Journal, blobs: Blobs) -> Iterator[Finding]:
    """What only takes space; the server sweeps it when it is a day old."""
    unnamed = sorted(set(blobs.names()) - journal.known_blobs())
    if unnamed:
        size = sum(blobs.size(name) for name in unnamed)
        yield Finding("litter", "blobs", f"{len(unnamed)} blob(s) of {size} bytes have no name")
    parts = [file for file in (blobs.folder / "partial").iterdir() if file.is_file()]
    if parts:
        size = sum(part.stat().st_size for part in parts)
        yield Finding("litter", "partial", f"{len(parts)} upload(s) of {size} bytes have not ended")
    for name in unknown_work(store, journal):
        yield Finding("litter", name, "a work folder that no job has; the same request goes on it")


def _bad(blobs: Blobs, name: str) -> bool:
    return not blobs.is_sound(name)


def _nameless(blobs: Blobs, name: str) -> Finding:
    return Finding("blob", name, "content does not match its name; no job needs it")


def _whose(journal: Journal, name: str) -> str:
    made = [job.name for job in journal.makers(name)]
    read = [job.name for job in journal.readers(name)]
    parts = [f"made by {', '.join(made[:3])}"] if made else []
    parts += [f"read by {', '.join(read[:3])}"] if read else []
    return "; ".join(parts) or "uploaded, and read by no job"
