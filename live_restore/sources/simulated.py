"""The simulated low-dose microscope as a source, in real time."""

from __future__ import annotations

import time
from collections.abc import Generator
from itertools import count
from types import TracebackType
from typing import Self

import numpy as np

from live_restore.interfaces import Event, StopSignal
from live_restore.profile import SimulatedSource
from live_restore.simulation import SimulatedMicroscope
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, VolumeKey, utc_now

__all__ = ["Simulated", "relative_dose", "simulated_microscope"]


def simulated_microscope(settings: SimulatedSource) -> SimulatedMicroscope:
    """The microscope behind the settings; equal settings give equal volumes and truths."""
    return SimulatedMicroscope(
        shape_zyx=settings.shape_zyx,
        voxel_size_um=settings.voxel_size_um,
        channels=settings.channels,
        peak_photons=settings.peak_photons,
        interval_s=settings.interval_s,
        seed=settings.seed,
    )


def relative_dose(settings: SimulatedSource, time_point: int) -> float:
    """The light of a time point, in multiples of what the settings call the dose."""
    if settings.ladder_from is None or time_point < settings.ladder_from:
        return 1.0
    return float(
        settings.ladder_start * settings.ladder_step ** (time_point - settings.ladder_from)
    )


class Simulated:
    """A source that exposes one plane after the other; made to wait, it exposes later."""

    is_durable = True

    def __init__(self, settings: SimulatedSource) -> None:
        self._settings = settings
        self._microscope = simulated_microscope(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing is open."""

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`."""
        settings = self._settings
        yield AcquisitionInfo(
            acquisition=settings.name,
            shape_zyx=settings.shape_zyx,
            dtype=np.dtype(np.uint16),
            voxel_size_um=settings.voxel_size_um,
            channels=settings.channels,
            num_times=settings.num_times,
            origin="simulated microscope",
        )
        due = time.monotonic()
        for point in count() if settings.num_times is None else range(settings.num_times):
            dose = relative_dose(settings, point)
            for channel in settings.channels:
                stack = self._microscope.stack(point, channel, dose)
                key = VolumeKey(settings.name, "0", point, channel)
                for z, plane in enumerate(stack):
                    if stop.wait(settings.exposure_ms / 1000):
                        yield AcquisitionEnd(settings.name, "stopped")
                        return
                    yield Plane(
                        key,
                        z,
                        plane,
                        acquired_at=utc_now(),
                        exposure_ms=settings.exposure_ms * dose or None,
                    )
            due += settings.interval_s
            if stop.wait(max(0.0, due - time.monotonic())):
                yield AcquisitionEnd(settings.name, "stopped")
                return
        yield AcquisitionEnd(settings.name)
