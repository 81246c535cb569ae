"""Jobs and their events -> streams of events, for many watchers at the price of few.

Watchers of one job that stand at the same event share one look into the journal, however many
they are: a thousand of them ask it no more often than one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from worldloom.bridge.journal import Journal
from worldloom.bridge.lanes import Lanes
from worldloom.bridge.messages import event_message
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.v1 import bridge_pb2 as pb
from worldloom.scene.errors import ServerUnreachable


@dataclass(frozen=True)
class News:
    """What the journal says of a job after some event."""

    events: tuple[pb.Event, ...]
    ended: bool
    """Whether nothing more will come."""


class Watching:
    """Follows jobs; used on the event loop only."""

    def __init__(
        self, journal: Journal, scheduler: Scheduler, lanes: Lanes, *, heartbeat_s: float
    ) -> None:
        """Begin with nobody watching.

        Args:
            journal: Where events are.
            scheduler: Tells when to look again.
            lanes: How many looks at a time.
            heartbeat_s: Longest silence [s].
        """
        self._journal, self._scheduler, self._lanes = journal, scheduler, lanes
        self._heartbeat_s = heartbeat_s
        self._looks: dict[tuple[str, int], asyncio.Task[News]] = {}

    async def follow(self, name: str, after: int) -> AsyncIterator[pb.Event]:
        """Events of a job after a number, until it has ended.

        Raises:
            ServerUnreachable: The server is about to end.
        """
        queue = self._scheduler.subscribe(name)
        try:
            while True:
                news = await self._look(name, after)
                for event in news.events:
                    after = event.seq
                    yield event
                if news.ended:
                    return
                if self._scheduler.draining:
                    raise ServerUnreachable("the server is shutting down; watch again later")
                async with aclosing(self._live(queue)) as events:
                    async for event in events:
                        yield event
        finally:
            self._scheduler.unsubscribe(name, queue)

    async def _look(self, name: str, after: int) -> News:
        """What is new, from a look that begins after this call."""
        key = (name, after)
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = asyncio.create_task(self._begin(key))
        return await asyncio.shield(look)

    async def _begin(self, key: tuple[str, int]) -> News:
        async with self._lanes.turn("watch"):
            # Who comes from here on may know of something newer than this look will see.
            del self._looks[key]
            return await self._scheduler.io(self._read, *key)

    def _read(self, name: str, after: int) -> News:
        # The state comes first: an end between the two is seen next time.
        ended = self._journal.get(name).ended
        entries = self._journal.events(name, after)
        messages = (event_message(entry.seq, entry.at_unix_s, entry.body) for entry in entries)
        return News(tuple(messages), ended)

    async def _live(self, queue: asyncio.Queue[dict[str, Any] | None]) -> AsyncIterator[pb.Event]:
        """Ephemeral events until the journal has something new, or a heartbeat is due."""
        while True:
            try:
                body = await asyncio.wait_for(queue.get(), self._heartbeat_s)
            except TimeoutError:
                yield event_message(0, time.time(), {"type": "heartbeat"})
                return
            if body is None:
                return
            yield event_message(0, time.time(), body)
