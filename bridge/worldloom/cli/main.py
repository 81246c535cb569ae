"""The table of subcommands, and the one place where errors become exit codes.

Exit codes: 0 fine, 2 bad input, 3 a gate is not met, 4 server unreachable or refused, 5 engine
failed, 6 storage full or unwritable, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
from collections.abc import Sequence

from worldloom.cli import console
from worldloom.scene.errors import WorldloomError

EXIT_BAD_INPUT, EXIT_INTERRUPTED, EXIT_ENGINE = 2, 130, 5

COMMANDS: dict[str, tuple[str, str, str]] = {
    # name: (module, suffix of its add_/run_ functions, one line of help)
    "demo": ("demo", "", "the whole path on this machine: photo, world, robot, report"),
    "serve": ("serve", "", "run a generation server"),
    "generate": ("generate", "", "make a world from a photo and a camera path"),
    "extend": ("generate", "extend", "go on from the end of a world along a new path"),
    "capture": ("capture", "", "turn a dataset folder into a capture folder"),
    "jobs": ("jobs", "jobs", "list the jobs of a server"),
    "watch": ("jobs", "watch", "follow a job"),
    "fetch": ("jobs", "fetch", "download the world of a job"),
    "cancel": ("jobs", "cancel", "stop a job; what it made is kept"),
    "check": ("check", "", "re-hash a store and repair it, or check a world folder"),
    "export": ("export", "", "write exchange files of a world (ply, glb, trajectory)"),
    "nav": ("nav", "", "navigation: build, report, sample, check, run, score, html, ..."),
    "weights": ("weights", "", "list, get, convert and verify model weights"),
    "bench": ("bench", "", "measure worlds: against known scenes, or by the paper's protocol"),
    "doctor": ("doctor", "", "what this machine can do, and what is missing"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _root_parser()
    if not arguments or arguments[0] in ("-h", "--help"):
        parser.print_help()
        return 0
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"worldloom {version('worldloom')}")
        return 0
    name = arguments[0]
    if name not in COMMANDS:
        close = _close_to(name)
        hint = f"; did you mean {close!r}?" if close else ""
        print(f"worldloom: unknown command {name!r}{hint} See worldloom --help", file=sys.stderr)
        return EXIT_BAD_INPUT
    module_name, suffix, help_line = COMMANDS[name]
    return _run(name, module_name, suffix, help_line, arguments[1:])


def _run(name: str, module_name: str, suffix: str, help_line: str, rest: list[str]) -> int:
    middle = f"_{suffix}" if suffix else ""
    try:
        module = importlib.import_module(f"worldloom.cli.{module_name}")
    except ModuleNotFoundError as error:
        return _missing(error)
    command = argparse.ArgumentParser(prog=f"worldloom {name}", description=help_line)
    getattr(module, f"add{middle}_arguments")(command)
    _add_common(command)
    args = command.parse_args(rest)
    logging.basicConfig(
        level=logging.DEBUG if args.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )
    console.configure(as_json=args.json)
    try:
        return int(getattr(module, f"run{middle}")(args) or 0)
    except WorldloomError as error:
        console.fail(error)
        return error.exit_code
    except KeyboardInterrupt:
        console.note("interrupted; what was made is kept, the same command continues")
        return EXIT_INTERRUPTED
    except ModuleNotFoundError as error:
        return _missing(error)
    except BrokenPipeError:
        # The reader of our output (such as `head`) is gone: nothing is left to say to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _root_parser() -> argparse.ArgumentParser:
    lines = [f"  {name:<10} {line}" for name, (_, _, line) in COMMANDS.items()]
    return argparse.ArgumentParser(
        prog="worldloom",
        usage="worldloom COMMAND [options]   (worldloom COMMAND --help tells the options)",
        description="One photo and a camera path in, a world that a robot can drive through out.",
        epilog="commands:\n" + "\n".join(lines),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    known = {option for action in parser._actions for option in action.option_strings}
    if "--json" not in known:
        parser.add_argument("--json", action="store_true", help="one JSON object per line")
    if "--verbose" not in known:
        parser.add_argument("--verbose", action="store_true", help="log to the error output")


def _close_to(name: str) -> str | None:
    import difflib

    found = difflib.get_close_matches(name, COMMANDS, n=1)
    return found[0] if found else None


def _missing(error: ModuleNotFoundError) -> int:
    """Say which optional part is not installed; re-raise when the module is one of ours."""
    missing = (error.name or "").split(".")[0]
    if missing == "worldloom" and (error.name or "").startswith("worldloom.cli"):
        raise error
    print(
        f"worldloom: the Python package {error.name!r} is not installed; this command needs an "
        "extra. Install all of them with: pip install 'worldloom[demo]'",
        file=sys.stderr,
    )
    return EXIT_BAD_INPUT


if __name__ == "__main__":
    sys.exit(main())
