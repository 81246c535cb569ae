"""`worldloom jobs | watch | fetch | cancel`: what a server is doing, and getting its worlds."""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldloom.cli import console
from worldloom.cli.connection import (
    add_patience_option,
    add_server_options,
    connect,
    with_server,
)
from worldloom.scene.errors import CorruptData, InvalidRequest
from worldloom.scene.events import Log, Progress
from worldloom.scene.limits import MIB
from worldloom.scene.worldfolder import check_files, make_folder, open_world

if TYPE_CHECKING:
    from worldloom.bridge.client import WorldsClient
    from worldloom.bridge.messages import JobInfo
    from worldloom.scene.manifest import Manifest

STATES = ("queued", "running", "done", "failed", "cancelled")
SHOWN = 20
"""Jobs that `worldloom jobs` lists unless it is asked for more."""
ERROR_CHARS = 80


def add_jobs_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom jobs`."""
    parser.add_argument(
        "action", nargs="?", choices=("list", "delete"), default="list",
        help="list (default), or delete: forget ended jobs and the files that only they need",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="JOB", help="jobs to delete")
    parser.add_argument("--state", action="append", choices=STATES, help="only these; repeatable")
    parser.add_argument("--limit", type=int, default=SHOWN, metavar="N", help="newest N, or 20")
    parser.add_argument("--all", action="store_true", help="every job")
    add_server_options(parser)


def run_jobs(args: argparse.Namespace) -> int:
    """List the jobs of a server, newest first, or delete some."""
    if args.action == "delete":
        return _delete(args)
    if args.limit < 1:
        raise InvalidRequest(f"--limit {args.limit} shows nothing; use 1 or more, or --all")
    limit = None if args.all else args.limit
    with connect(args) as client:
        # One more than is shown tells whether there are more.
        jobs = client.jobs(states=args.state or (), limit=None if limit is None else limit + 1)
    _show_jobs(jobs[:limit])
    if limit is not None and len(jobs) > limit:
        console.say(f"\n  the newest {limit}; --all lists every one")
    if jobs:
        console.say(f"  follow one: worldloom watch {jobs[0].name}")
        console.say(f"  get its world: worldloom fetch {jobs[0].name} --out DIR")
    else:
        console.say("  no jobs; make one with 'worldloom generate PHOTO --server ... --out DIR'")
    console.emit("jobs", shown=len(jobs[:limit]), more=limit is not None and len(jobs) > limit)
    return 0


def _show_jobs(jobs: list[JobInfo]) -> None:
    for job in jobs:
        values = {key: value for key, value in asdict(job).items() if key != "name"}
        console.emit("row", job=job.name, **values)
    if not console.is_json() and jobs:
        rows = [
            [j.name, j.kind, j.engine, j.state, _age(j.created_unix_s), j.error_text[:ERROR_CHARS]]
            for j in jobs
        ]
        console.table(["job", "kind", "engine", "state", "age", "error"], rows)


def _delete(args: argparse.Namespace) -> int:
    if not args.names:
        raise InvalidRequest("no job was named; say worldloom jobs delete JOB ...")
    with connect(args) as client:
        for name in args.names:
            client.delete(name)
            console.emit("deleted", job=name)
            console.say(f"  deleted job {name} and the files that only it needed")
    console.say("  fetched worlds are not touched; 'worldloom jobs' lists what is left")
    return 0


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom watch`."""
    parser.add_argument("job", help="name of the job")
    parser.add_argument("--after", type=int, default=0, metavar="SEQ", help="events after this one")
    add_patience_option(parser)
    add_server_options(parser)


def run_watch(args: argparse.Namespace) -> int:
    """Follow a job until it ends; the exit code is that of its error."""
    from worldloom.bridge.messages import StateChange
    from worldloom.bridge.worldcache import job_error

    after = args.after

    def follow_events(client: WorldsClient) -> StateChange:
        nonlocal after
        end = StateChange("lost")
        for event in client.watch(args.job, after_seq=after):
            _show(event, meter)
            after = max(after, getattr(event, "seq", 0))
            if isinstance(event, StateChange):
                end = event
        return end

    with console.meter() as meter:
        end = with_server(args, follow_events)
    if end.state != "done":
        raise job_error(args.job, end)
    console.say(
        f"  job {args.job} is done; get its world: worldloom fetch {args.job} --out DIR"
    )
    return 0


def _show(event: Any, meter: console.Meter) -> None:
    """Show one event of a job."""
    from worldloom.bridge.messages import ArtifactRef, StateChange

    if isinstance(event, Progress):
        meter.update(event)
    elif isinstance(event, Log):
        meter.log(event)
    elif isinstance(event, StateChange):
        console.emit("state", **asdict(event))
    elif isinstance(event, ArtifactRef):
        console.emit("artifact", **asdict(event))
        if event.kind == "manifest" and not console.is_json():
            meter.log(Log("info", f"revision {event.chunk} can be fetched"))


def add_fetch_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom fetch`."""
    parser.add_argument("job", help="name of the job")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="world folder")
    parser.add_argument(
        "--so-far", action="store_true",
        help="what a growing world has now, without waiting for the rest",
    )  # fmt: skip
    parser.add_argument(
        "--packed", action="store_true",
        help="for slow links: only a look, the splats as compressed PLY (lossy, a third of the "
        "bytes) in DIR/look",
    )  # fmt: skip
    add_patience_option(parser)
    add_server_options(parser)


def run_fetch(args: argparse.Namespace) -> int:
    """Download the world of a job, and check it; goes on where an earlier download ended."""
    from worldloom.bridge.messages import TERMINAL, ArtifactRef
    from worldloom.bridge.worldcache import follow
    from worldloom.cli.generate import remember_job, report_world

    if args.packed:
        return _fetch_look(args)
    fetched: list[int] = []

    def show(event: Any) -> None:
        _show(event, meter)
        if isinstance(event, ArtifactRef):
            fetched.append(event.bytes)

    out = make_folder(args.out)
    begin = time.monotonic()

    def bring(client: WorldsClient) -> tuple[JobInfo, Manifest]:
        fetched.clear()
        job = client.job(args.job)
        return job, follow(client, job, out, on_event=show, so_far=args.so_far)

    with console.meter() as meter:
        job, manifest = with_server(args, bring)
    remember_job(out, job.name)
    if problems := check_files(out, manifest):
        raise CorruptData(
            f"{out} came with {len(problems)} damaged file(s): {problems[0]}. Delete them and run "
            "the same command again"
        )
    took, size = time.monotonic() - begin, sum(fetched) / MIB
    rate = f" in {took:.1f} s ({size / took:.1f} MiB/s)" if job.state in TERMINAL else ""
    console.say(f"  {len(fetched)} files, {size:.1f} MiB{rate}; every file matches its sha256")
    report_world(out, open_world(out))
    if not manifest.complete:
        console.say(f"  it still grows       worldloom fetch {job.name} --out {out}")
    return 0


def _fetch_look(args: argparse.Namespace) -> int:
    """Bring the packed splats of a world."""
    from worldloom.bridge.look import fetch_look

    out = make_folder(args.out)
    with connect(args) as client, console.meter() as meter:
        look = fetch_look(
            client, client.job(args.job), out,
            on_file=lambda done, total: meter.update(Progress("fetch", done, total, "files")),
        )  # fmt: skip
    console.say(
        f"  {look.splats:,} splats in {len(look.files)} files, {look.bytes / MIB:.1f} MiB instead "
        f"of {look.exact_bytes / MIB:.1f} MiB: {look.folder}"
    )
    console.say("  lossy, for a look: open them in SuperSplat or another viewer of compressed PLY")
    console.say(f"  the world itself    worldloom fetch {args.job} --out {out}")
    console.emit("look", folder=str(look.folder), files=[str(f) for f in look.files],
                 splats=look.splats, bytes=look.bytes)  # fmt: skip
    return 0


def add_cancel_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom cancel`."""
    parser.add_argument("jobs", nargs="+", metavar="JOB", help="names of jobs")
    add_server_options(parser)


def run_cancel(args: argparse.Namespace) -> int:
    """Ask jobs to stop."""
    with connect(args) as client:
        for name in args.jobs:
            job = client.cancel(name)
            console.emit("cancelled", job=job.name, state=job.state)
            stops = " and stops at its next checkpoint" if job.state == "running" else ""
            console.say(f"  job {job.name} is {job.state}{stops}; what it made is kept")
            console.say(f"  get that: worldloom fetch {job.name} --out DIR")
    return 0


def _age(created: float) -> str:
    minutes = (time.time() - created) / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
