"""`worldloom serve`: run a generation server until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from pathlib import Path


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
    parser.add_argument("--target", help=argparse.SUPPRESS)
    parser.add_argument("--describe", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Serve; prints one JSON line {address, pid} when calls are answered."""
    from worldloom.bridge.server import ServerOptions, serve

    if args.weights is not None:
        os.environ["WORLDLOOM_WEIGHTS"] = str(args.weights.resolve())
    options = ServerOptions(
        store=args.store, bind=args.bind, engine=args.engine, slots=max(0, args.workers),
        ray=args.ray,
    )
    # Tests run a toy instead of the generator through these two.
    from dataclasses import replace

    if args.target:
        options = replace(options, target=args.target)
    if args.describe:
        options = replace(options, describe=args.describe)

    def ready(address: str) -> None:
        print(json.dumps({"address": address, "pid": os.getpid()}), flush=True)

    asyncio.run(serve(options, ready))
    return 0
