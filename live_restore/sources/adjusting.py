"""The light of an acquisition that this process runs: changed between two volumes, read back, given back.

Runs inside the acquiring process, from pycromanager's hooks. An event is always returned, whatever happens:
one that isn't is never acquired.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

from live_restore.errors import SourceError
from live_restore.light import Adjustment, is_same
from live_restore.plane_protocol import LightWord
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.device_property import DeviceProperty, clamped, exposure_limits

__all__ = ["AcquisitionLight"]

logger = logging.getLogger(__name__)

_MOST_STACKS = 10_000  # whose light is remembered until their planes are sent

Event = dict[str, Any]


class AcquisitionLight:
    """What is done to the light in one acquiring process.

    Parameters
    ----------
    core : object
        Micro-Manager's, of either backend.
    dose : DoseSettings
        Which control of the light, and which property tells its power.
    source : AcquisitionSource
        Its channels and the user's exposures.
    tell : callable
        Takes each reading.

    Raises
    ------
    SourceError
        The profile names a property that can't be used; the text says why.
    """

    def __init__(
        self,
        core: Any,
        dose: DoseSettings,
        source: AcquisitionSource,
        tell: Callable[[LightWord], object],
    ) -> None:
        self._core = core
        self._tell = tell
        self._property = _property(core, dose, source)
        self._power = DeviceProperty(core, dose.power) if dose.power else None
        channels = source.channels or ("camera",)
        exposures = source.exposure_ms
        each = exposures if isinstance(exposures, tuple) else (exposures,) * len(channels)
        if self._property is not None:
            self._own = {"": self._property.read()}
            self._limits = self._property.limits
        else:
            self._own = dict(zip(channels, each, strict=True))
            self._limits = exposure_limits(core)
        self._now = dict(self._own)
        self._asked: dict[str, float] = {}
        # Set for the volume that begins, and not read back: before, and as it was wanted.
        self._fresh: dict[str, tuple[float, float]] = {}
        self._last: tuple[str, float] | None = None  # what was read back last
        self._powers: dict[tuple[Any, ...], float] = {}
        self._lock = threading.Lock()
        self._is_active = dose.control != "off"

    def announce(self) -> None:
        """Tell what everything stands at before the first volume."""
        if self._is_active:
            for name in self._own:
                self._say(name, is_start=True)

    def ask(self, adjustment: Adjustment) -> None:
        """Another value, from the next volume of a channel on; from any thread."""
        with self._lock:
            if adjustment.channel in self._own:
                self._asked[adjustment.channel] = adjustment.value

    def give_back(self) -> None:
        """The user's own values from the next volumes on; from any thread."""
        with self._lock:
            self._asked = {n: own for n, own in self._own.items() if not is_same(self._now[n], own)}

    def finish(self) -> None:
        """After the last volume: leave the hardware as the user had it."""
        with self._lock:
            changed = [n for n, own in self._own.items() if not is_same(self._now[n], own)]
            try:
                for name in changed:
                    self._set(name, self._own[name])
                    self._now[name] = self._read()
            except Exception as error:  # noqa: BLE001 - the core has no narrower one
                logger.warning("the light isn't as you had set it, set it back by hand: %s", error)
        for name in changed:
            self._say(name, is_ours=True)

    def power_of(self, axes: dict[str, Any]) -> float | None:
        """The power with which a plane was taken, where it is known."""
        return self._powers.get(_stack(axes))

    def before_hardware(self, event: Event | list[Event]) -> Event | list[Event]:
        """For ``pre_hardware_hook_fn``; called from the acquisition's thread."""
        events = event if isinstance(event, list) else [event]
        try:
            with self._lock:
                said = self._before(events)
            for name in said:
                self._say(name)
        except Exception:
            logger.warning("the light isn't changed; the acquisition goes on", exc_info=True)
        return event

    def after_hardware(self, event: Event | list[Event]) -> Event | list[Event]:
        """For ``post_hardware_hook_fn``; called from the acquisition's thread."""
        events = event if isinstance(event, list) else [event]
        try:
            if _begins_volume(events[0]):
                with self._lock:
                    said = self._after(events)
                for name, problem in said.items():
                    self._say(name, is_ours=True, problem=problem)
        except Exception:
            logger.warning("the light can't be read; the acquisition goes on", exc_info=True)
        return event

    # --- before a volume ---

    def _before(self, events: Sequence[Event]) -> tuple[str, ...]:
        """What the user has changed by hand; else what is asked for is set."""
        said: tuple[str, ...] = ()
        if self._is_active and _begins_volume(events[0]):
            if self._last is not None and not is_same(self._read(), self._last[1]):
                name = self._last[0]
                self._own[name] = self._now[name] = self._read()
                self._last = None
                self._asked.clear()  # hands off
                said = (name,)
            else:
                self._apply(self._name(events[0]))
        if self._property is None:
            self._put_exposures(events)
        return said

    def _apply(self, name: str) -> None:
        value = self._asked.pop(name, None)
        if value is None:
            return
        before = self._now[name]
        own = self._own[
            name
        ]  # never more, whoever asks; his right, whatever limits the device tells
        wanted = own if value >= own else min(own, clamped(value, *self._limits))
        if self._property is not None:
            try:
                self._set(name, wanted)
            except Exception as error:  # noqa: BLE001 - the core has no narrower one
                logger.warning("%s can't be set to %g: %s", self._property.name, wanted, error)
        self._now[name] = wanted  # until it is read back
        self._fresh[name] = before, wanted

    def _put_exposures(self, events: Sequence[Event]) -> None:
        """Each plane's exposure into its event; a hardware sequence of one exposure stays one."""
        exposures = [self._now.get(self._name(one)) for one in events]
        if len(set(exposures)) > 1 and len({one.get("exposure") for one in events}) == 1:
            return  # the camera may not be able to
        for one, exposure in zip(events, exposures, strict=True):
            if exposure is not None:
                one["exposure"] = exposure

    # --- when the hardware is set ---

    def _after(self, events: Sequence[Event]) -> dict[str, str]:
        """Read what the volume is taken with; what was asked for it, and what went wrong."""
        if self._power is not None:
            power = self._power.read()
            for one in events:
                self._powers[_stack(one["axes"])] = power
            while len(self._powers) > _MOST_STACKS:
                del self._powers[next(iter(self._powers))]
        if not self._is_active:
            return {}
        name, value = self._name(events[0]), self._read()
        # Of a camera that runs through several exposures by itself nobody can tell whose hand was there.
        is_one = self._property or len({one.get("exposure") for one in events}) == 1
        self._last = (name, value) if is_one else None
        fresh = self._fresh.pop(name, None)
        if fresh is None:
            return {}
        self._now[name] = value
        before, wanted = fresh
        has_moved = is_same(before, wanted) or not is_same(value, before)
        is_between = clamped(value, min(fresh), max(fresh)) == value or is_same(value, wanted)
        is_done = has_moved and is_between  # a device that rounds may not go all the way
        return {name: "" if is_done else f"asked for {wanted:g}, it stands at {value:g}"}

    def _name(self, event: Event) -> str:
        """Which control of the light an event's volume has."""
        return "" if self._property else str(event["axes"].get("channel", "camera"))

    def _read(self) -> float:
        return self._property.read() if self._property else float(self._core.get_exposure())

    def _set(self, name: str, value: float) -> None:
        if self._property:
            self._property.set(value, towards=self._now[name])
        else:
            self._core.set_exposure(value)

    def _say(
        self, name: str, *, is_start: bool = False, is_ours: bool = False, problem: str = ""
    ) -> None:
        lowest, highest = self._limits
        value, own = self._now[name], self._own[name]
        if not (math.isfinite(value) and math.isfinite(own)):
            return
        self._tell(
            LightWord(
                channel=name,
                value=value,
                own=own,
                lowest=lowest,
                highest=highest,
                is_start=is_start,
                is_ours=is_ours,
                problem=problem,
            )
        )


def _begins_volume(event: Event) -> bool:
    axes = event.get("axes")  # an event that only ends a sequence has none
    return axes is not None and int(axes.get("z", 0)) == 0


def _stack(axes: dict[str, Any]) -> tuple[Any, ...]:
    return axes.get("time", 0), axes.get("position", 0), axes.get("channel", "")


def _property(core: Any, dose: DoseSettings, source: AcquisitionSource) -> DeviceProperty | None:
    """The property to be changed; None for the exposure.

    Raises
    ------
    SourceError
        It can't be, or would be set anew with each channel.
    """
    if dose.control == "off" or dose.device_property == "exposure":
        return None
    found = DeviceProperty(core, dose.device_property)
    found.check_settable()
    for channel in source.channels:
        if found.is_in_preset(source.channel_group, channel):
            raise SourceError(
                f"dose.device_property = {found.name!r}: the preset {channel!r} of {source.channel_group!r} sets it "
                "too, anew with each channel. Take it out of the presets, or name another one in [dose]"
            )
    return found
