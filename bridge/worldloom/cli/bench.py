"""`worldloom bench ...`: the table of benchmarks."""

from __future__ import annotations

import argparse
import importlib

BENCHMARKS: dict[str, tuple[str, str]] = {
    # name: (module under worldloom.cli, one line of help); its functions are add_/run_<name>.
    "truth": ("bench_truth", "worlds made of scenes that are known exactly"),
    "world": ("bench_world", "finished worlds, by the protocol of the Lyra 2.0 paper"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of all benchmarks."""
    commands = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    for name, (module_name, help_line) in BENCHMARKS.items():
        module = importlib.import_module(f"worldloom.cli.{module_name}")
        command = commands.add_parser(name, help=help_line, description=help_line)
        getattr(module, f"add_{name}_arguments")(command)
        _add_common(command)


def run(args: argparse.Namespace) -> int:
    """Run the chosen benchmark."""
    module = importlib.import_module(f"worldloom.cli.{BENCHMARKS[args.what][0]}")
    return getattr(module, f"run_{args.what}")(args)


def _add_common(command: argparse.ArgumentParser) -> None:
    """The options of every command, behind the benchmark's name too."""
    # Suppressed defaults leave alone what was given before the benchmark's name.
    for option, text in (
        ("--json", "one JSON object per line"),
        ("--verbose", "log to the errors"),
    ):
        command.add_argument(option, action="store_true", default=argparse.SUPPRESS, help=text)
