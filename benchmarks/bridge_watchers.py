"""A client process of the bridge's benchmark: many watchers, or endless readers.

`watch ADDRESS JOB N`: N watchers; prints what they saw as one JSON line.
`read ADDRESS SHA256 N`: N streams that read a blob again and again.
"""

import asyncio
import json
import sys
import time

import grpc

from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

PER_CHANNEL = 50
MIB = 1 << 20


async def main():
    """Run as one of the two."""
    what, address, name, count = sys.argv[1:]
    channels = [
        grpc.aio.insecure_channel(
            address, [("n", n), ("grpc.max_receive_message_length", 8 * MIB)]
        )
        for n in range(-(-int(count) // PER_CHANNEL) if what == "watch" else int(count))
    ]
    stubs = [rpc.WorldsStub(channel) for channel in channels]
    if what == "read":
        print("ready", flush=True)
        await asyncio.gather(*(read(stub, name) for stub in stubs))
        return
    ready = Ready(int(count))
    found = await asyncio.gather(
        *(watch(stubs[n // PER_CHANNEL], name, ready) for n in range(int(count)))
    )
    sequences = {tuple(seqs) for seqs, _, _ in found if seqs}
    print(
        json.dumps(
            {
                "sequences": [list(seqs) for seqs in sequences],
                "errors": [error for _, error, _ in found if error][:5],
                "error_count": sum(bool(error) for _, error, _ in found),
                "first_event_s": sorted(first for _, _, first in found)[len(found) // 2],
            }
        ),
        flush=True,
    )


class Ready:
    """Says `ready` when the last watcher has heard its first event."""

    def __init__(self, count):
        self._left = count

    def one(self):
        """One more has."""
        self._left -= 1
        if self._left == 0:
            print("ready", flush=True)


async def watch(stub, name, ready):
    """Numbers of the events of a job in the order in which they came, or the error."""
    numbers, begin, first = [], time.monotonic(), 0.0
    try:
        async for event in stub.WatchJob(pb.WatchJobRequest(name=name)):
            if not numbers and event.seq:
                first = time.monotonic() - begin
                ready.one()
            if event.seq:
                numbers.append(event.seq)
    except grpc.RpcError as error:
        return numbers, str(error.code()), first
    return numbers, "", first


async def read(stub, sha256):
    """Read a blob for ever."""
    while True:
        async for _ in stub.ReadBlob(pb.ReadBlobRequest(sha256=sha256)):
            pass


if __name__ == "__main__":
    asyncio.run(main())
