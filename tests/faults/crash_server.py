"""A server that dies at one of its writes: crash_server.py STORE PORT SLOTS PLAN."""

import asyncio
import json
import os
import sys
from pathlib import Path

import crash_points

from worldloom.bridge.server import ServerOptions, serve


def main():
    store, port, slots, plan = sys.argv[1:]
    crash_points.follow(json.loads(plan))
    options = ServerOptions(
        store=Path(store), bind=f"127.0.0.1:{port}", engine="toy", slots=int(slots),
        target="crash_toy:make_world", describe="crash_toy:describe",
    )  # fmt: skip

    def ready(address):
        sys.stdout.write(json.dumps({"address": address, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()

    asyncio.run(serve(options, ready))


if __name__ == "__main__":
    main()
