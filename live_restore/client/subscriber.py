"""Viewers' ends of the data port: every volume or the newest one, blocking or with asyncio."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self

import zmq
import zmq.asyncio

from live_restore import protocol
from live_restore.client.asks import Ask, Core, Reply
from live_restore.client.control import AsyncControl, Control
from live_restore.client.following import Following
from live_restore.client.newest import Newest
from live_restore.client.sockets import prepare_subscription, views
from live_restore.errors import ProtocolError
from live_restore.keys import ClientKeys
from live_restore.messages import Encoding, Kind, Message, VolumeMessage
from live_restore.protocol import Allocate, ReceivedVolume, topic_of

__all__ = ["AsyncLatest", "AsyncSubscriber", "Latest", "Subscriber"]

STALE_AFTER_S = 3.0
"""Heartbeats come once per second: so long without a word, and something is wrong."""

_SYSTEM_TOPICS = ("skipped/", "system/")
_FEW = 2  # volumes that wait here; more would only be older
_MANY = 100  # announcements


class _Viewer:
    """What all have in common: everything but waiting."""

    _core: Core

    def __init__(
        self,
        endpoint: str,
        control: str | None,
        topics: Sequence[str],
        high_water_mark: int,
        keys: ClientKeys | None,
        into: Allocate | None,
    ) -> None:
        self._endpoint = endpoint
        self._topics = (*_SYSTEM_TOPICS, *topics)
        self._high_water_mark = high_water_mark
        self._keys = keys
        self._into = into
        self._heard_at = time.monotonic()
        self._set_control(control)

    def _set_control(self, endpoint: str | None) -> None:
        raise NotImplementedError

    @property
    def session(self) -> str | None:
        """Of the daemon last heard; None before."""
        return self._core.session

    @property
    def silence_s(self) -> float:
        """Seconds since a message was taken from the daemon, or since this was entered."""
        return time.monotonic() - self._heard_at

    def _subscribe(self, socket: zmq.Socket[Any]) -> None:
        prepare_subscription(
            socket, self._endpoint, self._keys, self._topics, self._high_water_mark
        )
        self._heard_at = time.monotonic()

    def _take(self, frames: Sequence[Any]) -> None:
        self._heard_at = time.monotonic()
        self._core.take(protocol.parse(views(frames)))


class _Blocking(_Viewer):
    _control: Control | None
    _socket: zmq.Socket[bytes] | None = None

    def _set_control(self, endpoint: str | None) -> None:
        self._control = Control(endpoint, keys=self._keys, into=self._into) if endpoint else None

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._subscribe(self._socket)
        if self._control:
            self._control.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)
        if self._control:
            self._control.__exit__(kind, error, traceback)

    @property
    def is_stale(self) -> bool:
        """Nothing waits, and nothing was heard for 3 s: the daemon is away, or stuck."""
        return self.silence_s > STALE_AFTER_S and not self._entered.poll(0)

    @property
    def _entered(self) -> zmq.Socket[bytes]:
        if self._socket is None:
            raise RuntimeError("use it in a `with` statement")
        return self._socket

    def receive(self, timeout_s: float | None = None) -> Message | None:
        """The next message.

        Parameters
        ----------
        timeout_s : float, optional
            How long to wait for one to be published; for ever without it.

        Returns
        -------
        Message or None
            None when nothing came in time.

        Raises
        ------
        ProtocolError
            A message that isn't of this protocol came; the next call goes on with the next one.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        socket = self._entered
        while True:
            while self._core.is_greedy and socket.poll(0):
                self._take(socket.recv_multipart(copy=False))
            step = self._core.next()
            if isinstance(step, Ask):
                self._core.answer(self._ask(step))
            elif isinstance(step, ReceivedVolume):
                return step.decode(self._into)
            elif step is not None:
                return step
            elif not socket.poll(_milliseconds_until(deadline)):
                return None
            else:
                self._take(socket.recv_multipart(copy=False))

    def volumes(self, timeout_s: float | None = None) -> Iterator[VolumeMessage]:
        """Volumes only; ends when none came for `timeout_s`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = self.receive(_left_s(deadline))
            if isinstance(message, VolumeMessage):
                yield message
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
            elif message is None:
                return

    def __iter__(self) -> Iterator[VolumeMessage]:
        """Volumes, for ever."""
        return self.volumes()

    def _ask(self, ask: Ask) -> Reply | ProtocolError:
        if self._control is None:
            raise RuntimeError("without a control port nothing is asked")
        try:
            return self._control.ask(ask.request, ask.patience_s)
        except ProtocolError as error:
            return error


class _Async(_Viewer):
    _control: AsyncControl | None
    _socket: zmq.asyncio.Socket | None = None

    def _set_control(self, endpoint: str | None) -> None:
        self._control = (
            AsyncControl(endpoint, keys=self._keys, into=self._into) if endpoint else None
        )

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._subscribe(self._socket)
        if self._control:
            await self._control.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)
        if self._control:
            await self._control.__aexit__(kind, error, traceback)

    async def is_stale(self) -> bool:
        """See `Subscriber.is_stale`."""
        return self.silence_s > STALE_AFTER_S and not await self._entered.poll(0)

    @property
    def _entered(self) -> zmq.asyncio.Socket:
        if self._socket is None:
            raise RuntimeError("use it in an `async with` statement")
        return self._socket

    async def receive(self, timeout_s: float | None = None) -> Message | None:
        """See `Subscriber.receive`; may be cancelled without losing a message."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        socket = self._entered
        while True:
            while self._core.is_greedy and await socket.poll(0):
                self._take(await socket.recv_multipart(copy=False))
            step = self._core.next()
            if isinstance(step, Ask):
                self._core.answer(await self._ask(step))
            elif isinstance(step, ReceivedVolume):
                return step.decode(self._into)
            elif step is not None:
                return step
            elif not await socket.poll(_milliseconds_until(deadline)):
                return None
            else:
                self._take(await socket.recv_multipart(copy=False))

    async def volumes(self, timeout_s: float | None = None) -> AsyncIterator[VolumeMessage]:
        """See `Subscriber.volumes`."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            message = await self.receive(_left_s(deadline))
            if isinstance(message, VolumeMessage):
                yield message
                deadline = None if timeout_s is None else time.monotonic() + timeout_s
            elif message is None:
                return

    def __aiter__(self) -> AsyncIterator[VolumeMessage]:
        """Volumes, for ever."""
        return self.volumes()

    async def _ask(self, ask: Ask) -> Reply | ProtocolError:
        if self._control is None:
            raise RuntimeError("without a control port nothing is asked")
        try:
            return await self._control.ask(ask.request, ask.patience_s)
        except ProtocolError as error:
            return error


class _EveryVolume(_Viewer):
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


class _NewestVolume(_Viewer):
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


class Subscriber(_EveryVolume, _Blocking):
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


class AsyncSubscriber(_EveryVolume, _Async):
    """`Subscriber` for asyncio, in an ``async with``; its volumes come in an ``async for``.

    Parameters
    ----------
    endpoint, kinds, position, channel, control, from_start, family, keys, encoding, into
        As of `Subscriber`.
    """


class Latest(_NewestVolume, _Blocking):
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


class AsyncLatest(_NewestVolume, _Async):
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


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _milliseconds_until(deadline: float | None) -> int | None:
    left_s = _left_s(deadline)
    return None if left_s is None else math.ceil(left_s * 1000)
