"""The light that a specimen gets: what it stands at, what is asked of it, what it came to."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Adjustment", "Light", "LightReading", "is_same"]

_SAME = 0.01  # of a value: a device may round what it was set to, or tell fewer digits


def is_same(one: float, other: float) -> bool:
    """Whether two values of the light are one, but for what devices round."""
    return abs(one - other) <= _SAME * max(abs(one), abs(other))


@dataclass(frozen=True, slots=True)
class LightReading:
    """What one control of the light stands at, as a source read it from the device.

    Attributes
    ----------
    channel : str
        Whose exposure; empty for a property, which all channels share.
    value : float
        In milliseconds, or in the property's own unit.
    own : float
        What the user had set.
    lowest, highest : float or None
        The device's own limits.
    is_start : bool
        Nothing was acquired with other light before: what the user begins with.
    is_ours : bool
        It was asked for by this program; otherwise it is what the user set.
    problem : str
        Why it couldn't be set as it was asked for; empty where it could.
    """

    channel: str
    value: float
    own: float
    lowest: float | None = None
    highest: float | None = None
    is_start: bool = False
    is_ours: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Adjustment:
    """What is asked of a source: another value, from the next volume on.

    Attributes
    ----------
    channel : str
        As in `LightReading`.
    value : float
        To be set.
    """

    channel: str
    value: float


@dataclass(frozen=True, slots=True)
class Light:
    """What a volume cost.

    Attributes
    ----------
    exposure_ms : float or None
        Of each plane; None when unknown.
    power : float or None
        What the property of the light's power stood at; None where none is known.
    unit : str
        Of the doses.
    dose : float or None
        Exposure times power (1 where it is unknown) over all planes of this volume; None when the exposure is
        unknown, or planes came before this program.
    total : float or None
        The same of all volumes of its position so far, of all channels.
    of_own : float or None
        The changed value over the user's own: 1 while it is his; None where nothing is watched.
    """

    exposure_ms: float | None
    power: float | None
    unit: str
    dose: float | None
    total: float | None
    of_own: float | None = None
