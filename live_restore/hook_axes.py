"""Where a plane belongs, read from what pycromanager and pymmcore-plus say of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

__all__ = [
    "POWER",
    "Place",
    "Plan",
    "distance",
    "plan_of_events",
    "read_mda_event",
    "read_pycromanager",
]

POWER = "LightPower"
"""Key of the light's power among pycromanager's metadata, where somebody puts it there."""

_STEP_DIGITS = 6  # heights are sums of steps in binary fractions; no stage resolves a picometre


@dataclass(frozen=True, slots=True)
class Plan:
    """What is known of an acquisition beforehand; None and empty where it isn't.

    Attributes
    ----------
    num_slices, num_times : int or None
        Planes per stack, time points.
    channels, positions : tuple of str
        Names.
    pixel_size_um, z_step_um : float or None
        Sizes.
    """

    num_slices: int | None = None
    num_times: int | None = None
    channels: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    pixel_size_um: float | None = None
    z_step_um: float | None = None

    def with_fallback(self, other: Plan) -> Plan:
        """The same plan, with another's word where it has none."""
        return replace(
            self, **{f.name: getattr(self, f.name) or getattr(other, f.name) for f in fields(self)}
        )


@dataclass(frozen=True, slots=True)
class Place:
    """One plane's place.

    Attributes
    ----------
    position, time, channel, z
        Its axes.
    z_um, exposure_ms : float or None
        Where the stage was; how long it was exposed.
    power : float or None
        What the property of the light's power stood at.
    origin : str
        The camera.
    plan : Plan
        What this plane says of its acquisition.
    sequence : object
        Differs between acquisitions, where the plane knows.
    """

    position: str = "0"
    time: int = 0
    channel: str = "camera"
    z: int = 0
    z_um: float | None = None
    exposure_ms: float | None = None
    power: float | None = None
    origin: str = ""
    plan: Plan = field(default_factory=Plan)
    sequence: Any = None


def plan_of_events(events: Sequence[Mapping[str, Any]]) -> Plan:
    """The plan in a list of pycromanager's acquisition events."""
    axes = [dict(event.get("axes", {})) for event in events]
    heights = {
        a["z"]: float(event["z"])
        for a, event in zip(axes, events, strict=True)
        if "z" in a and event.get("z") is not None
    }
    return Plan(
        num_slices=len({a.get("z", 0) for a in axes}) or None,
        num_times=len({a.get("time", 0) for a in axes}) or None,
        channels=tuple(dict.fromkeys(_channel(a) for a in axes)),
        positions=tuple(dict.fromkeys(_position(a) for a in axes)),
        z_step_um=_step(heights),
    )


def read_pycromanager(metadata: Mapping[str, Any]) -> Place:
    """A plane's place from the metadata that an ``image_process_fn`` is given."""
    axes = dict(metadata.get("Axes") or {})
    return Place(
        position=_position(axes),
        time=int(axes.get("time", 0)),
        channel=_channel(axes),
        z=int(axes.get("z", 0)),
        z_um=_number(metadata.get("ZPosition_um_Intended")),
        exposure_ms=_number(metadata.get("Exposure")),
        power=_number(metadata.get(POWER)),
        origin=f"Micro-Manager camera {metadata.get('Camera') or ''}".strip(),
        plan=Plan(pixel_size_um=_positive(metadata.get("PixelSize_um"))),
    )


def read_mda_event(event: Any, metadata: Mapping[str, Any]) -> Place:
    """A plane's place from a ``useq.MDAEvent`` and pymmcore-plus' metadata of the frame."""
    index = {str(key): int(value) for key, value in event.index.items()}
    others = {key: value for key, value in index.items() if key not in "tczp"}
    position = event.pos_name or str(index.get("p", 0))
    channel = event.channel.config if event.channel is not None else "camera"
    plan = Plan(pixel_size_um=_positive(metadata.get("pixel_size_um")))
    sequence = event.sequence
    if sequence is not None:
        plan = plan.with_fallback(_plan_of_sequence(sequence))
        position = dict(enumerate(plan.positions)).get(index.get("p", 0), position)
        channel = dict(enumerate(plan.channels)).get(index.get("c", 0), channel)
        # Planes that only some positions have aren't planned: the end isn't told by their number.
        if others or any(p.sequence is not None for p in sequence.stage_positions):
            plan = replace(plan, positions=())
    return Place(
        position=_with_others(position, others),
        time=index.get("t", 0),
        channel=channel,
        z=index.get("z", 0),
        z_um=_number(event.z_pos),
        exposure_ms=_number(event.exposure) or _number(metadata.get("exposure_ms")),
        origin=f"Micro-Manager camera {metadata.get('camera_device') or ''}".strip(),
        plan=plan,
        sequence=getattr(sequence, "uid", None),
    )


def _plan_of_sequence(sequence: Any) -> Plan:
    """The plan in a ``useq.MDASequence``."""
    sizes = sequence.sizes
    positions = (p.name or str(i) for i, p in enumerate(sequence.stage_positions))
    return Plan(
        num_slices=max(1, sizes.get("z", 1)),
        num_times=max(1, sizes.get("t", 1)),
        channels=_distinct(channel.config for channel in sequence.channels) or ("camera",),
        positions=_distinct(positions) or ("0",),
        z_step_um=_positive(getattr(sequence.z_plan, "step", None)),
    )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    """The same names, numbered where they come again: they tell stacks apart."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(distinct)


def distance(planes: int, rise_um: float) -> float | None:
    """The distance between planes that are so many planes and so many µm apart."""
    return _positive(round(abs(rise_um / planes), _STEP_DIGITS)) if planes else None


def _channel(axes: Mapping[str, Any]) -> str:
    return str(axes.get("channel", "camera"))


def _position(axes: Mapping[str, Any]) -> str:
    """Axes that aren't ours, as a mosaic's rows and columns, tell positions apart too."""
    others = {k: v for k, v in axes.items() if k not in ("time", "channel", "z", "position")}
    return _with_others(str(axes.get("position", "0")), others)


def _with_others(position: str, others: Mapping[str, Any]) -> str:
    return " ".join([position, *(f"{key}{value}" for key, value in sorted(others.items()))])


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _positive(value: Any) -> float | None:
    number = _number(value)
    return number if number and number > 0 else None


def _step(heights: Mapping[int, float]) -> float | None:
    """The distance between planes from their heights by index."""
    if len(heights) < 2:
        return None
    first, last = min(heights), max(heights)
    return distance(last - first, heights[last] - heights[first])
