"""One chunk's surface while the next chunk is generated: at most one piece of work at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

LOGGER = logging.getLogger(__name__)


class Behind:
    """A second thread that works behind the first one; used as a context.

    Whatever is under way is finished before the context is left, also after an error: what a chunk
    has brought is never lost because the next one failed.
    """

    def __init__(self, *, beside: bool) -> None:
        """A place for work.

        Args:
            beside: Whether `start` returns at once; else it does the work itself.
        """
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind") if beside else None
        self._under_way: Future[None] | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Do `work` behind the caller, after what is under way.

        Raises:
            Exception: Whatever the work before has raised.
        """
        self.wait()
        if self._pool is None:
            work()
        else:
            self._under_way = self._pool.submit(work)

    def wait(self) -> None:
        """Return when nothing is under way.

        Raises:
            Exception: Whatever the work has raised.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            under_way.result()

    def __enter__(self) -> Behind:
        """The place itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what is under way; its error is raised unless the caller fails already."""
        if self._pool is not None:
            self._pool.shutdown(wait=True)
        if error is None:
            self.wait()
        elif self._under_way is not None and (other := self._under_way.exception()) is not None:
            LOGGER.error("work behind the failure failed too", exc_info=other)
