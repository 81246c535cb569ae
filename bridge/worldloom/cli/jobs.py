"""`worldloom jobs | watch | fetch | cancel | check`: what a server is doing, and keeping it."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.events import Log, Progress
from worldloom.scene.limits import Limits
from worldloom.scene.worldfolder import MANIFEST, check_files, make_folder, open_world


def add_jobs_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom jobs`."""
    _add_server(parser)


def run_jobs(args: argparse.Namespace) -> int:
    """List the jobs of a server, newest first."""
    with _client(args) as client:
        rows = [
            [job.name, job.kind, job.engine, job.state, _age(job.created_unix_s), job.error_text]
            for job in client.jobs()
        ]
    console.table(["job", "kind", "engine", "state", "age", "error"], rows)
    return 0


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom watch`."""
    parser.add_argument("job", help="name of the job")
    _add_server(parser)


def run_watch(args: argparse.Namespace) -> int:
    """Follow a job until it ends; the exit code is that of its error."""
    from worldloom.bridge.messages import StateChange
    from worldloom.bridge.worldcache import job_error

    end = StateChange("lost")
    with _client(args) as client, console.meter() as meter:
        for event in client.watch(args.job):
            if isinstance(event, Progress):
                meter.update(event)
            elif isinstance(event, Log):
                meter.log(event)
            elif isinstance(event, StateChange):
                end = event
    if end.state != "done":
        raise job_error(args.job, end)
    console.say(f"  job {args.job} is done; get its world with 'worldloom fetch {args.job}'")
    return 0


def add_fetch_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom fetch`."""
    parser.add_argument("job", help="name of the job")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="world folder")
    _add_server(parser)


def run_fetch(args: argparse.Namespace) -> int:
    """Download the world of a job; goes on where an earlier download ended."""
    from worldloom.bridge.worldcache import follow
    from worldloom.cli.generate import remember_job, report_world

    out = make_folder(args.out)
    with _client(args) as client, console.meter() as meter:
        job = client.job(args.job)
        follow(
            client, job, out,
            on_event=lambda e: meter.update(e) if isinstance(e, Progress) else None,
        )  # fmt: skip
        remember_job(out, job.name)
    report_world(out, open_world(out))
    return 0


def add_cancel_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom cancel`."""
    parser.add_argument("job", help="name of the job")
    _add_server(parser)


def run_cancel(args: argparse.Namespace) -> int:
    """Ask a job to stop."""
    with _client(args) as client:
        job = client.cancel(args.job)
    console.say(f"  job {job.name} is {job.state}; what it made is kept")
    return 0


def add_check_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom check`."""
    parser.add_argument("folder", type=Path, help="a world folder or a server's store")


def run_check(args: argparse.Namespace) -> int:
    """Re-hash everything; exit 3 when something is damaged."""
    problems = check_folder(args.folder)
    for problem in problems:
        console.say(f"  {problem}")
    if problems:
        raise GateNotMet(f"{args.folder} has {len(problems)} problem(s), listed above")
    console.say(f"  {args.folder}: all files match their hashes")
    return 0


def check_folder(folder: Path) -> list[str]:
    """Problems of a world folder or a store, one line each.

    Raises:
        InvalidRequest: The folder is neither.
    """
    if (folder / MANIFEST).is_file():
        problems = check_files(folder, open_world(folder))
        if not problems:
            from worldloom.generator.layers.validate import check_world

            problems = [str(problem) for problem in check_world(folder)]
        return problems
    if (folder / "journal.sqlite").is_file():
        return check_store(folder)
    raise InvalidRequest(
        f"{folder} is neither a world (manifest.json) nor a store (journal.sqlite)"
    )


def check_store(store: Path) -> list[str]:
    """Problems of a server's store: its journal, and every blob against its name."""
    from contextlib import closing

    from worldloom.bridge.blobs import Blobs
    from worldloom.bridge.journal import Journal

    blobs = Blobs(store / "blobs", Limits())
    with closing(Journal(store / "journal.sqlite")) as journal:
        problems = [f"journal.sqlite: {line}" for line in journal.problems()]
        lost = sorted(sha256 for sha256 in journal.known_blobs() if not blobs.has(sha256))
    problems += [f"{sha256}: named in the journal, but not here" for sha256 in lost]
    damaged = [name for name in blobs.names() if not blobs.is_sound(name)]
    return problems + [f"{name}: content does not match its name" for name in damaged]


def _add_server(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", metavar="HOST:PORT", help="address of the server")
    parser.add_argument("--store", type=Path, metavar="DIR", help="or the store it runs on")


def _client(args: argparse.Namespace) -> Any:
    from worldloom.bridge.client import WorldsClient

    if args.server:
        return WorldsClient(args.server)
    file = (args.store or Path("worldloom-store")) / "server.json"
    if not file.is_file():
        raise InvalidRequest(
            f"no server given and none runs on {file.parent}; use --server HOST:PORT"
        )
    return WorldsClient(json.loads(file.read_text())["address"])


def _age(created: float) -> str:
    minutes = (time.time() - created) / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
