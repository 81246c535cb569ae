"""Admission for each kind of call: no flood of one kind keeps calls of another waiting.

Journal and disk are served by a few threads in the order of asking. So each kind that can flood
has a lane of its own: few of its calls ask at the same time, the others wait before the lane, and
one owner's waiting calls are bounded. Control calls have no lane and are never refused here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Literal

from worldloom.bridge.rates import Rates
from worldloom.scene.errors import ServerBusy
from worldloom.scene.limits import Limits

Kind = Literal["create", "read", "write", "watch"]
TURNS: dict[Kind, int] = {"create": 2, "read": 2, "write": 2, "watch": 2}
"""Calls of a kind that ask journal or disk at the same time. With four threads for the disk, reads
and writes together leave none idle; a control call waits for a few of them at most."""
SOON_MS = 2000
"""When a refused call is worth another try."""
LONGEST_PACE_S = 10.0
"""Longest pause of a stream that is too fast; its reader would think that it stands still."""
WORDS: dict[Kind, str] = {
    "create": "CreateJob calls are under way", "read": "downloads are under way",
    "write": "uploads are under way", "watch": "watchers are connected",
}  # fmt: skip


class Lanes:
    """The lanes of one server; used on its event loop only."""

    def __init__(self, limits: Limits) -> None:
        self._most: dict[Kind, int] = {
            "create": limits.creates_per_owner, "read": limits.streams_per_owner,
            "write": limits.streams_per_owner, "watch": limits.watch_per_owner,
        }  # fmt: skip
        self._turns = {kind: asyncio.Semaphore(count) for kind, count in TURNS.items()}
        self._open: Counter[tuple[str, str]] = Counter()
        self._jobs, self._bytes = Rates(limits.jobs_per_minute), Rates(limits.bytes_per_minute)

    def count(self, kind: Kind) -> int:
        """How many calls of a kind are under way."""
        return sum(number for (_, open_kind), number in self._open.items() if open_kind == kind)

    @contextmanager
    def enter(self, kind: Kind, owner: str) -> Iterator[None]:
        """Count a call as under way.

        Raises:
            ServerBusy: The owner has too many of this kind.
        """
        key = (owner, kind)
        if self._open[key] >= self._most[kind]:
            raise ServerBusy(
                f"{self._most[kind]} {WORDS[kind]} already; close some, or try again later",
                retry_after_ms=SOON_MS,
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]

    @asynccontextmanager
    async def turn(self, kind: Kind) -> AsyncIterator[None]:
        """Wait for a turn in a lane."""
        async with self._turns[kind]:
            yield

    def allow_job(self, owner: str) -> None:
        """Count a CreateJob call.

        Raises:
            ServerBusy: The owner sends too many a minute.
        """
        if wait_s := self._jobs.take(owner, 1):
            raise ServerBusy(
                "you send more jobs a minute than this server allows; try again later",
                retry_after_ms=int(1000 * wait_s) + 1,
            )

    async def pace(self, owner: str, amount: int) -> None:
        """Count bytes of a stream; one that is too fast waits here.

        Raises:
            ServerBusy: It would wait for too long.
        """
        while wait_s := self._bytes.take(owner, amount):
            if wait_s > LONGEST_PACE_S:
                raise ServerBusy(
                    "you send and receive more bytes a minute than this server allows; continue "
                    "later",
                    retry_after_ms=int(1000 * wait_s),
                )
            await asyncio.sleep(wait_s)
