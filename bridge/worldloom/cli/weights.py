"""`worldloom weights list | get | convert | verify`: public weights on this machine."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from worldloom.cli import console
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.events import Progress


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom weights`."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for name, help_line in (
        ("list", "what is known, what is here, and under which licence"),
        ("get", "fetch, check and convert weights"),
        ("convert", "turn a published checkpoint that you have into the file that is used"),
        ("verify", "compare the files here with their pinned hashes"),
    ):
        action = actions.add_parser(name, help=help_line, description=help_line)
        action.add_argument("--dir", type=Path, metavar="DIR", help="the weights folder")
        action.add_argument("--json", action="store_true", help="one JSON object per line")
        action.add_argument("--verbose", action="store_true", help="log to the error output")
        if name in ("get", "convert"):
            action.add_argument("name", metavar="NAME", help="as `list` shows it")
        if name == "verify":
            action.add_argument("name", metavar="NAME", nargs="?", help="all that are here without")
        if name == "get":
            action.add_argument("--url", help="a mirror of the published file")
            action.add_argument(
                "--timeout", type=float, default=60.0, metavar="S", help="longest transfer [s]"
            )
        if name == "convert":
            action.add_argument(
                "file", type=Path, metavar="SOURCE", help="the published file or folder"
            )
            action.add_argument(
                "--config", type=Path, metavar="JSON", help="sizes of a network of your own"
            )


def run(args: argparse.Namespace) -> int:
    """List, fetch, convert or verify."""
    return {"list": _list, "get": _get, "convert": _convert, "verify": _verify}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from worldloom.generator.weights import catalogue, find_weights, weights_folder

    rows = [
        [
            entry.name, "present" if find_weights(entry.name, args.dir) else "absent",
            entry.size, entry.licence,
            "research only" if entry.research_only else "free to use", entry.source,
        ]
        for entry in catalogue()
    ]  # fmt: skip
    console.table(["name", "state", "size", "licence", "use", "source"], rows)
    console.say(f"\n  folder: {weights_folder(args.dir)}")
    console.say("  get them with: worldloom weights get NAME")
    console.say("  networks are brought by you: worldloom weights convert NAME SOURCE")
    return 0


def _get(args: argparse.Namespace) -> int:
    from worldloom.generator.weights import get, lookup

    entry = lookup(args.name)
    _say_terms(args.name)
    with console.meter() as meter:
        file = get(
            args.name,
            args.dir,
            timeout_s=args.timeout,
            url=args.url,
            progress=lambda done, total: meter.update(Progress("fetch", done, total, "bytes")),
        )
    return _done(entry.name, file)


def _convert(args: argparse.Namespace) -> int:
    from worldloom.generator.weights import convert

    _say_terms(args.name)
    return _done(args.name, convert(args.name, args.file, args.dir, config=_sizes(args.config)))


def _sizes(file: Path | None) -> dict[str, Any] | None:
    """The sizes of a network from a JSON file."""
    if file is None:
        return None
    try:
        sizes = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequest(
            f"--config {file} cannot be read as JSON ({str(error)[:120]}); "
            "give an object with the sizes of the network"
        ) from error
    if not isinstance(sizes, dict):
        raise InvalidRequest(f"--config {file} holds a {type(sizes).__name__}; give an object")
    return sizes


def _verify(args: argparse.Namespace) -> int:
    from worldloom.generator.weights import catalogue, find_weights, lookup, verify
    from worldloom.generator.weights_network import facts, noted

    names = [args.name] if args.name else [
        entry.name for entry in catalogue() if find_weights(entry.name, args.dir)
    ]  # fmt: skip
    for name in names:
        file = verify(name, args.dir)
        entry, held = lookup(name), facts(file)
        digest = entry.converted_sha256 or noted(entry, file)["sha256"]
        console.emit(
            "weights", name=name, file=str(file), verified=True, sha256=digest, bytes=held.bytes,
            tensors=held.tensors, parameters=held.parameters, types=list(held.types),
            licence=entry.licence, research_only=entry.research_only,
        )  # fmt: skip
        console.say(f"  {name}: {file} is what it should be")
        console.say(f"    sha256 {digest}, {held.bytes:,} bytes")
        console.say(
            f"    {held.tensors} tensors, {held.parameters:,} parameters in "
            f"{', '.join(held.types)}; largest {held.largest}"
        )
        use = "research only" if entry.research_only else "free to use"
        console.say(f"    licence {entry.licence}, {use}")
    if not names:
        console.say("  no weights are here; see: worldloom weights list")
    return 0


def _say_terms(name: str) -> None:
    from worldloom.generator.weights import lookup

    entry = lookup(name)
    console.say(f"  {entry.title}")
    console.say(f"  licence {entry.licence}, {entry.note}; source {entry.source}")
    if entry.research_only:
        console.say("  RESEARCH ONLY: worlds made with these weights may not be used commercially")


def _done(name: str, file: Path) -> int:
    console.emit("weights", name=name, file=str(file))
    console.say(f"  wrote {file}")
    console.say("  it is used from now on by whatever needs it; see: worldloom doctor")
    return 0
