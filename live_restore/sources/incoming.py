"""Acquisitions from planes that are sent: announced, numbered, ended.

A sender may not know how many planes its stacks have. They are then held back until the planes
themselves tell: when z goes back, the stack before was whole.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.interfaces import Event
from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, VolumeKey, VoxelSize

__all__ = ["Defaults", "Incoming"]

logger = logging.getLogger(__name__)

_LATEST_STACKS = 64  # that are looked at to learn how many planes stacks have
_HELD_OVERHEAD = 4096  # bytes, of a plane beside its pixels
_COPIED_BYTES = 2**16  # a smaller plane held back would keep the larger piece it was received in
_MOST_AT_ONCE = 64  # acquisitions; beyond it the quietest is taken for ended
_NAMES_BYTES = 2**25  # of positions and channels, of all acquisitions; likewise
_REMEMBERED_NAMES = 10_000  # an acquisition of an older one's name is taken for that one


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the profile says where senders don't.

    Attributes
    ----------
    num_slices : int or None
        Planes per stack.
    pixel_size_um, z_step_um : float or None
        Voxel size.
    memory_bytes : int
        Planes that may be held back, of all acquisitions together.
    """

    num_slices: int | None = None
    pixel_size_um: float | None = None
    z_step_um: float | None = None
    memory_bytes: int = 2**30

    def voxel_size_um(
        self, pixel_size_um: float | None, z_step_um: float | None, num_slices: int
    ) -> VoxelSize | None:
        """``(z, y, x)`` of stacks of so many planes, from what is known of them; None if it doesn't do."""
        pixel = pixel_size_um or self.pixel_size_um
        step = z_step_um or self.z_step_um
        if num_slices == 1:
            step = step or pixel
        return (step, pixel, pixel) if pixel and step else None


@dataclass(slots=True)
class _Acquisition:
    name: str
    heard_s: float
    info: AcquisitionInfo | None = None
    held: list[Plane] = field(default_factory=list)
    header: PlaneHeader | None = None  # the last one, until it is announced
    stacks: _Stacks = field(default_factory=lambda: _Stacks())
    names_nbytes: int = 0
    num_planes: int = 0
    is_refused: bool = False

    @property
    def held_bytes(self) -> int:
        return sum(plane.data.nbytes + _HELD_OVERHEAD for plane in self.held)


class _Stacks:
    """Learns how many planes stacks have, from the planes themselves.

    When z goes back, or a plane comes again at another time, stacks that are whole from 0 to their
    last plane tell. Stacks that aren't whole don't: some may be a single plane in the middle.
    """

    def __init__(self) -> None:
        self.has_two_planes = False
        self._planes: dict[VolumeKey, set[int]] = {}
        self._last: dict[VolumeKey, int] = {}
        self._times: dict[tuple[str, str, int], int] = {}
        self._last_z = 0

    def forget(self) -> None:
        """Planes are missing: stacks until here may seem whole and not be."""
        self._planes.clear()
        self._last.clear()
        self._times.clear()
        self._last_z = 0

    def add(self, plane: Plane) -> int | None:
        """Take a plane; the number of planes per stack as soon as it is known."""
        key, z = plane.key, plane.z
        place = key.position, key.channel, z
        is_again = self._times.get(place, key.time) != key.time
        num_slices = None
        if is_again or z < self._last_z:
            latest = islice(reversed(self._planes.items()), _LATEST_STACKS)
            whole = (len(zs) for one, zs in latest if len(zs) == self._last[one] + 1)
            num_slices = max(whole, default=None)
        zs = self._planes.setdefault(key, set())
        zs.add(z)
        self._last[key] = max(z, self._last.get(key, 0))
        self.has_two_planes |= len(zs) > 1
        self._times[place] = key.time
        self._last_z = z
        return num_slices


class Incoming:
    """Events from what senders send.

    Parameters
    ----------
    defaults : Defaults
        What the profile says.
    """

    def __init__(self, defaults: Defaults | None = None) -> None:
        self._defaults = defaults or Defaults()
        self._running: dict[tuple[str, str], _Acquisition] = {}
        self._names: dict[str, int] = {}  # how often each came; the one that came last is last
        self._next_number: dict[str, int] = {}
        self._held_bytes = 0

    @property
    def running(self) -> tuple[str, ...]:
        """Names of the acquisitions that began and did not end."""
        return tuple(one.name for one in self._running.values())

    def plane(self, header: PlaneHeader, data: NDArray[Any]) -> Iterator[Event]:
        """Take a plane."""
        num_missed = self._count_missed(header.sender, header.acquisition, header.number)
        self._next_number[header.sender] = header.number + 1
        identity = header.sender, header.acquisition
        if identity not in self._running:
            yield from self._make_room()
            self._running[identity] = _Acquisition(self._unique(header.acquisition), 0.0)
        one = self._running[identity]
        one.heard_s = time.monotonic()
        one.num_planes += 1
        if num_missed:
            one.stacks.forget()
        plane = _plane(one.name, header, data)
        if one.info is None:
            yield from self._make_room_for_names(identity, header)
        if one.info is not None:
            yield plane
            if one.num_planes == _num_planned(header, one.info):
                yield from self._end(identity, "finished")
        elif not one.is_refused:
            yield from self._hold(one, header, plane)

    def end(self, word: PlanesEnd) -> Iterator[Event]:
        """Take a sender's word that an acquisition is over."""
        if word.number is not None:
            self._count_missed(word.sender, word.acquisition, word.number)
            self._next_number[word.sender] = word.number
        yield from self._end((word.sender, word.acquisition), word.reason)

    def end_idle(self, idle_s: float, reason: str) -> Iterator[Event]:
        """End acquisitions that sent nothing for so long; 0 ends all."""
        now = time.monotonic()
        quiet = [i for i, one in self._running.items() if now - one.heard_s >= idle_s]
        for identity in quiet:
            yield from self._end(identity, reason)

    def _hold(self, one: _Acquisition, header: PlaneHeader, plane: Plane) -> Iterator[Event]:
        """Hold planes back until what must be announced is known."""
        if plane.data.nbytes <= _COPIED_BYTES:
            plane = replace(plane, data=_copied(plane.data))
        one.held.append(plane)
        one.header = header
        self._held_bytes += plane.data.nbytes + _HELD_OVERHEAD
        learned = one.stacks.add(plane)
        num_slices = header.num_slices or self._defaults.num_slices or learned
        is_full = self._held_bytes > self._defaults.memory_bytes
        if num_slices is not None and (is_full or self._is_step_settled(one, header, num_slices)):
            yield from self._announce(one, header, num_slices)
            if one.num_planes == _num_planned(header, one.info):
                yield from self._end((header.sender, header.acquisition), "finished")
        elif is_full:
            one.is_refused = True
            self._release(one)
            logger.warning(
                "%s: how many planes its stacks have couldn't be learned before memory_mb was full: "
                "it isn't restored. Set num_slices in [source], or in publish_planes()",
                one.name,
            )

    def _is_step_settled(self, one: _Acquisition, header: PlaneHeader, num_slices: int) -> bool:
        """Senders may learn the distance between planes from a stack's second plane."""
        known = header.z_step_um or self._defaults.z_step_um
        return bool(known) or num_slices == 1 or one.stacks.has_two_planes

    def _announce(self, one: _Acquisition, header: PlaneHeader, num_slices: int) -> Iterator[Event]:
        held = list(one.held)
        info = self._info(one, header, num_slices)
        one.info = info
        self._release(one)
        yield info
        yield from held

    def _release(self, one: _Acquisition) -> None:
        self._held_bytes -= one.held_bytes
        one.held.clear()
        one.header = None
        one.stacks = _Stacks()

    def _end(self, identity: tuple[str, str], reason: str) -> Iterator[Event]:
        one = self._running.pop(identity, None)
        if one is None:
            return
        if one.info is None and one.header is not None:
            known = one.header.num_slices or self._defaults.num_slices
            num_slices = known or max(plane.z for plane in one.held) + 1
            yield from self._announce(one, one.header, num_slices)
        if one.info is not None:
            yield AcquisitionEnd(one.name, reason)

    def _make_room(self) -> Iterator[Event]:
        while len(self._running) >= _MOST_AT_ONCE:
            quietest = min(self._running, key=lambda i: self._running[i].heard_s)
            yield from self._end(quietest, "too many acquisitions at once")

    def _make_room_for_names(
        self, identity: tuple[str, str], header: PlaneHeader
    ) -> Iterator[Event]:
        names = (*header.positions, *header.channels)
        self._running[identity].names_nbytes = sum(64 + len(name) for name in names)
        held = sum(one.names_nbytes for one in self._running.values())
        while held > _NAMES_BYTES and len(self._running) > 1:
            others = (i for i in self._running if i != identity)
            quietest = min(others, key=lambda i: self._running[i].heard_s)
            held -= self._running[quietest].names_nbytes
            yield from self._end(quietest, "too many acquisitions at once")

    def _unique(self, name: str) -> str:
        count = self._names.pop(name, 0) + 1
        self._names[name] = count
        if len(self._names) > _REMEMBERED_NAMES:
            del self._names[next(iter(self._names))]
        return name if count == 1 else f"{name}~{count}"

    def _count_missed(self, sender: str, acquisition: str, number: int) -> int:
        """How many planes before this number a sender couldn't send; they are told of."""
        expected = self._next_number.pop(sender, 0)
        if len(self._next_number) >= _MOST_AT_ONCE:
            del self._next_number[next(iter(self._next_number))]
        if number > expected:
            logger.warning(
                "%s: before plane %d, %d weren't sent: this program wasn't there, or more waited "
                "than the sender may hold",
                acquisition,
                number,
                number - expected,
            )
        return max(0, number - expected)

    def _info(self, one: _Acquisition, header: PlaneHeader, num_slices: int) -> AcquisitionInfo:
        return AcquisitionInfo(
            acquisition=one.name,
            shape_zyx=(num_slices, header.shape[0], header.shape[1]),
            dtype=np.dtype(header.type),
            voxel_size_um=self._defaults.voxel_size_um(
                header.pixel_size_um, header.z_step_um, num_slices
            ),
            channels=header.channels or tuple(dict.fromkeys(p.key.channel for p in one.held)),
            positions=header.positions or tuple(dict.fromkeys(p.key.position for p in one.held)),
            num_times=header.num_times,
            origin=header.origin,
        )


def _num_planned(header: PlaneHeader, info: AcquisitionInfo | None) -> int | None:
    """How many planes the whole acquisition has, where its sender knows."""
    if info is None or not (header.num_times and header.channels and header.positions):
        return None
    stacks = header.num_times * len(header.channels) * len(header.positions)
    return stacks * info.shape_zyx[0] if header.num_slices else None


def _copied(data: NDArray[Any]) -> NDArray[Any]:
    data = data.copy()
    data.flags.writeable = False
    return data


def _plane(acquisition: str, header: PlaneHeader, data: NDArray[Any]) -> Plane:
    key = VolumeKey(acquisition, header.position, header.time, header.channel)
    return Plane(
        key,
        header.z,
        data,
        acquired_at=header.acquired_at,
        exposure_ms=header.exposure_ms,
        power=header.power,
    )
