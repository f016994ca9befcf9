"""A table for a machine without a screen: a line per stream."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from live_restore.client import ClientKeys, Subscriber
from live_restore.errors import ProtocolError
from live_restore.messages import Announcement, Header
from live_restore.viewer.timeline import Timeline

__all__ = ["StreamTable", "show_table"]

logger = logging.getLogger(__name__)

_REFRESH_S = 0.5
_STALE_S = 3.0
_MOST_LINES = 50
_COLORS = {"green": "green", "amber": "yellow", "red": "bold red"}


@dataclass
class StreamTable:
    """The newest volume of each stream, and the state of the daemon.

    Parameters
    ----------
    endpoint : str
        Data port.
    """

    endpoint: str
    timeline: Timeline = field(default_factory=Timeline)
    _newest: dict[tuple[str, str], Header] = field(default_factory=dict)

    def take(self, announcement: Announcement) -> None:
        """A volume was published."""
        header = announcement.header
        if not header.backfill:
            self._newest[header.position, header.channel] = header
            while len(self._newest) > _MOST_LINES:
                del self._newest[next(iter(self._newest))]

    def begin_anew(self) -> None:
        """Another daemon."""
        self._newest.clear()

    def __rich__(self) -> Group:
        """The table, with a line on the daemon above it."""
        timeline = self.timeline
        silence_s = timeline.silence_s
        if silence_s is None:
            state = Text(f"waiting for a daemon on {self.endpoint} …", style="yellow")
        elif silence_s > _STALE_S:
            state = Text(f"NO WORD from the daemon for {silence_s:.0f} s", style="bold red")
        else:
            state = Text(
                f"{self.endpoint}  received {timeline.num_received}, skipped {timeline.num_skipped}, "
                f"made up later {timeline.num_backfilled}, not heard here {timeline.num_missed}"
                f"   {timeline.source}"
            )
        table = Table(expand=False)
        for name in ("position", "channel", "acquisition"):
            table.add_column(name, overflow="ellipsis", no_wrap=True)
        for name in ("time", "sequence", "age", "signal", "NRMSE"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("light, and why", overflow="fold")
        for header in self._newest.values():
            table.add_row(*_cells(header))
        last = timeline.last_skipped()
        parts: list[RenderableType] = [state, table]
        if last is not None:
            where = f"position {last['position']}, time {last['time']}, {last['channel']}"
            parts.append(Text(f"last skipped: {where}: {last['reason']}", style="yellow"))
        return Group(*parts)


def show_table(
    endpoint: str, keys: ClientKeys | None = None, num_refreshes: int | None = None
) -> int:
    """Show the table until Ctrl-C.

    Parameters
    ----------
    endpoint : str
        Data port.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    num_refreshes : int, optional
        End after so many.

    Returns
    -------
    int
        Exit code.
    """
    console = Console()
    table = StreamTable(endpoint)
    with (
        _Screen(console, table) as screen,
        Subscriber(endpoint, family="announce", keys=keys) as subscriber,
    ):
        left = num_refreshes
        while left is None or left > 0:
            until = time.monotonic() + _REFRESH_S
            while (rest_s := until - time.monotonic()) > 0:
                try:
                    message = subscriber.receive(rest_s)
                except ProtocolError as error:
                    logger.warning("%s", error)
                    continue
                if message is None:
                    break
                if table.timeline.take(message):
                    table.begin_anew()
                if isinstance(message, Announcement):
                    table.take(message)
            screen.show()
            left = None if left is None else left - 1
    return 0


class _Screen:
    """Redrawn in place on a terminal; printed once at the end elsewhere."""

    def __init__(self, console: Console, table: StreamTable) -> None:
        self._console = console
        self._table = table
        self._live = (
            Live(table, console=console, auto_refresh=False) if console.is_terminal else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
        else:
            self._console.print(self._table)

    def show(self) -> None:
        """Draw what is now."""
        if self._live is not None:
            self._live.update(self._table, refresh=True)


def _cells(header: Header) -> list[str]:
    age_s = (datetime.now(header.received_at.tzinfo) - header.received_at).total_seconds()
    found = header.assessment
    verdict = "–" if found is None else found.verdict
    color = _COLORS.get(verdict, "dim")
    said = [] if found is None else list(found.reasons)
    if found is not None and found.dose is not None and found.dose.text:
        said.insert(0, found.dose.text)
    return [
        escape(header.position),
        escape(header.channel),
        escape(header.acquisition),
        str(header.time),
        str(header.sequence),
        f"{age_s:.1f} s",
        "–" if found is None or found.signal is None else f"{found.signal:.1f}",
        "–" if found is None or found.error is None else f"{found.error:.2f}",
        f"[{color}]{verdict.upper()}[/{color}]",
        escape("; ".join(said)),
    ]
