"""`worldloom serve`: run a generation server until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from worldloom.cli import console
from worldloom.scene.errors import InvalidRequest
from worldloom.scene.limits import Limits

if TYPE_CHECKING:
    from worldloom.bridge.server import ServerOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `worldloom serve`."""
    parser.add_argument("--engine", default="preview", help="preset for clients that name none")
    parser.add_argument("--bind", default="127.0.0.1:0", metavar="HOST:PORT", help="0 = any port")
    parser.add_argument("--store", type=Path, default=Path("worldloom-store"), metavar="DIR")
    parser.add_argument("--workers", type=int, default=0, metavar="N",
                        help="jobs at the same time; by default one a GPU")  # fmt: skip
    parser.add_argument("--ray", default="", metavar="ADDRESS",
                        help="run jobs on a Ray cluster: HOST:PORT, or auto")  # fmt: skip
    parser.add_argument("--weights", type=Path, metavar="DIR", help="folder of model weights")
    _add_safety(parser.add_argument_group("beyond this machine (docs/serving.md)"))
    _add_operation(parser.add_argument_group("operation (docs/serving.md)"))
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--describe", help=argparse.SUPPRESS)


def _add_safety(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM)")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    group.add_argument("--tls-client-ca", type=Path, metavar="FILE",
                       help="ask callers for a certificate of this CA (mTLS)")  # fmt: skip
    group.add_argument("--tokens", type=Path, metavar="FILE",
                       help="ask callers for a token; a file of owners and hashes")  # fmt: skip
    group.add_argument("--new-token", metavar="OWNER",
                       help="add a token to --tokens, print it once, and exit")  # fmt: skip


def _add_operation(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--quota", type=float, metavar="GB",
                       help="most gigabytes of one owner in the store")  # fmt: skip
    group.add_argument("--limit", action="append", default=[], metavar="NAME=NUMBER",
                       help="another limit, such as queue_per_owner=8; repeatable")  # fmt: skip
    group.add_argument("--metrics", type=int, metavar="PORT",
                       help="Prometheus page on 127.0.0.1; 0 = any port")  # fmt: skip
    group.add_argument("--log-json", action="store_true",
                       help="log JSON lines with job names to the error output")  # fmt: skip
    group.add_argument("--debug", action="store_true",
                       help="offer gRPC reflection and channelz")  # fmt: skip
    group.add_argument("--print-systemd", action="store_true",
                       help="print a systemd unit with these options, and exit")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve; prints one JSON line {address, pid} when calls are answered."""
    if args.new_token is not None:
        return _new_token(args)
    if args.print_systemd:
        from worldloom.cli.systemd import unit

        print(unit(args), end="")
        return 0
    # Otherwise gRPC writes a line of its own for every stranger whose handshake fails.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from worldloom.bridge.joblogs import log_to_stderr
    from worldloom.bridge.server import serve

    log_to_stderr(as_json=args.log_json)
    if args.weights is not None:
        os.environ["WORLDLOOM_WEIGHTS"] = str(args.weights.resolve())

    def ready(address: str) -> None:
        print(json.dumps({"address": address, "pid": os.getpid()}), flush=True)

    asyncio.run(serve(server_options(args), ready))
    return 0


def server_options(args: argparse.Namespace) -> ServerOptions:
    """What the options of the command mean to the server."""
    from dataclasses import replace

    from worldloom.bridge.server import ServerOptions
    from worldloom.bridge.tls import Safety

    options = ServerOptions(
        store=args.store, bind=args.bind, engine=args.engine, slots=max(0, args.workers),
        ray=args.ray, metrics=args.metrics, debug=args.debug, limits=chosen_limits(args),
        safety=Safety(
            tls_cert=args.tls_cert, tls_key=args.tls_key, client_ca=args.tls_client_ca,
            tokens=args.tokens,
        ),
    )  # fmt: skip
    # Tests run a toy instead of the generator through these two.
    hidden = {"target": args.target, "describe": args.describe}
    return replace(options, **{name: value for name, value in hidden.items() if value})


def chosen_limits(args: argparse.Namespace) -> Limits:
    """The limits that --limit and --quota ask for.

    Raises:
        InvalidRequest: There is no such limit, or that is no number for it.
    """
    wanted: dict[str, float] = {}
    for text in args.limit:
        name, _, number = text.partition("=")
        if name not in Limits.__dataclass_fields__:
            raise InvalidRequest(
                f"there is no limit {name[:60]!r}; there are "
                f"{', '.join(sorted(Limits.__dataclass_fields__))}",
                field="limit",
            )
        wanted[name] = _number(name, number)
    if args.quota is not None:
        wanted["owner_bytes"] = _number("owner_bytes", str(int(args.quota * 1e9)))
    return Limits(**wanted)


def _number(name: str, text: str) -> float:
    """A limit in the type of its default."""
    try:
        value = type(getattr(Limits(), name))(text)
    except ValueError:
        value = -1
    if not 0 <= value < 2**62:
        raise InvalidRequest(
            f"limit {name} is {text[:40]!r}; use a number from 0 on, such as "
            f"{name}={getattr(Limits(), name)}",
            field="limit",
        )
    return value


def _new_token(args: argparse.Namespace) -> int:
    """Print a fresh token, alone on the standard output so that it can be sent to a file."""
    from worldloom.bridge.tokens import add_token

    if args.tokens is None:
        raise InvalidRequest("--new-token OWNER needs --tokens FILE, the file to add it to")
    token = add_token(args.tokens, args.new_token)
    if console.is_json():
        console.emit("token", owner=args.new_token, token=token)
    else:
        print(token)
    console.note(
        f"{args.tokens} keeps only its hash, so this is the one time that it is shown. A server "
        "that runs reads the file again on SIGHUP"
    )
    return 0
