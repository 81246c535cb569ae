"""Events -> batches for a link where every message costs the same, however large it is.

News goes at once. Progress that a newer one of its stage replaces is dropped, and what is left
waits for news or for a moment. Order is kept.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

Event = dict[str, Any]


async def batches(events: AsyncIterator[Event], *, every_s: float) -> AsyncIterator[list[Event]]:
    """Group events.

    Args:
        events: What happens; closed at the end.
        every_s: Progress alone makes a batch at most this often [s].
    """
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    reader = asyncio.create_task(_read(events, queue))
    kept: dict[str, Event] = {}
    due = time.monotonic()
    try:
        while True:
            body = await _next(queue, max(0.0, due - time.monotonic()) if kept else None)
            if body is not None and body["type"] == "progress":
                kept[body["stage"]] = body
                continue
            batch = [*kept.values(), *([] if body is None else [body])]
            if batch:
                kept.clear()
                due = time.monotonic() + every_s
                yield batch
            if reader.done() and queue.empty():
                await reader  # What the events raised is raised here.
                return
    finally:
        reader.cancel()
        await asyncio.wait([reader])


async def _next(queue: asyncio.Queue[Event | None], within_s: float | None) -> Event | None:
    """The next event; None when the time is over, or the events are."""
    try:
        return await asyncio.wait_for(queue.get(), within_s)
    except TimeoutError:
        return None


async def _read(events: AsyncIterator[Event], queue: asyncio.Queue[Event | None]) -> None:
    try:
        async with aclosing(events):
            async for body in events:
                queue.put_nowait(body)
    finally:
        queue.put_nowait(None)
