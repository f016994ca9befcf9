"""How a line of the log looks, whatever was put into it."""

from __future__ import annotations

import logging
import re

__all__ = ["LineFormatter"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


class LineFormatter(logging.Formatter):
    """Begins a line with time and level, and nothing else can.

    Names come from files and from other programs. Control characters in them are shown as numbers, so
    that they steer no terminal, and further lines of a message are indented, so that they aren't
    taken for messages.
    """

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Called by `format` for all but tracebacks."""
        record.message = _CONTROL.sub(
            lambda found: f"\\x{ord(found[0]):02x}", record.message
        ).replace("\n", "\n    ")
        return super().formatMessage(record)
