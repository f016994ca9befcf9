"""Planes from your own acquisition scripts to the daemon, without ever being in the way.

For pycromanager::

    Acquisition(..., image_process_fn=publish_planes("tcp://127.0.0.1:5558"))

and for pymmcore-plus::

    hook = publish_planes("tcp://127.0.0.1:5558")
    core.mda.events.frameReady.connect(hook)
    core.mda.events.sequenceFinished.connect(hook.finish)

The daemon's side is a profile with ``kind = "ingest"``. Needs numpy, pyzmq and pydantic only.
"""

from __future__ import annotations

import atexit
import logging
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from live_restore.hook_axes import (
    Place,
    Plan,
    distance,
    plan_of_events,
    read_mda_event,
    read_pycromanager,
)
from live_restore.keys import ClientKeys
from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.plane_sender import PlaneSender
from live_restore.volume import utc_now

__all__ = ["PlaneHook", "PlanePublisher", "publish_planes"]

logger = logging.getLogger(__name__)

_AWAIT_DAEMON_S = 0.25
_TELL_AT = (1, 10, 100, 1000, 10_000)
_MOST_NAME = 200  # characters, so that date and time find room


_Present = tuple[str, int]  # an acquisition's name, and how many planes were counted


class PlaneHook(Protocol):
    """``(image, metadata)`` in, the same out."""

    finish: Callable[..., None]
    """Tells the daemon that the acquisition is over; what it is called with is ignored."""

    def __call__(self, image: Any, metadata: Any, more: Any = None) -> tuple[Any, Any]:
        """Called for each plane from the acquisition's thread."""
        ...


def publish_planes(
    endpoint: str = "tcp://127.0.0.1:5558",
    *,
    name: str = "acquisition",
    events: Sequence[Mapping[str, Any]] | None = None,
    num_slices: int | None = None,
    pixel_size_um: float | None = None,
    z_step_um: float | None = None,
    memory_mb: int = 256,
    keys: str | Path | None = None,
) -> PlaneHook:
    """A hook that hands each plane to the daemon and gives it back untouched.

    It never waits, never raises and never changes an image. Where no daemon listens, or one that
    doesn't keep up, planes are let go; the daemon knows by their numbers how many. Images are sent
    as they are after it returned: code of yours that changes them in place must work on a copy.

    Parameters
    ----------
    endpoint : str
        Of the daemon's ingest port.
    name : str
        Of the acquisitions; date and time are added to tell them apart.
    events : sequence of mapping, optional
        The acquisition's events, from which planes per stack, channels, positions and z step are
        read. Without it (and without `num_slices`) the daemon learns the number of planes from the
        first stacks.
    num_slices : int, optional
        Planes per stack.
    pixel_size_um, z_step_um : float, optional
        Where Micro-Manager doesn't know them.
    memory_mb : int
        Planes that may be on their way.
    keys : str or pathlib.Path, optional
        The file that ``live-restore keys add`` made, for a daemon with keys.

    Returns
    -------
    callable
        For pycromanager's ``image_process_fn``, called from its processing thread, or for
        pymmcore-plus' ``frameReady``. Its attribute ``finish`` tells the daemon that an
        acquisition is over; needed where neither the end of pycromanager's thread nor the number
        of planes tells it. It may be called with anything, as by ``sequenceFinished``.

    Raises
    ------
    ValueError
        What this acquisition is said to be can't be; the text says which part.
    SourceError
        `endpoint` is none.
    KeyFileError
        `keys` can't be read.
    """
    PlaneHeader(
        sender="-",
        acquisition=name,
        z=0,
        type="uint8",
        shape=(1, 1),
        num_slices=num_slices,
        pixel_size_um=pixel_size_um,
        z_step_um=z_step_um,
    )
    plan = Plan(num_slices=num_slices, pixel_size_um=pixel_size_um, z_step_um=z_step_um)
    if events is not None:
        plan = plan.with_fallback(plan_of_events(events))
    client_keys = ClientKeys.load(keys) if keys is not None else None
    publisher = PlanePublisher(PlaneSender(endpoint, memory_mb * 2**20, client_keys), name, plan)
    publisher.await_daemon()

    # A function: pymmcore-plus keeps only weak references to the methods of objects.
    def publish_plane(image: Any, metadata: Any, more: Any = None) -> tuple[Any, Any]:
        publisher.publish(image, metadata, more)
        return image, metadata

    def finish(*_: Any) -> None:
        publisher.finish()

    hook = cast(PlaneHook, publish_plane)
    hook.finish = finish
    return hook


@dataclass(slots=True)
class _Run:
    """One acquisition."""

    name: str
    identity: Any  # what tells it from the next one: a thread, or a sequence's id
    heights: dict[tuple[str, str], tuple[int, float]] = field(default_factory=dict)
    z_step_um: float | None = None

    def learn_z_step(self, place: Place) -> None:
        """From the heights of this plane and the one before it in the same stack."""
        if place.z_um is None:
            return
        stack = place.position, place.channel
        z, z_um = self.heights.get(stack, (place.z, place.z_um))
        self.z_step_um = distance(place.z - z, place.z_um - z_um) or self.z_step_um
        self.heights[stack] = place.z, place.z_um


class PlanePublisher:
    """What is behind the hook: planes and their places to the daemon.

    Parameters
    ----------
    sender : PlaneSender
        The way there; closed when the publisher is gone, or the script ends.
    name : str
        Of the acquisitions.
    plan : Plan
        What is known beforehand.
    identity : str, optional
        Tells this sender from all others.
    ends_with_thread : bool
        The end of the thread that brings pycromanager's planes is the acquisition's end.
    """

    def __init__(
        self,
        sender: PlaneSender,
        name: str,
        plan: Plan,
        identity: str | None = None,
        ends_with_thread: bool = True,
    ) -> None:
        self._sender = sender
        self._name = name[:_MOST_NAME]
        self._plan = plan
        self._id = identity or uuid.uuid4().hex
        self._ends_with_thread = ends_with_thread
        self._number = 0
        self._lost = 0
        self._run: _Run | None = None
        self._lock = threading.Lock()
        self._present: list[_Present] = []  # what is to be ended if the script ends now
        last = weakref.finalize(self, _leave, sender, self._id, self._lock, self._present)
        # Handlers run in reverse order: planes must be gone before pyzmq lets go of their memory.
        last.atexit = False
        atexit.register(last)

    def await_daemon(self) -> None:
        """Give the connection a moment, before anything is acquired."""
        if not self._sender.await_daemon(_AWAIT_DAEMON_S):
            logger.info("no live-restore listens yet; planes are sent as soon as one does")

    def publish(self, image: Any, metadata: Any, more: Any) -> None:
        """Called for each plane, from the acquisition's thread."""
        try:
            with self._lock:
                number, self._number = self._number, self._number + 1
                self._publish(number, np.asarray(image), metadata, more)
        except Exception:  # noqa: BLE001 - an acquisition goes before what this program wants of it
            self._tell_lost("a plane couldn't be sent; the acquisition goes on", with_cause=True)

    def finish(self, reason: str = "finished") -> None:
        """No more planes of the present acquisition will come."""
        self._finish(None, reason)

    def _finish(self, run: _Run | None, reason: str) -> None:
        try:
            with self._lock:
                self._end(run or self._run, reason)
        except Exception:
            logger.warning("live-restore isn't told of the acquisition's end", exc_info=True)

    def _publish(self, number: int, image: NDArray[Any], metadata: Any, more: Any) -> None:
        if isinstance(metadata, Mapping):
            place = read_pycromanager(metadata)
            identity: Any = threading.current_thread()
        else:
            place = read_mda_event(metadata, more if isinstance(more, Mapping) else {})
            identity = place.sequence
        run = self._run
        if run is None or run.identity != identity:
            run = self._begin(identity)
        self._present[:] = [(run.name, number + 1)]
        if not self._sender.offer(self._header(number, run, place, image), image):
            self._tell_lost("planes let go: no live-restore listens, or it doesn't keep up")

    def _begin(self, identity: Any) -> _Run:
        self._end(self._run, "finished")
        now = utc_now()
        run = _Run(f"{self._name}_{now:%Y%m%d_%H%M%S}_{now.microsecond // 1000:03}", identity)
        self._run = run
        is_thread = isinstance(identity, threading.Thread)
        if is_thread and self._ends_with_thread and identity is not threading.main_thread():
            threading.Thread(
                target=self._await_thread, args=(run,), name="planes-end", daemon=True
            ).start()
        return run

    def _await_thread(self, run: _Run) -> None:
        """The processing thread of pycromanager ends with its acquisition."""
        run.identity.join()
        self._finish(run, "finished")

    def _end(self, run: _Run | None, reason: str) -> None:
        if run is None or run is not self._run:
            return
        self._run = None
        self._present.clear()
        self._sender.say(
            PlanesEnd(sender=self._id, acquisition=run.name, number=self._number, reason=reason)
        )

    def _header(self, number: int, run: _Run, place: Place, image: NDArray[Any]) -> PlaneHeader:
        run.learn_z_step(place)
        plan = self._plan.with_fallback(place.plan)
        return PlaneHeader(
            sender=self._id,
            number=number,
            acquisition=run.name,
            position=place.position,
            time=place.time,
            channel=place.channel,
            z=place.z,
            type=image.dtype.name,
            shape=image.shape,
            num_slices=plan.num_slices,
            num_times=plan.num_times,
            channels=plan.channels,
            positions=plan.positions,
            pixel_size_um=plan.pixel_size_um,
            z_step_um=plan.z_step_um or run.z_step_um,
            exposure_ms=place.exposure_ms,
            power=place.power,
            acquired_at=utc_now(),
            origin=place.origin,
        )

    def _tell_lost(self, what: str, with_cause: bool = False) -> None:
        self._lost += 1
        if self._lost in _TELL_AT:
            logger.warning("%s (%d so far)", what, self._lost, exc_info=with_cause)


def _leave(
    sender: PlaneSender, identity: str, lock: threading.Lock, present: list[_Present]
) -> None:
    """When the script ends: say so of an acquisition whose end wasn't told, and close."""
    with lock:
        for name, number in present:
            sender.say(
                PlanesEnd(
                    sender=identity, acquisition=name, number=number, reason="the script ended"
                )
            )
        sender.close()
