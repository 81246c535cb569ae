"""`worldloom check`: is a world folder, or the store of a server, all that it says it is?"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from worldloom.cli import console
from worldloom.scene.errors import GateNotMet, InvalidRequest
from worldloom.scene.worldfolder import MANIFEST, check_files, open_world


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom check`."""
    parser.add_argument("folder", nargs="?", type=Path, help="a world folder, or a store")
    parser.add_argument("--store", type=Path, metavar="DIR", help="the store of a server")
    parser.add_argument(
        "--repair", action="store_true",
        help="put right what can be put right; no server may run on the store meanwhile",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Re-hash everything; exit 3 when damage is left."""
    folder = args.store or args.folder
    if folder is None:
        raise InvalidRequest("say what to check: a world folder, or --store DIR")
    if args.store is None and (folder / MANIFEST).is_file():
        return _check_world(folder, repair=args.repair)
    if not is_store(folder):
        raise InvalidRequest(
            f"{folder} is neither a world ({MANIFEST}) nor a store (journal.sqlite or blobs/)"
        )
    return _check_store(folder, repair=args.repair)


def is_store(folder: Path) -> bool:
    """Whether a folder is the store of a server, perhaps one that lost its journal."""
    return (folder / "journal.sqlite").is_file() or (folder / "blobs" / "partial").is_dir()


def _check_store(store: Path, *, repair: bool) -> int:
    from worldloom.bridge.check import check_store

    findings = check_store(store, repair=repair)
    for finding in findings:
        done = f" -> {finding.repaired}" if finding.repaired else ""
        console.say(f"  {finding.what:<7} {finding.name}: {finding.text}{done}")
        console.emit("finding", **asdict(finding), damage=finding.is_damage)
    left = sum(finding.is_damage for finding in findings)
    repaired = sum(bool(finding.repaired) for finding in findings)
    console.emit("checked", left=left, repaired=repaired)
    if left:
        remedy = "they cannot be repaired" if repair else "--repair puts right what can be"
        raise GateNotMet(f"{store} has {left} problem(s), listed above; {remedy}")
    if repaired:
        console.say(f"  {store}: {repaired} problem(s) repaired, none left")
    else:
        console.say(f"  {store}: the journal, all blobs and all work folders are whole")
    return 0


def _check_world(folder: Path, *, repair: bool) -> int:
    if repair:
        raise InvalidRequest(
            f"{folder} is a world; bring back damaged files with 'worldloom fetch JOB --out DIR'"
        )
    problems = world_problems(folder)
    for problem in problems:
        console.say(f"  {problem}")
        console.emit("finding", what="world", name=str(folder), text=problem, damage=True)
    console.emit("checked", left=len(problems), repaired=0)
    if problems:
        raise GateNotMet(f"{folder} has {len(problems)} problem(s), listed above")
    console.say(f"  {folder}: all files match their hashes")
    return 0


def world_problems(folder: Path) -> list[str]:
    """What is missing, damaged or malformed in a world folder, one line each."""
    problems = check_files(folder, open_world(folder))
    if not problems:
        from worldloom.generator.layers.validate import check_world

        problems = [str(problem) for problem in check_world(folder)]
    return problems
