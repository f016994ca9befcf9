"""One numeric property of one device, by Micro-Manager's core, in the same process or over its bridge."""

from __future__ import annotations

import math
from typing import Any

from live_restore.errors import SourceError

__all__ = ["DeviceProperty", "clamped", "exposure_limits"]

_WHOLE = ("3", "integer")  # the type's number in the Python core, its name in Java's


class DeviceProperty:
    """A property that is a number.

    Parameters
    ----------
    core : object
        Micro-Manager's.
    name : str
        As "Laser-Power": the device's label, then the property's name.

    Raises
    ------
    SourceError
        There is none of that name, or it isn't a number.
    """

    def __init__(self, core: Any, name: str) -> None:
        self.name = name
        self._core = core
        self._device, _, self._property = name.partition("-")
        try:
            self.read()
        except Exception as error:
            raise SourceError(
                f"property {name} can't be read as a number ({error}). Mend [dose]; Micro-Manager's Device "
                "Property Browser shows names and values"
            ) from error
        self._is_whole = _is_whole(core.get_property_type(self._device, self._property))

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """The device's own, where it has any."""
        return _limits(self._core, self._device, self._property)

    def check_settable(self) -> None:
        """Whether it can be set.

        Raises
        ------
        SourceError
            It can only be read.
        """
        if self._core.is_property_read_only(self._device, self._property):
            raise SourceError(
                f"property {self.name} can only be read: name one in [dose] that can be set"
            )

    def is_in_preset(self, group: str, preset: str) -> bool:
        """Whether a configuration preset sets it."""
        found = self._core.get_config_data(group, preset)
        ask = getattr(found, "is_property_included", None) or found.isPropertyIncluded
        return bool(ask(self._device, self._property))

    def read(self) -> float:
        """What it stands at.

        Raises
        ------
        Exception
            The device doesn't answer, or with something else than a number.
        """
        value = float(self._core.get_property(self._device, self._property))
        if not math.isfinite(value):
            raise ValueError(f"{self.name} is {value}")
        return value

    def set(self, value: float, towards: float) -> None:
        """Set it, and wait until it is; whole numbers are rounded towards another value.

        Raises
        ------
        Exception
            The device refuses.
        """
        if self._is_whole:
            text = str(math.ceil(value) if value < towards else math.floor(value))
        else:
            text = f"{value:.6g}"
        self._core.set_property(self._device, self._property, text)
        self._core.wait_for_device(self._device)


def _is_whole(kind: Any) -> bool:
    """Whether a property's type is that of whole numbers, by either backend."""
    for name in ("swig_value", "to_string"):
        if hasattr(kind, name):
            kind = getattr(kind, name)()
            break
    return str(kind).lower() in _WHOLE


def exposure_limits(core: Any) -> tuple[float | None, float | None]:
    """The camera's own limits of the exposure, where it tells any."""
    camera = core.get_camera_device()
    try:
        return _limits(core, camera, "Exposure")
    except Exception:  # noqa: BLE001 - the core has no narrower one: a camera without that property
        return None, None


def clamped(value: float, lowest: float | None, highest: float | None) -> float:
    """A value within limits."""
    value = value if lowest is None else max(value, lowest)
    return value if highest is None else min(value, highest)


def _limits(core: Any, device: str, name: str) -> tuple[float | None, float | None]:
    if not core.has_property_limits(device, name):
        return None, None
    return (
        float(core.get_property_lower_limit(device, name)),
        float(core.get_property_upper_limit(device, name)),
    )
