"""Asking the daemon's control port, blocking or with asyncio."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import zmq
import zmq.asyncio

from live_restore import protocol
from live_restore.client.asks import Reply, latest_request, sequence_request
from live_restore.client.sockets import prepare_request, views
from live_restore.errors import NoAnswerError, ProtocolError
from live_restore.keys import ClientKeys
from live_restore.messages import Encoding, Kind, VolumeMessage
from live_restore.protocol import Allocate

__all__ = ["AsyncControl", "Control"]


class _Asking:
    """What both have in common: everything but waiting."""

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5557",
        timeout_s: float = 5.0,
        keys: ClientKeys | None = None,
        into: Allocate | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._keys = keys
        self._into = into

    def _connect(self, socket: zmq.Socket[Any], timeout_s: float) -> None:
        prepare_request(socket, self._endpoint, self._keys, timeout_s)

    def _no_answer(self, timeout_s: float) -> NoAnswerError:
        return NoAnswerError(
            f"no answer from {self._endpoint} within {timeout_s:g} s: is the daemon running, with a "
            "control port" + (", and are these keys on its list?" if self._keys else "?")
        )


class Control(_Asking):
    """Asks the daemon's control port.

    Each request may come from a thread of its own. Any of them raises `NoAnswerError` when no
    daemon answered in time, `RefusedError` when it said no, and `ProtocolError` when its answer
    isn't of this protocol.

    Parameters
    ----------
    endpoint : str
        ``tcp://127.0.0.1:5557`` by default of the daemon.
    timeout_s : float
        How long to wait for each answer.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    into : callable, optional
        Gives the arrays for volumes, by their headers; see `ReusedArrays`.
    """

    def __enter__(self) -> Self:
        self._context = zmq.Context()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    def latest(
        self,
        channel: str,
        position: str = "0",
        kind: Kind = "restored",
        encoding: Encoding = "raw",
    ) -> VolumeMessage:
        """The newest volume of a stream."""
        return _volume(self.ask(latest_request(channel, position, kind, encoding)))

    def sequence(
        self,
        number: int,
        channel: str,
        position: str = "0",
        kind: Kind = "restored",
        encoding: Encoding = "raw",
    ) -> VolumeMessage:
        """One volume of a stream by its number, while the daemon holds it."""
        return _volume(self.ask(sequence_request(number, channel, position, kind, encoding)))

    def catalog(self) -> dict[str, Any]:
        """Streams, their last sequence and what is held."""
        return _body(self.ask({"get": "catalog"}))

    def status(self) -> dict[str, Any]:
        """How the daemon is."""
        return _body(self.ask({"get": "status"}))

    def reload(self) -> str:
        """Have the daemon read its profile again and use its model; what happens now, in words."""
        return str(_body(self.ask({"do": "reload"}))["message"])

    def drain(self) -> str:
        """Have the daemon take no more, restore what waits, and end; what happens now, in words."""
        return str(_body(self.ask({"do": "drain"}))["message"])

    def dose(self, *, on: bool) -> str:
        """Have the daemon change the light, or give the user's own back; what happens now, in words."""
        return str(_body(self.ask({"do": "dose-on" if on else "dose-off"}))["message"])

    def ask(self, request: dict[str, Any], timeout_s: float | None = None) -> Reply:
        """Any request of the protocol; `timeout_s` instead of the usual time."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        # A socket per request: a late answer can never be taken for the next one's.
        with self._context.socket(zmq.DEALER) as socket, suppress(zmq.Again):
            self._connect(socket, timeout_s)
            socket.send(protocol.to_json(request))
            if socket.poll(int(timeout_s * 1000)):
                return _reply(views(socket.recv_multipart(copy=False)), self._into)
        raise self._no_answer(timeout_s)


class AsyncControl(_Asking):
    """`Control` for asyncio: the same methods, to be awaited, in an ``async with``.

    Parameters
    ----------
    endpoint, timeout_s, keys, into
        As of `Control`.
    """

    async def __aenter__(self) -> Self:
        self._context = zmq.asyncio.Context()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._context.destroy(linger=0)

    async def latest(
        self,
        channel: str,
        position: str = "0",
        kind: Kind = "restored",
        encoding: Encoding = "raw",
    ) -> VolumeMessage:
        """See `Control.latest`."""
        return _volume(await self.ask(latest_request(channel, position, kind, encoding)))

    async def sequence(
        self,
        number: int,
        channel: str,
        position: str = "0",
        kind: Kind = "restored",
        encoding: Encoding = "raw",
    ) -> VolumeMessage:
        """See `Control.sequence`."""
        return _volume(await self.ask(sequence_request(number, channel, position, kind, encoding)))

    async def catalog(self) -> dict[str, Any]:
        """See `Control.catalog`."""
        return _body(await self.ask({"get": "catalog"}))

    async def status(self) -> dict[str, Any]:
        """See `Control.status`."""
        return _body(await self.ask({"get": "status"}))

    async def reload(self) -> str:
        """See `Control.reload`."""
        return str(_body(await self.ask({"do": "reload"}))["message"])

    async def drain(self) -> str:
        """See `Control.drain`."""
        return str(_body(await self.ask({"do": "drain"}))["message"])

    async def dose(self, *, on: bool) -> str:
        """See `Control.dose`."""
        return str(_body(await self.ask({"do": "dose-on" if on else "dose-off"}))["message"])

    async def ask(self, request: dict[str, Any], timeout_s: float | None = None) -> Reply:
        """See `Control.ask`."""
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        with self._context.socket(zmq.DEALER) as socket, suppress(zmq.Again):
            self._connect(socket, timeout_s)
            await socket.send(protocol.to_json(request))
            if await socket.poll(int(timeout_s * 1000)):
                return _reply(views(await socket.recv_multipart(copy=False)), self._into)
        raise self._no_answer(timeout_s)


def _reply(frames: Sequence[memoryview], into: Allocate | None) -> Reply:
    topic = bytes(frames[0]) if frames else b""
    if topic.startswith((b"volume/", b"compressed/", b"error/")):
        message = protocol.decode(frames, into)
        if isinstance(message, VolumeMessage):
            return message
    elif len(frames) == 2 and topic in (b"catalog/", b"status/", b"done/"):
        return protocol.parse_body(topic.decode(), bytes(frames[1]))
    raise ProtocolError(
        f"unexpected answer {topic!r:.80}; the daemon may be newer than this client"
    )


def _volume(reply: Reply) -> VolumeMessage:
    if not isinstance(reply, VolumeMessage):
        raise ProtocolError(f"a volume was asked for, {json.dumps(reply):.80} came")
    return reply


def _body(reply: Reply) -> dict[str, Any]:
    if isinstance(reply, VolumeMessage):
        raise ProtocolError(f"JSON was asked for, a volume came ({reply.topic})")
    return reply
