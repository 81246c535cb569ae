"""What moving bytes costs without our protocol: a raw socket, and bare gRPC in four ways.

Run as a script it is the server of one of them: it prints its port and serves until it is ended.
"""

import asyncio
import socket
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from worldloom.bridge.v1 import bridge_pb2 as pb

MIB = 1 << 20
OPTIONS = [
    ("grpc.max_send_message_length", 8 * MIB), ("grpc.max_receive_message_length", 8 * MIB),
    ("grpc.http2.max_frame_size", MIB), ("grpc.so_reuseport", 0),
]  # fmt: skip
BARE = ("sync", "sync-identity", "aio", "aio-crc32")
"""Servers of bare gRPC: kind of server, and what is left out or added."""


def main():
    """Serve a file: KIND FILE."""
    kind, data = sys.argv[1], Path(sys.argv[2]).read_bytes()
    if kind == "raw":
        serve_raw(data)
    elif kind.startswith("aio"):
        asyncio.run(serve_aio(data, checksums=kind.endswith("crc32")))
    else:
        serve_sync(data, identity=kind.endswith("identity"))


def serve_raw(data):
    """Send everything to whoever connects."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    view = memoryview(data)
    while True:
        peer, _ = listener.accept()
        with peer:
            for at in range(0, len(data), MIB):
                peer.sendall(view[at : at + MIB])


def parts(data, *, checksums=False):
    """The messages of a stream."""
    for at in range(0, len(data), MIB):
        block = data[at : at + MIB]
        crc = zlib.crc32(block) if checksums else 0
        yield pb.Part(offset=at, data=block, crc32=crc, total=len(data))


def serve_sync(data, *, identity):
    """Bare gRPC, one thread a call."""

    def read(request, context):
        if identity:
            return (data[at : at + MIB] for at in range(0, len(data), MIB))
        return parts(data)

    server = grpc.server(ThreadPoolExecutor(2), options=OPTIONS)
    serializer = None if identity else pb.Part.SerializeToString
    _add(server, read, serializer)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


async def serve_aio(data, *, checksums):
    """Bare gRPC on an event loop."""

    async def read(request, context):
        for part in parts(data, checksums=checksums):
            yield part

    server = grpc.aio.server(options=OPTIONS)
    _add(server, read, pb.Part.SerializeToString)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await server.wait_for_termination()


def _add(server, read, serializer):
    handler = grpc.unary_stream_rpc_method_handler(
        read, request_deserializer=pb.ReadBlobRequest.FromString, response_serializer=serializer
    )
    generic = grpc.method_handlers_generic_handler("bench.Bare", {"Read": handler})
    server.add_generic_rpc_handlers((generic,))


def read_raw(port, size):
    """Receive everything into memory; its bytes."""
    into = bytearray(size)
    view, at = memoryview(into), 0
    with socket.create_connection(("127.0.0.1", port)) as peer:
        while at < size:
            at += peer.recv_into(view[at : at + MIB])
    return into


def read_bare(channel, kind, size):
    """The same over bare gRPC."""
    deserializer = None if kind.endswith("identity") else pb.Part.FromString
    read = channel.unary_stream(
        "/bench.Bare/Read", request_serializer=pb.ReadBlobRequest.SerializeToString,
        response_deserializer=deserializer,
    )  # fmt: skip
    return collect(read(pb.ReadBlobRequest()), size, checksums=kind.endswith("crc32"))


def collect(messages, size, *, checksums):
    """Put the parts of a stream together in memory."""
    into, at = bytearray(size), 0
    for message in messages:
        block = message if isinstance(message, bytes) else message.data
        if checksums and zlib.crc32(block) != message.crc32:
            raise ValueError(f"the part at byte {at} is damaged")
        into[at : at + len(block)] = block
        at += len(block)
    if at != size:
        raise ValueError(f"{at} bytes came of {size}")
    return into


if __name__ == "__main__":
    main()
