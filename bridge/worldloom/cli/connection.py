"""Options that name a server and the caller -> a connection to it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from worldloom.cli import console
from worldloom.scene.errors import InvalidRequest, ServerUnreachable

if TYPE_CHECKING:
    from worldloom.bridge.channel import Access
    from worldloom.bridge.client import WorldsClient

Result = TypeVar("Result")
STORE = Path("worldloom-store")
"""Store of `worldloom serve` where nobody names another."""
TELL_AT = 2
"""Failure in a row that is worth a word: the first is often a connection that was only cut."""
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

    if not args.server and "store" not in args:
        # The command starts a server of its own: the environment speaks of others.
        return Access()
    given = {f.name: getattr(args, f.name, None) for f in fields(Access)}
    access = replace(Access.from_environment(), **{k: v for k, v in given.items() if v})
    if not args.server and not _has_tls(args.store or STORE):
        access = replace(access, tls_ca=None, tls_cert=None, tls_key=None)
    return access


def _has_tls(store: Path) -> bool:
    """Whether the server on a store speaks TLS; `address_of` says what is wrong with its record."""
    try:
        return bool(json.loads((store / "server.json").read_text()).get("tls"))
    except (OSError, ValueError, AttributeError):
        return True


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

    address, patience = address_of(args), getattr(args, "patience", None)

    def away(error: Exception, failures: int) -> None:
        if failures == TELL_AT:
            console.note(f"{error}. Waiting for it, at most {patience:g} s; Ctrl-C ends only this")
        if not args.server and _is_elsewhere(args, address):
            raise _Moved(str(error))

    return WorldsClient(
        address, access=access_of(args), away_s=AWAY_S if patience is None else patience,
        on_away=None if patience is None else away,
    )  # fmt: skip


def with_server(args: argparse.Namespace, work: Callable[[WorldsClient], Result]) -> Result:
    """Run `work` with a connection; again when the server on a store is back on another port."""
    while True:
        try:
            with connect(args) as client:
                return work(client)
        except _Moved:
            console.note(f"the server is back at {address_of(args)}")


class _Moved(ServerUnreachable):
    """The server on a store has another address now."""

    code = "server-moved"


def _is_elsewhere(args: argparse.Namespace, address: str) -> bool:
    try:
        return address_of(args) != address
    except InvalidRequest:
        return False  # It has not started again so far.
