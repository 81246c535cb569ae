"""Streams that end: one that stands still is given up, one that broke is tried again for a while.

gRPC has a deadline for a whole call but none for the next message, and it never repeats a stream
whose first message has come. Both are done here, for every stream of the client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from worldloom.bridge.status import error_of
from worldloom.scene.errors import ServerUnreachable, WorldloomError

IDLE_S = 30.0
"""Silence after which a stream counts as broken [s]; the server's heartbeat comes every 10 s."""
AWAY_S = 20.0
"""How long a server may be away before it counts as gone [s]."""
PAUSE_S = (0.2, 5.0)
"""First and longest pause between two tries [s]."""
BROKEN = ("CANCELLED", "INTERNAL", "UNKNOWN", "DATA_LOSS", "RESOURCE_EXHAUSTED")
"""What gRPC itself says of a damaged connection; a refusal by a server has an error code too."""


class Tries:
    """How long something may fail in a row before it counts as gone."""

    def __init__(
        self, away_s: float = AWAY_S, on_away: Callable[[Exception, int], None] | None = None
    ) -> None:
        self._away_s, self._on_away = away_s, on_away
        self._count = 0
        self._since = 0.0

    def news(self) -> None:
        """Note that something came: the patience is whole again."""
        self._count = 0

    def again(self, error: Exception) -> bool:
        """Note a failure and wait a little; False when the patience is at its end."""
        now = time.monotonic()
        if self._count == 0:
            self._since = now
        self._count += 1
        pause = min(PAUSE_S[1], PAUSE_S[0] * 2 ** min(self._count, 10))
        if now + pause - self._since > self._away_s:
            return False
        if self._on_away is not None:
            self._on_away(error, self._count)
        time.sleep(pause)
        return True


class Idle:
    """Cancels a call when nothing came from it for a while; waits in a thread of its own."""

    def __init__(self, call: Any, idle_s: float) -> None:
        self._call, self._idle_s = call, idle_s
        self._change = threading.Condition()
        self._until: float | None = None
        self._ended = False
        self.fired = False
        self._thread = threading.Thread(target=self._watch, name="idle-call", daemon=True)
        self._thread.start()

    def waiting(self, extra_s: float = 0.0) -> None:
        """From now on the other side has to say something, within the idle time and a bit more."""
        self._set(time.monotonic() + self._idle_s + extra_s)

    def busy(self) -> None:
        """This side works: the time does not count."""
        self._set(None)

    def end(self) -> None:
        """Stop watching."""
        with self._change:
            self._ended = True
            self._change.notify()
        self._thread.join()

    def _set(self, until: float | None) -> None:
        # The thread wakes by itself at the time it knows; only an earlier one needs a word.
        with self._change:
            sooner = self._until is None and until is not None
            self._until = until
            if sooner:
                self._change.notify()

    def _watch(self) -> None:
        with self._change:
            while not self._ended:
                left = None if self._until is None else self._until - time.monotonic()
                if left is not None and left <= 0:
                    self.fired = True
                    self._call.cancel()
                    return
                self._change.wait(left)


@contextmanager
def idle_guard(call: Any, idle_s: float, address: str) -> Iterator[Idle]:
    """Guard a call; its gRPC errors become ours.

    Raises:
        ServerUnreachable: It stood still, or its connection broke.
        WorldloomError: What the server itself says.
    """
    idle = Idle(call, idle_s)
    try:
        yield idle
    except (grpc.RpcError, grpc.FutureCancelledError) as broken:
        # gRPC raises the call itself, so that its traceback makes a circle with it. A call that
        # lives until the interpreter ends can keep it from ending: gRPC's threads stand still by
        # then, perhaps with the call's lock in their hands.
        broken.__traceback__ = None
        if idle.fired:
            raise ServerUnreachable(
                f"nothing came from the server at {address} for {idle_s:g} s; the connection "
                "stands still. The same command continues"
            ) from None
        raise stream_error(broken, address) from None
    finally:
        idle.end()
        call.cancel()


def messages_of(call: Any, idle_s: float, address: str) -> Iterator[Any]:
    """The messages of a stream; the call is cancelled when its reader stops.

    Raises:
        ServerUnreachable: It stood still for `idle_s` seconds, or its connection broke.
        WorldloomError: What the server itself says.
    """
    stream: Iterable[Any] = iter(call)
    with idle_guard(call, idle_s, address) as idle:
        while True:
            idle.waiting()
            message = next(stream, None)
            idle.busy()
            if message is None:
                return
            yield message


def is_cut(broken: Any) -> bool:
    """Whether a call failed because its connection ended while the answer came."""
    told = "error-code" in dict(broken.trailing_metadata() or ())
    text = broken.details() or ""
    return broken.code().name == "UNAVAILABLE" and not told and "failed to connect" not in text


def stream_error(broken: Any, address: str) -> WorldloomError:
    """The error of a broken stream: damage on the way is worth another try, a refusal is not."""
    told = "error-code" in dict(broken.trailing_metadata() or ())
    if not told and broken.code().name in BROKEN:
        text = broken.details() or "no reason given"
        return ServerUnreachable(
            f"the connection to {address} broke ({broken.code().name}: {text[:200]})"
        )
    return error_of(broken, address)
