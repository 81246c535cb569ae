"""The smoke test of the client in any environment: wire_client.py ADDRESS PHOTO FOLDER.

Needs grpcio, protobuf and numpy alone. Prints one JSON line of what it saw.
"""

import json
import sys
from pathlib import Path

import google.protobuf
import grpc

from worldloom.bridge import ArtifactRef, Progress, connect
from worldloom.scene.errors import NotFound
from worldloom.scene.worldfolder import check_files


def main():
    """Ask for worlds, watch, fetch, cancel and delete."""
    address, photo, folder = sys.argv[1:]
    with connect(address) as server:
        job = server.generate(photo, path="dolly", frames=161, seed=9000)
        events = list(job.watch())
        world = job.fetch(folder)
        slow = server.generate(photo, prompt='{"slow": 60}', seed=9001)
        slow.cancel()
        end = list(slow.watch())[-1].state
        listed = [found.name for found in server.jobs(limit=2)]
        job.delete()
        try:
            job.refresh()
        except NotFound as error:
            gone = str(error)
    said = {
        "protobuf": google.protobuf.__version__,
        "grpcio": grpc.__version__,
        "files": sum(isinstance(event, ArtifactRef) for event in events),
        "progress": any(isinstance(event, Progress) for event in events),
        "complete": world.complete,
        "problems": check_files(Path(folder), world),
        "cancelled": end,
        "listed": listed == [slow.name, job.name],
        "gone": gone,
    }
    sys.stdout.write(json.dumps(said) + "\n")


if __name__ == "__main__":
    main()
