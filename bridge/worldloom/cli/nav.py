"""`worldloom nav ...`: the table of navigation subcommands."""

from __future__ import annotations

import argparse
import importlib

SUBCOMMANDS: dict[str, tuple[str, str]] = {
    # name: (module under worldloom.cli, one line of help); its functions are add_/run_<name>.
    "build": ("nav_build", "navigation grid, ROS map and guide mesh of a world"),
    "report": ("nav_build", "judge a world for navigation"),
    "sample": ("nav_build", "draw episodes and write a dataset"),
    "check": ("nav_build", "check a dataset"),
    "run": ("nav_run", "run a policy on a dataset"),
    "score": ("nav_run", "score raw logs"),
    "html": ("nav_run", "report page of a scored run"),
    "compare": ("nav_run", "compare two runs, paired by episode"),
    "replay": ("nav_run", "show one episode"),
    "drop": ("nav_run", "drop spheres on the collider with PhysX"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of all navigation subcommands."""
    commands = parser.add_subparsers(dest="nav", required=True, metavar="WHAT")
    for name, (module_name, help_line) in SUBCOMMANDS.items():
        module = importlib.import_module(f"worldloom.cli.{module_name}")
        command = commands.add_parser(name, help=help_line, description=help_line)
        getattr(module, f"add_{name}_arguments")(command)


def run(args: argparse.Namespace) -> int:
    """Run the chosen subcommand."""
    module = importlib.import_module(f"worldloom.cli.{SUBCOMMANDS[args.nav][0]}")
    return getattr(module, f"run_{args.nav}")(args)
