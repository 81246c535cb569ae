"""What a running server does for its store now and then: copy the journal, sweep garbage."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from worldloom.bridge.blobs import Blobs
from worldloom.bridge.journal import Journal
from worldloom.bridge.restore import keep_copy
from worldloom.bridge.scheduler import Scheduler
from worldloom.bridge.store import sweep
from worldloom.scene.errors import WorldloomError

LOGGER = logging.getLogger(__name__)
EVERY_S = 3600.0  # Between two rounds [s].


async def look_after(
    store: Path, journal: Journal, blobs: Blobs, scheduler: Scheduler, *, every_s: float = EVERY_S
) -> None:
    """Keep a copy of the journal and sweep what was left behind, at once and then every hour."""
    while True:
        try:
            if not await scheduler.bulk(keep_copy, store):
                LOGGER.error("the journal is damaged; stop and run 'worldloom check --repair'")
            gone = await scheduler.bulk(sweep, store, journal, blobs)
            LOGGER.info("swept %d files that nobody needs", gone)
        except WorldloomError as error:
            LOGGER.error("the store could not be looked after: %s", error)
        await asyncio.sleep(every_s)
