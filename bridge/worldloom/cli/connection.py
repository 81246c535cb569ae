"""Options that name a server and the caller -> a connection to it."""

from __future__ import annotations

import argparse
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from worldloom.cli import console

if TYPE_CHECKING:
    from worldloom.bridge.channel import Access
    from worldloom.bridge.client import WorldsClient

STORE = Path("worldloom-store")
"""Store of `worldloom serve` where nobody names another."""
PATIENCE_S = 600.0
"""How long `watch` and `fetch` wait for a server that is away [s]: a restart, a new version."""


def add_server_options(parser: argparse.ArgumentParser, *, store: bool = True) -> None:
    """Options of every command that talks to a server."""
    group = parser.add_argument_group("server")
    add = group.add_argument
    add("--server", metavar="HOST:PORT", help="address of the server")
    if store:
        add("--store", type=Path, metavar="DIR", help="or the store that it runs on, on this host")
    add("--token-file", type=Path, metavar="F", help="file with your token, readable by you alone")
    add("--tls-ca", type=Path, metavar="F", help="certificates that sign the server's")
    add("--tls-cert", type=Path, metavar="F", help="your own certificate, for servers that ask")
    add("--tls-key", type=Path, metavar="F", help="and its private key")


def add_patience_option(parser: argparse.ArgumentParser) -> None:
    """How long to wait for a server that is away."""
    parser.add_argument(
        "--patience", type=float, default=PATIENCE_S, metavar="S",
        help=f"wait this long for a server that is away, default {PATIENCE_S:g}",
    )  # fmt: skip


def access_of(args: argparse.Namespace) -> Access:
    """Token and certificates: the options, else the environment."""
    from worldloom.bridge.channel import Access

    given = {f.name: getattr(args, f.name, None) for f in fields(Access)}
    return replace(Access.from_environment(), **{k: v for k, v in given.items() if v})


def address_of(args: argparse.Namespace) -> str:
    """The address that was given, or that of the server on a store.

    Raises:
        InvalidRequest: There is neither.
    """
    if args.server:
        return args.server
    from worldloom.bridge.remote import address_on

    return address_on(args.store or STORE)


def connect(args: argparse.Namespace) -> WorldsClient:
    """A connection to the server that the options name."""
    from worldloom.bridge.client import WorldsClient
    from worldloom.bridge.streams import AWAY_S

    patience = getattr(args, "patience", AWAY_S)

    def tell(error: Exception) -> None:
        console.note(f"{error}. Waiting for it, at most {patience:g} s; Ctrl-C ends only this")

    return WorldsClient(
        address_of(args), access=access_of(args), away_s=patience,
        on_away=tell if hasattr(args, "patience") else None,
    )  # fmt: skip
