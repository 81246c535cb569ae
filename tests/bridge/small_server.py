"""A server with other limits or less patience: small_server.py STORE {"limits": ..., ...}."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from worldloom.bridge.pool import Recycling
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.server import ServerOptions, serve
from worldloom.bridge.tls import Safety
from worldloom.bridge.workers import Patience
from worldloom.cli import console
from worldloom.scene.errors import WorldloomError
from worldloom.scene.limits import Limits


def main():
    given = json.loads(sys.argv[2])
    options = ServerOptions(
        store=Path(sys.argv[1]),
        bind=given.get("bind", "127.0.0.1:0"),
        engine="toy",
        slots=given.get("slots", 1),
        target="toy:make_world",
        describe="toy:describe",
        limits=Limits(**given.get("limits", {})),
        heartbeat_s=given.get("heartbeat_s", 10.0),
        patience=Patience(**given.get("patience", {})),
        recycling=Recycling(**given.get("recycling", {})),
        ray=given.get("ray", ""),
        safety=Safety(tokens=Path(given["tokens"]) if "tokens" in given else None),
    )

    if "problem_file" in given:
        problem = Path(given["problem_file"])
        Scheduler.problem = lambda self: problem.read_text() if problem.exists() else ""

    def say(**what):
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()

    def ready(address):
        # A test asks by a signal how many coroutines run: each open call is one.
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(
            signal.SIGUSR2, lambda: say(tasks=len(asyncio.all_tasks(loop)))
        )
        say(address=address, pid=os.getpid())

    try:
        asyncio.run(serve(options, ready))
    except WorldloomError as error:
        console.fail(error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
