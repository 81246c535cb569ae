"""What is told at once and what may wait, where every message costs the same."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldloom.bridge.coalesce import batches


def progress(done, stage="generate"):
    return {"type": "progress", "stage": stage, "done": done}


def news(number):
    return {"type": "log", "text": str(number)}


def collect(events, *, every_s=60.0):
    async def whole():
        return [batch async for batch in batches(events(), every_s=every_s)]

    return asyncio.run(whole())


def test_news_goes_at_once_and_takes_the_newest_progress_with_it():
    async def events():
        yield news(0)  # Progress may come in every `every_s` from here on.
        for done in range(5):
            yield progress(done)
        yield progress(7, "lift")
        yield news(1)

    told = collect(events)
    assert told == [[news(0)], [progress(4), progress(7, "lift"), news(1)]]


def test_progress_alone_comes_now_and_then():
    async def events():
        for done in range(40):
            yield progress(done)
            await asyncio.sleep(0.01)

    began = time.monotonic()
    told = collect(events, every_s=0.1)
    took = time.monotonic() - began
    assert told[-1] == [progress(39)]  # The last one is never lost.
    assert 2 <= len(told) <= took / 0.1 + 2


def test_what_the_events_raise_comes_through_after_what_they_told():
    async def events():
        yield news(0)
        raise OSError("gone")

    told = []

    async def whole():
        async for batch in batches(events(), every_s=1.0):
            told.append(batch)

    with pytest.raises(OSError, match="gone"):
        asyncio.run(whole())
    assert told == [[news(0)]]


def test_events_that_nobody_wants_any_more_are_closed():
    closed = []

    async def events():
        try:
            while True:
                yield news(0)
                await asyncio.sleep(0.01)
        finally:
            closed.append(True)

    async def whole():
        made = batches(events(), every_s=1.0)
        assert await anext(made) == [news(0)]
        await made.aclose()

    asyncio.run(whole())
    assert closed == [True]


@given(st.lists(st.one_of(st.integers(0, 3).map(news), st.integers(0, 3).map(progress))))
def test_all_news_comes_in_order_and_the_last_progress_is_told(told):
    async def events():
        for event in told:
            yield event

    came = [event for batch in collect(events) for event in batch]
    assert [e for e in came if e["type"] == "log"] == [e for e in told if e["type"] == "log"]
    assert came[-1:] == told[-1:]
