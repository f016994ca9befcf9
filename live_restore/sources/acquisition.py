"""A z-stack time lapse that this program runs itself, through pycromanager's Python backend.

The image hook does the least that is possible: it catches everything, hands the plane on without
waiting, and gives the image back untouched, since whatever a hook does slower than the camera
slows the microscope.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pycromanager import (
    Acquisition,
    Core,
    multi_d_acquisition_events,
    start_headless,
    stop_headless,
)
from pycromanager.acquisition.acq_eng_py.internal.engine import Engine

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Plane,
    VolumeKey,
    VoxelSize,
    utc_now,
)

__all__ = ["OwnAcquisition", "micro_manager_folder"]

logger = logging.getLogger(__name__)


class OwnAcquisition:
    """A source that acquires.

    Parameters
    ----------
    settings : AcquisitionSource
        What to acquire.
    """

    is_durable = False

    def __init__(self, settings: AcquisitionSource) -> None:
        self._settings = settings
        self._planes = _PlaneQueue(settings.memory_mb * 2**20)

    def __enter__(self) -> Self:
        folder = micro_manager_folder(self._settings.micro_manager)
        try:
            start_headless(
                mm_app_path=str(folder),
                config_file=self._settings.config_file,
                python_backend=True,
                buffer_size_mb=self._settings.buffer_mb,
            )
            self._core = Core()
            self._prepare()
        except SourceError:
            self._stop_core()
            raise
        except Exception as error:
            self._stop_core()
            raise SourceError(
                f"Micro-Manager in {folder} with {self._settings.config_file}: can't be started "
                f"({error}). Load the same configuration in Micro-Manager itself; its device "
                "interface version must be pymmcore's"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop_core()

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`."""
        name = f"{self._settings.name}_{utc_now():%Y%m%d_%H%M%S}"
        acquisition = self._start()
        stop.call(lambda: self._planes.put_end("stopped"))
        ending = threading.Thread(
            target=self._await_end, args=(acquisition,), name="acquisition-end"
        )
        ending.start()
        is_announced = False
        reason = "finished"
        try:
            for image, metadata in self._planes:
                if not is_announced:
                    yield self._info(name, image, metadata)
                    is_announced = True
                yield self._plane(name, image, metadata)
            reason = self._planes.end
        finally:
            if reason == "stopped" or stop.is_set():
                acquisition.abort()
                # abort() also forgets a finish that is still queued, and would then never end.
                acquisition.mark_finished()
            ending.join()
            acquisition.get_dataset().close()
        if is_announced:
            yield AcquisitionEnd(name, reason)
        if reason not in ("finished", "stopped"):
            raise SourceError(f"{name}: the acquisition failed: {reason}")

    def _prepare(self) -> None:
        """Set properties, and check what would otherwise fail in mid-acquisition."""
        settings, core = self._settings, self._core
        for name, value in settings.properties.items():
            device, _, property_name = name.partition("-")
            core.set_property(device, property_name, value)
        presets = tuple(core.get_available_configs(settings.channel_group))
        unknown = [channel for channel in settings.channels if channel not in presets]
        if unknown:
            raise SourceError(
                f"channel {unknown[0]!r} is no preset of the group {settings.channel_group!r}: "
                f"there are {', '.join(presets) or 'none'}. Mend channels in [source]"
            )

    def _start(self) -> Any:
        settings = self._settings
        channels: dict[str, Any] = {}
        if settings.channels:
            channels = {
                "channel_group": settings.channel_group,
                "channels": list(settings.channels),
                "channel_exposures_ms": [settings.exposure_ms] * len(settings.channels),
            }
        else:
            self._core.set_exposure(settings.exposure_ms)
        events = multi_d_acquisition_events(
            num_time_points=settings.num_times,
            time_interval_s=settings.interval_s,
            z_start=settings.z_start_um,
            z_end=settings.z_start_um + (settings.num_slices - 1) * settings.z_step_um,
            z_step=settings.z_step_um,
            order="tcz",
            **channels,
        )
        # Rounding may add a plane at the end of the range.
        events = [event for event in events if event["axes"]["z"] < settings.num_slices]
        if settings.save_folder is not None:
            settings.save_folder.mkdir(parents=True, exist_ok=True)
        acquisition = Acquisition(
            directory=str(settings.save_folder) if settings.save_folder else None,
            name=settings.name,
            image_process_fn=self._planes.hook,
            show_display=False,
        )
        acquisition.acquire(events)
        acquisition.mark_finished()
        logger.info("acquiring %d planes", len(events))
        return acquisition

    def _await_end(self, acquisition: Any) -> None:
        """In a thread of its own: the end, or what went wrong."""
        try:
            acquisition.await_completion()
        except Exception as error:  # noqa: BLE001 - becomes the end's reason
            self._planes.put_end(f"{type(error).__name__}: {error}")
        else:
            self._planes.put_end("finished")

    def _info(self, name: str, image: NDArray[Any], metadata: Mapping[str, Any]) -> AcquisitionInfo:
        settings = self._settings
        return AcquisitionInfo(
            acquisition=name,
            shape_zyx=(settings.num_slices, image.shape[0], image.shape[1]),
            dtype=image.dtype,
            voxel_size_um=self._voxel_size(metadata),
            channels=settings.channels or ("camera",),
            num_times=settings.num_times,
            origin=f"Micro-Manager camera {metadata.get('Camera', '')}".strip(),
        )

    def _voxel_size(self, metadata: Mapping[str, Any]) -> VoxelSize | None:
        settings = self._settings
        pixel = settings.pixel_size_um or float(metadata.get("PixelSize_um") or 0)
        return (settings.z_step_um, pixel, pixel) if pixel > 0 else None

    def _plane(self, name: str, image: NDArray[Any], metadata: Mapping[str, Any]) -> Plane:
        axes = metadata["Axes"]
        channel = str(axes.get("channel", "camera"))
        key = VolumeKey(name, str(axes.get("position", "0")), int(axes.get("time", 0)), channel)
        # A view, so that ours is read-only and pycromanager's own, which it saves, stays as it is.
        view = image.view()
        view.flags.writeable = False
        return Plane(key, int(axes.get("z", 0)), view, acquired_at=utc_now())

    def _stop_core(self) -> None:
        stop_headless()
        # Without this a second core in the same process fails.
        if hasattr(Engine, "singleton"):
            del Engine.singleton


class _PlaneQueue:
    """Planes on their way from the camera's thread, bounded in bytes; putting never waits."""

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._held = 0
        self._lost = 0
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[NDArray[Any], Mapping[str, Any]] | None] = (
            queue.SimpleQueue()
        )
        self.end = "finished"

    def hook(
        self, image: NDArray[Any], metadata: Mapping[str, Any]
    ) -> tuple[NDArray[Any], Mapping[str, Any]]:
        """Called by pycromanager for each image, from its processing thread."""
        try:
            with self._lock:
                fits = self._held + image.nbytes <= self._capacity
                self._held += image.nbytes if fits else 0
                self._lost += not fits
            if fits:
                self._queue.put((image, dict(metadata)))
            elif self._lost in (1, 10, 100, 1000):
                logger.warning(
                    "%d planes let go so far, since more than %d MB wait: raise memory_mb in "
                    "[source] or restore fewer volumes",
                    self._lost,
                    self._capacity >> 20,
                )
        except Exception:
            logger.exception("a plane was lost; the acquisition goes on")
        return image, metadata

    def put_end(self, reason: str) -> None:
        """No more planes will come."""
        self.end = reason
        self._queue.put(None)

    def __iter__(self) -> Iterator[tuple[NDArray[Any], Mapping[str, Any]]]:
        while (plane := self._queue.get()) is not None:
            with self._lock:
                self._held -= plane[0].nbytes
            yield np.asarray(plane[0]), plane[1]


def micro_manager_folder(path: Path) -> Path:
    """The folder of a Micro-Manager installation; ``democam`` is the one of the extra "demo".

    Raises
    ------
    SourceError
        It isn't there.
    """
    if str(path) == "democam":
        try:
            import mm_test_adapters
        except ImportError as error:
            raise SourceError(
                'the demonstration camera isn\'t installed: pip install "live-restore[demo]"'
            ) from error
        return Path(mm_test_adapters.device_adapter_path())
    if not path.is_dir():
        raise SourceError(
            f"Micro-Manager folder {path}: isn't there; mend micro_manager in [source]"
        )
    return path
