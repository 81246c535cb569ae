"""Many callers at once, in a process of their own: crowd.py ADDRESS {"what": ..., ...}.

It says `begun` when all calls are on their way, and at the end one JSON object of what came.
"""

import asyncio
import json
import sys
from collections import Counter

import grpc

from worldloom.bridge.channel import SERVICE_CONFIG
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc

SENT_BACK_MOST = 20
"""Times that a caller whose call was sent back unread, above the limit of streams, tries again."""
LOCAL = ("grpc.use_local_subchannel_pool", 1)  # Otherwise equal channels share a connection.


def say(**what):
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def channels(address, count):
    """Connections that repeat what HTTP/2 sent back unread, as those of our client do."""
    options = [LOCAL, ("grpc.service_config", json.dumps(SERVICE_CONFIG))]
    return [grpc.aio.insecure_channel(address, options) for _ in range(count)]


async def create(address, *, requests, template, connections, token=""):
    """Send so many different requests as fast as possible; how each ended."""
    opened = channels(address, connections)
    # Only a client that is connected knows how many calls it may begin at once.
    await asyncio.gather(*(channel.channel_ready() for channel in opened))
    stubs = [rpc.WorldsStub(channel) for channel in opened]
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    ends, waits = Counter(), 0

    async def one(number):
        nonlocal waits
        message = pb.CreateJobRequest(
            kind="generate", request_json=template.replace('"seed":0', f'"seed":{number}')
        )
        for _ in range(SENT_BACK_MOST):
            try:
                await stubs[number % connections].CreateJob(message, metadata=metadata)
                ends["OK"] += 1
                return
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(0.5)
                    continue
                ends[error.code().name] += 1
                waits += any(key == "retry-after-ms" for key, _ in error.trailing_metadata())
                return
        ends["UNAVAILABLE"] += 1

    calls = [asyncio.create_task(one(1 + number)) for number in range(requests)]
    await asyncio.sleep(0)
    say(begun=True)
    await asyncio.gather(*calls)
    say(ends=ends, told_when=waits)


async def watch(address, *, name, connections):
    """Watch a job so many times, each over its own connection; what each saw."""
    opened = channels(address, connections)
    calls = [rpc.WorldsStub(channel).WatchJob(pb.WatchJobRequest(name=name)) for channel in opened]
    streams = [aiter(call) for call in calls]
    first = await asyncio.gather(*(anext(stream) for stream in streams))
    say(begun=True)

    async def rest(event, stream):
        seen = [event.seq]
        async for later in stream:
            seen.append(later.seq)
        return [seq for seq in seen if seq]

    seen = await asyncio.gather(*map(rest, first, streams))
    say(seen=Counter(map(str, seen)))


async def leave(address, *, name, connections):
    """The same, but all connections are cut when a line comes."""
    opened = channels(address, connections)
    calls = [rpc.WorldsStub(channel).WatchJob(pb.WatchJobRequest(name=name)) for channel in opened]
    await asyncio.gather(*(call.read() for call in calls))
    say(begun=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for call in calls:
        call.cancel()
    await asyncio.gather(*(channel.close() for channel in opened))
    say(left=len(calls))


async def read(address, *, sha256, connections, streams):
    """Read a blob again and again, with so many streams at once, until the process ends."""
    stubs = [rpc.WorldsStub(channel) for channel in channels(address, connections)]

    async def again(stub):
        while True:
            try:
                async for _ in stub.ReadBlob(pb.ReadBlobRequest(sha256=sha256)):
                    pass
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.01)

    calls = [asyncio.create_task(again(stubs[k % connections])) for k in range(streams)]
    await asyncio.sleep(0.5)
    say(begun=True)
    await asyncio.gather(*calls)


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    asyncio.run({"create": create, "watch": watch, "leave": leave, "read": read}
                [given.pop("what")](sys.argv[1], **given))  # fmt: skip
