"""What Micro-Manager's summary metadata say of an acquisition. No bridge here."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from live_restore.sources.bridge.walk import Grid

__all__ = ["Plan", "read_map", "read_plan", "read_time"]

_TIME_FORMATS = ("%Y-%m-%d %H:%M:%S.%f %z", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%d %H:%M:%S.%f")
_MOST_NAME_CHARACTERS = 200
_ORDERS = {"position": ("position", "time"), "time": ("time", "position")}
_STACK_ORDERS = {"channel": ("channel", "z"), "z": ("z", "channel")}


@dataclass(frozen=True, slots=True)
class Plan:
    """An acquisition as planned.

    Attributes
    ----------
    acquisition : str
        Its name: what it is called in Micro-Manager and when it started, the same whoever asks and
        whenever.
    grid : Grid
        Its planes.
    channels, positions : tuple of str
        Names, each another one.
    z_step_um : float or None
        Distance between planes.
    started_at : datetime or None
        When it started, where known.
    """

    acquisition: str
    grid: Grid
    channels: tuple[str, ...]
    positions: tuple[str, ...]
    z_step_um: float | None
    started_at: datetime | None


def read_plan(
    summary: str, store_name: str, first_image_at: Callable[[], str | None] = lambda: None
) -> Plan | None:
    """The plan in summary metadata; None without intended dimensions, as Snap and Live have none.

    Parameters
    ----------
    summary : str
        The property map's JSON.
    store_name : str
        What Micro-Manager calls the store.
    first_image_at : callable
        When its first image was taken; asked for only where the start isn't in the summary.
    """
    values = read_map(summary)
    dims = values.get("IntendedDimensions") or {}
    sizes = {axis: int(dims.get(axis) or 0) for axis in ("time", "position", "channel", "z")}
    if not any(sizes.values()):
        return None
    axes = [str(axis) for axis in values.get("AxisOrder") or ()]
    outer = min(_ORDERS, key=lambda axis: _rank(axes, axis, usual="time"))
    stack = min(_STACK_ORDERS, key=lambda axis: _rank(axes, axis, usual="channel"))
    grid = Grid(
        max(1, sizes["time"]),
        max(1, sizes["position"]),
        max(1, sizes["channel"]),
        max(1, sizes["z"]),
        order=(*_ORDERS[outer], *_STACK_ORDERS[stack]),
    )
    labels = [str(one.get("Label") or "") for one in values.get("StagePositions") or ()]
    names = [str(name) for name in values.get("ChNames") or ()]
    step = abs(float(values.get("z-step_um") or 0))
    start = values.get("StartTime") or first_image_at()
    started_at = read_time(start)
    return Plan(
        acquisition=_name(values, store_name, start, started_at, summary),
        grid=grid,
        channels=_unique(names, grid.num_channels, "camera" if grid.num_channels == 1 else ""),
        positions=_unique(labels, grid.num_positions),
        z_step_um=step or None,
        started_at=started_at,
    )


def read_map(text: str) -> dict[str, Any]:
    """The plain values of a property map in JSON."""
    values = json.loads(text)
    return _plain(values.get("map", values))


def read_time(text: str | None) -> datetime | None:
    """A point in time as Micro-Manager writes it; without a zone, it is this computer's."""
    for layout in _TIME_FORMATS:
        try:
            return datetime.strptime(text or "", layout).astimezone()
        except ValueError:
            continue
    return None


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: _plain_value(value) for key, value in values.items()}


def _plain_value(value: Any) -> Any:
    if not isinstance(value, dict) or "type" not in value:
        return value
    is_map = value["type"] == "PROPERTY_MAP"
    if "array" in value:
        return [_plain(one) if is_map else one for one in value["array"]]
    return _plain(value.get("scalar") or {}) if is_map else value.get("scalar")


def _rank(axes: Sequence[str], axis: str, usual: str) -> tuple[int, bool]:
    return axes.index(axis) if axis in axes else len(axes), axis != usual


def _name(
    values: dict[str, Any],
    store_name: str,
    start: str | None,
    started_at: datetime | None,
    summary: str,
) -> str:
    name = str(values.get("Prefix") or "") or store_name or "acquisition"
    if started_at is not None:
        when = f"{started_at:%Y%m%d_%H%M%S}_{started_at.microsecond // 1000:03}"
    elif start:
        when = "_".join(re.findall(r"\w+", start))
    else:
        when = hashlib.sha256(summary.encode()).hexdigest()[:8]
    return f"{name[:_MOST_NAME_CHARACTERS]}_{when[:40]}"


def _unique(names: Sequence[str], number: int, only: str = "") -> tuple[str, ...]:
    """So many names, each another one; those that are missing are numbers."""
    given = [*names[:number], *[""] * (number - len(names))]
    filled = [name or only or str(index) for index, name in enumerate(given)]
    seen: Counter[str] = Counter()
    unique: list[str] = []
    for name in filled:
        seen[name] += 1
        unique.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(unique)
