"""Log records -> one JSON object a line, with the job that they speak of.

Line ends within a text are escaped by JSON, so no client can forge a line of its own.
"""

from __future__ import annotations

import json
import logging
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

_JOB: ContextVar[str] = ContextVar("job", default="")
LONGEST_TEXT = 4000
"""Characters of a text that are kept."""
LONGEST_NAME = 80
OURS = "worldloom"
WORDS = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def about_job(name: str) -> None:
    """Say which job the log records of this task speak of from here on."""
    _JOB.set(name[:LONGEST_NAME])


class JsonLines(logging.Formatter):
    """One JSON object a record: at, level, logger, job, text and traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "text": record.getMessage()[:LONGEST_TEXT],
        }
        if job := getattr(record, "job", "") or _JOB.get():
            entry["job"] = job
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)[-LONGEST_TEXT:]
        return json.dumps(entry)


class OneLine(logging.Formatter):
    """Lines for people; what a client sent cannot begin another one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, and its traceback below."""
        record.message, record.asctime = record.getMessage(), self.formatTime(record)
        text = self.formatMessage(record).replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


def log_to_stderr(*, as_json: bool) -> None:
    """Log to the error output: as JSON lines from the level `info` on, or as lines for people."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else OneLine(WORDS))
    level = logging.getLogger().level
    logging.basicConfig(handlers=[handler], level=level, force=True)
    if as_json:
        logging.getLogger(OURS).setLevel(min(level, logging.INFO))
