"""Viewers' ends of the data port: every volume or the newest one, blocking or with asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from live_restore.client.following import Following
from live_restore.client.newest import Newest
from live_restore.client.receiving import AsyncReceiver, BlockingReceiver, Receiver
from live_restore.keys import ClientKeys
from live_restore.messages import Encoding, Kind
from live_restore.protocol import Allocate, topic_of

__all__ = ["AsyncLatest", "AsyncSubscriber", "Latest", "Subscriber"]

_FEW = 2  # volumes that wait here; more would only be older
_MANY = 100  # announcements


class _EveryVolume(Receiver):
    _core: Following

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        kinds: Sequence[Kind] = ("restored",),
        position: str | None = None,
        channel: str | None = None,
        control: str | None = None,
        from_start: bool = False,
        family: Literal["volume", "announce", "preview"] = "volume",
        keys: ClientKeys | None = None,
        encoding: Encoding = "raw",
        into: Allocate | None = None,
    ) -> None:
        wire = "compressed" if family == "volume" and encoding != "raw" else family
        topics = _topics(wire, kinds, position, channel)
        super().__init__(endpoint, control, topics, _FEW, keys, into)
        self._core = Following(topics, encoding, control is not None, from_start)

    @property
    def missed(self) -> int:
        """Volumes that were published and could not be had, in all."""
        return self._core.missed


class _NewestVolume(Receiver):
    _core: Newest

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        control: str = "tcp://127.0.0.1:5557",
        kinds: Sequence[Kind] = ("restored",),
        position: str | None = None,
        channel: str | None = None,
        keys: ClientKeys | None = None,
        encoding: Encoding = "raw",
        into: Allocate | None = None,
    ) -> None:
        topics = _topics("announce", kinds, position, channel)
        super().__init__(endpoint, control, topics, _MANY, keys, into)
        self._core = Newest(topics, kinds, encoding)


class Subscriber(_EveryVolume, BlockingReceiver):
    """Receives volumes and events as they are published.

    Connecting never fails and never waits: a daemon that isn't there yet is found when it starts,
    and again when it restarts. To be used in a ``with`` statement, from one thread.

    Parameters
    ----------
    endpoint : str
        Data port of the daemon.
    kinds : sequence of {"restored", "raw"}
        Which volumes.
    position, channel : str, optional
        Only these; `channel` needs `position`.
    control : str, optional
        Control port. With it, volumes that were missed are asked for and given in order.
    from_start : bool
        Count volumes from before the first one received as missed too.
    family : {"volume", "announce", "preview"}
        Whole volumes; their headers alone; or three maximum projections, for slow links.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    encoding : {"raw", "blosc2"}
        How planes travel; blosc2 is for slow links, and needs imagecodecs.
    into : callable, optional
        Gives the arrays for volumes, by their headers; see `ReusedArrays`.

    Raises
    ------
    ValueError
        `channel` without `position`.
    """


class AsyncSubscriber(_EveryVolume, AsyncReceiver):
    """`Subscriber` for asyncio, in an ``async with``; its volumes come in an ``async for``.

    Parameters
    ----------
    endpoint, kinds, position, channel, control, from_start, family, keys, encoding, into
        As of `Subscriber`.
    """


class Latest(_NewestVolume, BlockingReceiver):
    """Gives the newest volume of each stream whenever it is asked, for viewers that draw slowly.

    Nothing queues: volumes are announced, and one is asked for when this is called. What was
    published meanwhile is passed over. Volumes that are restored late, because there was time
    (`backfill`), aren't given. The first call gives what was published before, at once.

    Parameters
    ----------
    endpoint : str
        Data port of the daemon.
    control : str
        Its control port.
    kinds : sequence of {"restored", "raw"}
        Which volumes.
    position, channel : str, optional
        Only these; `channel` needs `position`.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    encoding : {"raw", "blosc2"}
        How planes travel; blosc2 is for slow links, and needs imagecodecs.
    into : callable, optional
        Gives the arrays for volumes, by their headers; see `ReusedArrays`.

    Raises
    ------
    ValueError
        `channel` without `position`.
    """


class AsyncLatest(_NewestVolume, AsyncReceiver):
    """`Latest` for asyncio, in an ``async with``; its volumes come in an ``async for``.

    Parameters
    ----------
    endpoint, control, kinds, position, channel, keys, encoding, into
        As of `Latest`.
    """


def _topics(
    family: str, kinds: Sequence[Kind], position: str | None, channel: str | None
) -> list[str]:
    if channel is not None and position is None:
        raise ValueError("a channel can only be chosen together with its position")
    return [topic_of(f"{family}/{kind}", position, channel) for kind in kinds]
