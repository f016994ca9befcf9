"""What comes from the daemon, for all pages: news of every volume, and the volumes that are asked for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from pydantic import ValidationError

from live_restore.client import AsyncControl, AsyncSubscriber, ClientKeys
from live_restore.errors import NoAnswerError, ProtocolError, RefusedError
from live_restore.messages import Catalog, Encoding, Kind, VolumeMessage
from live_restore.viewer.history import Held, History, VolumeName
from live_restore.viewer.timeline import Timeline

__all__ = ["Feed"]

logger = logging.getLogger(__name__)

_KINDS: tuple[Kind, ...] = ("restored", "raw")
_LISTEN_S = 0.5


class Feed:
    """An ordinary client: hears announcements, and asks for volumes when somebody wants to see them.

    Parameters
    ----------
    endpoint, control : str
        Ports of the daemon.
    keys : ClientKeys, optional
        For a daemon that asks for them.
    encoding : {"raw", "blosc2"}
        How planes travel.
    history_bytes : int
        Of volumes that are held to be shown again.

    Attributes
    ----------
    timeline : Timeline
        What there is.
    history : History
        What is held.
    """

    def __init__(
        self,
        endpoint: str = "tcp://127.0.0.1:5556",
        control: str = "tcp://127.0.0.1:5557",
        keys: ClientKeys | None = None,
        encoding: Encoding = "raw",
        history_bytes: int = 2**30,
    ) -> None:
        self.endpoint = endpoint
        self.timeline = Timeline()
        self.history = History(history_bytes)
        self._encoding = encoding
        self._subscriber = AsyncSubscriber(endpoint, _KINDS, family="announce", keys=keys)
        self._control = AsyncControl(control, keys=keys)
        self._listeners: list[Callable[[], None]] = []
        self._coming: dict[VolumeName, asyncio.Future[Held | None]] = {}

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Have a function called whenever something came; the result ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Hear the daemon, for ever.

        Parameters
        ----------
        started : callable
            Called when `volume` can be used.
        """
        async with self._subscriber, self._control:
            started()
            while True:
                try:
                    message = await self._subscriber.receive(_LISTEN_S)
                except ProtocolError as error:
                    logger.warning("%s", error)
                    continue
                if message is not None and self.timeline.take(message):
                    self.history.clear()
                    await self._look_around()
                self._tell()

    async def volume(self, name: VolumeName) -> Held | None:
        """A volume, from the history or the daemon; None where neither has it any more."""
        held = self.history.find(name)
        if held is not None:
            return held
        coming = self._coming.get(name)
        if coming is None:
            coming = asyncio.ensure_future(self._fetch(name))
            self._coming[name] = coming
            coming.add_done_callback(lambda _: self._coming.pop(name, None))
        return await asyncio.shield(coming)

    async def _fetch(self, name: VolumeName) -> Held | None:
        session = self.timeline.session
        try:
            message = await self._control.sequence(
                name.sequence, name.channel, name.position, name.kind, self._encoding
            )
        except RefusedError as error:
            logger.debug("%s: %s", name, error)
            return None
        except (NoAnswerError, ProtocolError) as error:
            logger.warning("%s", error)
            return None
        held = Held(message)
        if message.header.session == session == self.timeline.session:
            self.history.keep(name, held)
        return held

    async def _look_around(self) -> None:
        """What was there before: the newest volume of each stream."""
        try:
            catalog = Catalog.model_validate(await self._control.catalog())
            for stream in catalog.streams:
                message = await self._control.latest(
                    stream.channel, stream.position, encoding=self._encoding
                )
                if message.header.session == self.timeline.session:
                    self._keep(message)
        except (ProtocolError, ValidationError) as error:
            logger.debug("nothing from before: %s", error)

    def _keep(self, message: VolumeMessage) -> None:
        header = message.header
        self.timeline.take(message)
        name = VolumeName(header.kind, header.position, header.channel, header.sequence)
        self.history.keep(name, Held(message))

    def _tell(self) -> None:
        for listener in tuple(self._listeners):
            listener()
