"""A ladder of light from the microscope itself: planned, then taken low to high, the lowest once more at the end."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from live_restore.characterize.ladder_folder import Kind, LadderCard, LadderFolder, TakenStack
from live_restore.errors import ProfileError, SourceError
from live_restore.interfaces import StopSignal
from live_restore.light import LightReading
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.sources.variation import Variation
from live_restore.volume import AcquisitionInfo, Plane

__all__ = ["LadderMicroscope", "LadderPlan", "plan_ladder"]

logger = logging.getLogger(__name__)

_LOWEST = 1 / 16  # of the profile's exposure
_FEWEST_DARK = 10  # frames


@dataclass(frozen=True, slots=True)
class LadderPlan:
    """What will be taken.

    Attributes
    ----------
    settings : AcquisitionSource
        One channel, as many time points as repeats, nothing saved by Micro-Manager.
    card : LadderCard
        Of the folder, still without stacks.
    values : tuple of float
        Steps, low to high.
    """

    settings: AcquisitionSource
    card: LadderCard
    values: tuple[float, ...]

    @property
    def dose_of_a_field(self) -> float:
        """Light on each field, in normal stacks."""
        doses = [self.card.dose_of(value) for value in (*self.values, self.values[0])]
        return sum(doses) * self.settings.num_times


def plan_ladder(
    settings: AcquisitionSource,
    dose: DoseSettings,
    channel: str | None,
    repeats: int,
    steps: int,
    exposures: tuple[float, ...] = (),
    device_property: str = "",
    values: tuple[float, ...] = (),
) -> LadderPlan:
    """Plan one.

    Parameters
    ----------
    settings : AcquisitionSource
        Of the profile.
    dose : DoseSettings
        Of the profile: how the signal follows the property.
    channel : str or None
        One of the profile's; the first without it.
    repeats, steps : int
        Stacks per step; steps from a sixteenth of the profile's exposure to all of it, in equal ratios.
    exposures : tuple of float
        Milliseconds, instead of those.
    device_property : str
        What is varied in place of the exposure.
    values : tuple of float
        To which it is set.

    Raises
    ------
    ProfileError
        There is no such channel.
    """
    channels = settings.channels
    if channel is not None and channel not in channels:
        raise ProfileError(
            f"--channel {channel}: the profile's are {', '.join(channels) or 'none, as the microscope stands'}"
        )
    own = settings.exposure_ms
    each = own if isinstance(own, tuple) else (own,) * max(len(channels), 1)
    name = channel or (channels[0] if channels else "camera")
    exposure = each[channels.index(name)] if channels else each[0]
    if device_property:
        known = settings.properties.get(device_property)
        reference = float(known) if known and _is_positive(known) else max(values)
        steps_at = values
    else:
        reference = exposure
        steps_at = exposures or tuple(
            float(f"{one:.4g}") for one in np.geomspace(exposure * _LOWEST, exposure, steps)
        )
    card = LadderCard(
        control=device_property or "exposure",
        reference=reference,
        photons_absorbed=dose.photons_absorbed,
        channel=name,
        fields=tuple(p.name or str(i) for i, p in enumerate(settings.positions)) or ("0",),
        voxel_size_um=None,
    )
    changed = {
        "name": "ladder",
        "channels": channels and (name,),
        "exposure_ms": exposure,
        "num_times": repeats,
        "interval_s": 0.0,
        "save_folder": None,
    }
    return LadderPlan(settings.model_copy(update=changed), card, tuple(sorted(set(steps_at))))


class LadderMicroscope:
    """The microscope of a plan.

    Its hardware is loaded once, in the acquisition's process, which also gives back the light after each step.

    Parameters
    ----------
    plan : LadderPlan
        What it will take.
    folder : LadderFolder
        Where stacks go as soon as they are there.
    stop : StopSignal
        Ends it after the plane that is exposed.
    """

    def __init__(self, plan: LadderPlan, folder: LadderFolder, stop: StopSignal) -> None:
        self._plan = plan
        self._folder = folder
        self._stop = stop
        self._source = OwnAcquisition(plan.settings)

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            opened.enter_context(self._source)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._opened.__exit__(kind, error, traceback)

    def take_dark(self, exposure_ms: float | None) -> None:
        """Stacks without light, ten planes at least.

        Raises
        ------
        SourceError
            The acquisition failed.
        SinkError
            They can't be written.
        KeyboardInterrupt
            It was stopped.
        """
        settings = self._plan.settings
        planes = settings.num_slices * settings.num_times
        value = exposure_ms or float(_single(settings.exposure_ms))
        variation = Variation(value, 0 if settings.positions else None)
        for number in range(math.ceil(_FEWEST_DARK / planes)):
            self._take("dark", 0, number, value, variation)

    def take(self, tell: Callable[[str], None]) -> None:
        """Each field's ladder, field by field.

        Parameters
        ----------
        tell : callable
            Called with a line for people before each step.

        Raises
        ------
        SourceError
            The acquisition failed, or the light can't be set.
        SinkError
            Stacks can't be written.
        KeyboardInterrupt
            It was stopped.
        """
        plan = self._plan
        for field, name in enumerate(plan.card.fields):
            position = field if plan.settings.positions else None
            for kind, step, value in _rungs(plan.values):
                again = ", once more" if kind == "bracket" else ""
                tell(f"field {name}: {value:g} {plan.card.unit}{again}")
                if plan.card.control == "exposure":
                    variation = Variation(value, position)
                else:
                    exposure = float(_single(plan.settings.exposure_ms))
                    variation = Variation(exposure, position, plan.card.control, value)
                self._take(kind, field, step, value, variation)

    def _take(self, kind: Kind, field: int, step: int, value: float, variation: Variation) -> None:
        """One acquisition, onto the disk."""
        card = self._folder.card
        stacks: dict[int, dict[int, NDArray[Any]]] = {}
        light: LightReading | None = None
        for event in self._source.events(self._stop, variation):
            if isinstance(event, Plane):
                stacks.setdefault(event.key.time, {})[event.z] = event.data
            elif isinstance(event, AcquisitionInfo):
                self._folder.card = self._folder.card.model_copy(
                    update={"voxel_size_um": event.voxel_size_um}
                )
            elif isinstance(event, LightReading) and bool(event.channel) == (
                not variation.device_property
            ):
                light = event
        if self._stop.is_set():
            raise KeyboardInterrupt
        settings = self._plan.settings
        whole = [one for one in stacks.values() if len(one) == settings.num_slices]
        if len(whole) < settings.num_times or light is None:
            raise SourceError(
                f"{kind} at {value:g} {card.unit}: {len(whole)} of {settings.num_times} stacks came whole from the "
                "camera; see the messages above"
            )
        for repeat, planes in sorted(stacks.items()):
            name = f"dark{step}" if kind == "dark" else f"field{field}_{kind}{step}"
            taken = TakenStack(
                file=f"{name}_{repeat}.ome.tif",
                kind=kind,
                field=field,
                step=step,
                repeat=repeat,
                asked=value,
                stood_at=light.value,
                own=light.own,
            )
            self._folder.add(taken, np.stack([planes[z] for z in sorted(planes)]))


def _rungs(values: tuple[float, ...]) -> Iterator[tuple[Kind, int, float]]:
    for step, value in enumerate(values):
        yield "step", step, value
    yield "bracket", 0, values[0]


def _single(exposure: float | tuple[float, ...]) -> float:
    return exposure[0] if isinstance(exposure, tuple) else exposure


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False
