"""Damaged blobs and work folders -> whole ones, from each other or made again by their jobs.

Blobs and the files of work folders hold the same bytes twice over, or are two names of one file.
Where both are lost the job is made again from its request: same request, same bytes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.jobs import Job
from worldloom.bridge.journal import Journal
from worldloom.bridge.store import DAMAGED, work_folder
from worldloom.scene.errors import CorruptData, NotFound, WorldloomError
from worldloom.scene.request import WorldRequest
from worldloom.scene.worldfolder import (
    MANIFEST,
    check_files,
    file_sha256,
    open_world,
    storage_errors,
    write_whole,
)


def mend_blob(store: Path, journal: Journal, blobs: Blobs, name: str, *, damaged: bool) -> str:
    """Bring a damaged or missing blob back, or have it made again; what was done, or nothing.

    Raises:
        StorageFull: No space is left.
    """
    if damaged:
        blobs.set_aside(name, store / DAMAGED / "blobs")
    for job in journal.makers(name):
        if _adopted(store, blobs, job, name):
            return "brought back from the work folder of its job"
    for job in journal.makers(name):
        if job.state not in ("failed", "cancelled") and _can_be_made(journal, blobs, job, name):
            remake(store, journal, job, f"blob {name[:16]}... was lost; it is made again")
            return f"job {job.name} makes it again when a server runs"
    if journal.makers(name):
        return ""
    for job in journal.readers(name):
        if not job.ended:
            text = f"its input {name[:16]}... was lost in the store; send the job again"
            journal.move(job.name, "failed", code=CorruptData.code, text=text)
    journal.owners.drop(name)
    return "forgotten; whoever needs it sends it again" if not damaged else "moved aside"


def mend_work(store: Path, journal: Journal, blobs: Blobs, job: Job) -> str:
    """Bring the world of a work folder back from the blobs, or have it made again.

    Raises:
        StorageFull: No space is left.
    """
    world = work_folder(store, job.work_name) / "world"
    for path, sha256 in _told(journal, job).items():
        file = world / path
        if blobs.is_sound(sha256) and not (file.is_file() and file_sha256(file) == sha256):
            write_whole(file, blobs.path(sha256).read_bytes())
    if is_sound(world):
        return "brought back from the blobs"
    if job.state in ("failed", "cancelled"):
        _set_work_aside(store, job)
        return "moved aside; the same request begins anew"
    remake(store, journal, job, "files of the job were lost; it is made again")
    return f"job {job.name} makes it again when a server runs"


def remake(store: Path, journal: Journal, job: Job, why: str) -> None:
    """Have a job made again from its request; what its folder holds is kept aside."""
    _set_work_aside(store, job)
    if job.ended:
        journal.reopen(job.name, why)


def is_sound(world: Path) -> bool:
    """Whether a world folder holds what its manifest says."""
    try:
        return check_files(world, open_world(world)) == []
    except (CorruptData, NotFound):
        return False


def _adopted(store: Path, blobs: Blobs, job: Job, name: str) -> bool:
    """Whether a file of a work folder has become the blob."""
    folder = work_folder(store, job.work_name)
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file_sha256(file) == name:
            blobs.adopt(file)
            return True
    return False


def _can_be_made(journal: Journal, blobs: Blobs, job: Job, lost: str) -> bool:
    """Whether what a job needs is still there."""
    try:
        inputs = WorldRequest.from_bytes(job.request_json.encode()).inputs()
        if job.parent:
            journal.get(job.parent)
    except WorldloomError:
        return False
    return all(ref.sha256 != lost and blobs.is_sound(ref.sha256) for ref in inputs)


def _told(journal: Journal, job: Job) -> dict[str, str]:
    """The newest digest of each file that a job told of; the manifest comes last."""
    bodies = [entry.body for entry in journal.events(job.name)]
    paths = {body["path"]: body["sha256"] for body in bodies if body["type"] == "artifact"}
    return dict(sorted(paths.items(), key=lambda item: item[0] == MANIFEST))


def _set_work_aside(store: Path, job: Job) -> None:
    folder = store / "jobs" / job.work_name
    if folder.is_dir():
        with storage_errors(store):
            target = store / DAMAGED / "jobs" / job.work_name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            folder.rename(target)
