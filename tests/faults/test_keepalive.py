"""The names of keepalive options do what they say: gRPC ignores names that it does not know."""

import threading
from concurrent import futures

import grpc

from worldloom.bridge.server import channel_options
from worldloom.scene.limits import Limits

PING_MS = 1000  # The least that gRPC accepts.
QUIET_S = b"6.5"
OFTEN = (
    "grpc.keepalive_time_ms", "grpc.http2.min_sent_ping_interval_without_data_ms",
    "grpc.http2.min_time_between_pings_ms",
)  # fmt: skip
OURS = "grpc.http2.min_ping_interval_without_data_ms"


def end_of_a_quiet_call(options):
    """How a call ends for which only pings were sent for some seconds."""

    def answer(request, context):
        threading.Event().wait(float(request))
        return b"OK"

    handler = grpc.method_handlers_generic_handler(
        "quiet", {"Wait": grpc.unary_unary_rpc_method_handler(answer)}
    )
    often = [(name, PING_MS) for name in OFTEN] + [("grpc.http2.max_pings_without_data", 0)]
    with futures.ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=options)
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        with grpc.insecure_channel(f"127.0.0.1:{port}", often) as channel:
            call = channel.unary_unary("/quiet/Wait").future(QUIET_S, timeout=20)
            error = call.exception()
        server.stop(0)
    return "OK" if error is None else f"{error.code().name} {error.details()}"


def test_only_one_name_lets_quiet_connections_live():
    ours = dict(channel_options(Limits()))
    assert ours[OURS] == 20_000  # Our clients ping every 30 s.
    quick = [(name, PING_MS // 3 if name == OURS else value) for name, value in ours.items()]
    other = [("grpc.http2.min_recv_ping_interval_without_data_ms", PING_MS // 3)]
    with futures.ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(end_of_a_quiet_call, (quick, other)))
    assert ends[0] == "OK"
    assert ends[1].startswith("UNAVAILABLE")
    assert "pings" in ends[1]
