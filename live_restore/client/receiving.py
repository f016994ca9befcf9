"""Receiving as a core decides, blocking or with asyncio: the only difference is how one waits."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import zmq
import zmq.asyncio

from live_restore import protocol
from live_restore.client.asks import Ask, Core, Reply
from live_restore.client.control import AsyncControl, Control
from live_restore.client.sockets import prepare_subscription, views
from live_restore.errors import ProtocolError
from live_restore.keys import ClientKeys
from live_restore.messages import Message, VolumeMessage
from live_restore.protocol import Allocate, ReceivedVolume

__all__ = ["AsyncReceiver", "BlockingReceiver", "Receiver"]

STALE_AFTER_S = 3.0
"""Heartbeats come once per second: so long without a word, and something is wrong."""

_SYSTEM_TOPICS = ("skipped/", "system/")


class Receiver:
    """What all have in common: everything but waiting.

    Parameters
    ----------
    endpoint, control : str
        Data port; control port, if there is one.
    topics : sequence of str
        Beginnings of what is subscribed to, beside events.
    high_water_mark : int
        Messages that may wait here.
    keys : ClientKeys or None
        For a daemon that asks for them.
    into : callable or None
        Gives the arrays for volumes.
    """

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


class BlockingReceiver(Receiver):
    """Waits in the calling thread."""

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


class AsyncReceiver(Receiver):
    """Waits in an event loop."""

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


def _left_s(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _milliseconds_until(deadline: float | None) -> int | None:
    left_s = _left_s(deadline)
    return None if left_s is None else math.ceil(left_s * 1000)
