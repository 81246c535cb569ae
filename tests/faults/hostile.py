"""A server that answers as a test wants, and a client of it."""

import hashlib
import itertools
import zlib
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from worldloom.bridge import streams
from worldloom.bridge.client import WorldsClient
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.bridge.v1 import bridge_pb2_grpc as rpc
from worldloom.scene.limits import MIB


class Hostile(rpc.WorldsServicer):
    """Answers as its test wants; what is not set is harmless."""

    def __init__(self):
        self.server = pb.Server(version="1", protocol_min=1, protocol_max=1)
        self.events = []
        self.blobs = {}
        self.parts = None
        self.pages = itertools.repeat(pb.ListJobsResponse())
        self.stat = pb.BlobStat()
        self.reads = 0

    def put(self, kind, path, data, *, chunk=0, **said):
        """Announce a file; `{}` in its path stands for its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        fields = {"chunk": chunk, "kind": kind, "path": path.format(digest), "sha256": digest,
                  "bytes": len(data), **said}  # fmt: skip
        self.events.append(pb.Event(seq=len(self.events) + 1, artifact=pb.Artifact(**fields)))
        return fields

    def end(self):
        self.events.append(pb.Event(seq=len(self.events) + 1, state=pb.State(state="done")))

    def GetServer(self, request, context):
        return self.server

    def GetJob(self, request, context):
        return pb.Job(name=request.name, state="running")

    def ListJobs(self, request, context):
        return next(self.pages)

    def StatBlob(self, request, context):
        return self.stat

    def WriteBlob(self, request, context):
        for _ in request:
            pass
        return self.stat

    def WatchJob(self, request, context):
        yield from itertools.takewhile(lambda _: context.is_active(), self.events)

    def ReadBlob(self, request, context):
        self.reads += 1
        if self.parts is not None:
            yield from itertools.takewhile(lambda _: context.is_active(), self.parts(request))
            return
        data = self.blobs[request.sha256]
        for at in range(request.offset, len(data), MIB):
            yield part(at, data[at : at + MIB])


def part(offset, data):
    return pb.Part(offset=offset, data=data, crc32=zlib.crc32(data))


@pytest.fixture
def hostile():
    return Hostile()


@pytest.fixture
def client(hostile, monkeypatch):
    monkeypatch.setattr(streams, "PAUSE_S", (0.01, 0.05))
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.max_send_message_length", -1)])
    rpc.add_WorldsServicer_to_server(hostile, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with WorldsClient(f"127.0.0.1:{port}", idle_s=2, away_s=0.3) as connection:
        yield connection
    server.stop(0)
