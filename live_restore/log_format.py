"""How a line of the log looks, whatever was put into it."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Literal, TextIO, get_args

__all__ = [
    "JournalFormatter",
    "JsonFormatter",
    "LineFormatter",
    "LogFormat",
    "choose_format",
    "chosen_format",
    "formatter_for",
]

_VARIABLE = "LIVE_RESTORE_LOG"

LogFormat = Literal["auto", "human", "journal", "json"]
"""``human``: date, time, level, message. ``journal``: level as journald reads it. ``json``: an object per line.
``auto``: journal where standard error is connected to it, else human."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class LineFormatter(logging.Formatter):
    """Begins a line with date, time and level, and nothing else can.

    Names come from files and from other programs. Control characters in them are shown as numbers, so
    that they steer no terminal, and further lines of a message are indented, so that they aren't
    taken for messages.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Called by `format` for all but tracebacks."""
        record.message = _CONTROL.sub(
            lambda found: f"\\x{ord(found[0]):02x}", record.message
        ).replace("\n", "\n    ")
        return super().formatMessage(record)


class JournalFormatter(LineFormatter):
    """Begins each line with its priority as journald reads it; time and name are the journal's own."""

    _PRIORITIES = (
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
    )

    def __init__(self) -> None:
        super().__init__()
        self._style = logging.PercentStyle("%(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Called by the handler."""
        priority = next((p for level, p in self._PRIORITIES if record.levelno >= level), 7)
        lines = super().format(record).splitlines() or [""]
        return "\n".join(f"<{priority}>{line}" for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object per line.

    ``at`` (UTC, ISO 8601), ``level``, ``logger``, ``thread``, ``message``, and ``traceback`` where there is one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Called by the handler."""
        body = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "thread": record.threadName,
            "message": record.getMessage(),
        }
        if record.exc_info:
            body["traceback"] = self.formatException(record.exc_info)
        return json.dumps(body)


def choose_format(wanted: LogFormat) -> None:
    """The format of this process and of those that it starts."""
    os.environ[_VARIABLE] = wanted


def chosen_format() -> LogFormat:
    """What `choose_format` was told last, here or in the process that started this one."""
    word = os.environ.get(_VARIABLE)
    return next((one for one in get_args(LogFormat) if one == word), "auto")


def formatter_for(wanted: LogFormat, stream: TextIO | None = None) -> logging.Formatter:
    """The formatter for a stream.

    Parameters
    ----------
    wanted : LogFormat
        What the user asked for.
    stream : text stream, optional
        Where lines go; standard error without it.
    """
    if wanted == "json":
        return JsonFormatter()
    is_journal = wanted == "auto" and _is_journal(sys.stderr if stream is None else stream)
    return JournalFormatter() if is_journal or wanted == "journal" else LineFormatter()


def _is_journal(stream: TextIO) -> bool:
    """Whether a stream is the one that systemd connected to the journal."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError, AttributeError):  # closed, or none of the system's
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))
