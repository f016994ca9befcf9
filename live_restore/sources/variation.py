"""One acquisition that differs from the profile's: in its light, its place, its number of time points."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from live_restore.errors import SourceError
from live_restore.light import is_same
from live_restore.plane_protocol import LightWord
from live_restore.profile import AcquisitionSource
from live_restore.sources.device_property import DeviceProperty, exposure_limits

__all__ = ["Variation", "borrowed_light"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Variation:
    """What is otherwise than in the profile.

    Attributes
    ----------
    exposure_ms : float or None
        Of all planes.
    position : int or None
        Only this one of the profile's, by number.
    device_property : str
        One property, as "Laser-Power"; empty for none.
    value : float
        To which it is set meanwhile.
    """

    exposure_ms: float | None = None
    position: int | None = None
    device_property: str = ""
    value: float = 0.0

    def of(self, settings: AcquisitionSource) -> AcquisitionSource:
        """The profile's settings with it."""
        changes: dict[str, Any] = {}
        if self.exposure_ms is not None:
            changes["exposure_ms"] = self.exposure_ms
        if self.position is not None:
            changes["positions"] = settings.positions[self.position :][:1]
        return settings.model_copy(update=changes)

    def as_word(self) -> str:
        """A line for the acquiring process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_word(cls, text: str) -> Variation:
        """What a line says."""
        return cls(**json.loads(text))


@contextmanager
def borrowed_light(
    core: Any,
    settings: AcquisitionSource,
    variation: Variation,
    tell: Callable[[LightWord], object],
) -> Iterator[None]:
    """While entered, the light is the variation's; then it is what it was, whatever happened.

    Runs inside of the acquiring process, so that it is given back too when the other program is killed.

    Parameters
    ----------
    core : object
        Micro-Manager's.
    settings : AcquisitionSource
        Of the acquisition, varied.
    variation : Variation
        Which property, if any.
    tell : callable
        Takes what the exposure and the property stood at when the acquisition was over.

    Raises
    ------
    SourceError
        The property can't be set, or doesn't stand where it was set.
    """
    exposure = float(core.get_exposure())
    light = _Property(core, settings, variation) if variation.device_property else None
    try:
        if light is not None:
            light.set()
        yield
        lowest, highest = exposure_limits(core)
        name = (settings.channels or ("camera",))[0]
        tell(
            LightWord(
                channel=name,
                value=float(core.get_exposure()),
                own=exposure,
                lowest=lowest,
                highest=highest,
            )
        )
        if light is not None:
            tell(light.reading())
    finally:
        _give_back(core, exposure, light)


class _Property:
    def __init__(self, core: Any, settings: AcquisitionSource, variation: Variation) -> None:
        self._found = DeviceProperty(core, variation.device_property)
        self._found.check_settable()
        for channel in settings.channels:
            if self._found.is_in_preset(settings.channel_group, channel):
                raise SourceError(
                    f"property {self._found.name}: the preset {channel!r} of {settings.channel_group!r} sets it too, "
                    "and would undo it. Take it out of the preset, or name another one"
                )
        self.own = self._found.read()
        self.wanted = variation.value

    @property
    def name(self) -> str:
        return self._found.name

    def set(self) -> None:
        """Set it and see that it is.

        Raises
        ------
        SourceError
            It isn't.
        """
        try:
            self._found.set(self.wanted, towards=self.wanted)
        except Exception as error:
            raise SourceError(
                f"property {self.name}: can't be set to {self.wanted:g} ({error}); its limits are "
                f"{self._found.limits}"
            ) from error
        value = self._found.read()
        if not is_same(value, self.wanted):
            raise SourceError(
                f"property {self.name}: set to {self.wanted:g}, it stands at {value:g}. Give values that it can "
                "have, or look whether the device is locked"
            )

    def reading(self) -> LightWord:
        lowest, highest = self._found.limits
        return LightWord(
            channel="",
            value=self._found.read(),
            own=self.own,
            lowest=lowest,
            highest=highest,
            is_ours=True,
        )

    def give_back(self) -> float:
        """What it stands at then."""
        self._found.set(self.own, towards=self.own)
        return self._found.read()


def _give_back(core: Any, exposure: float, light: _Property | None) -> None:
    if light is not None:
        try:
            value = light.give_back()
        except Exception as error:  # noqa: BLE001 - the core has no narrower one
            logger.error(
                "%s isn't as you had set it: set it to %g (%s)", light.name, light.own, error
            )
        else:
            logger.info("%s is at %g again", light.name, value)
    try:
        core.set_exposure(exposure)
    except Exception as error:  # noqa: BLE001 - the core has no narrower one
        logger.error("the exposure isn't as you had set it: set it to %g ms (%s)", exposure, error)
    else:
        logger.info("the exposure is %g ms again", float(core.get_exposure()))
