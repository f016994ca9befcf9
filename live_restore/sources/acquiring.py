"""The process that acquires: ``python -m live_restore.sources.acquiring``, with orders on its input.

It alone holds the hardware. Nothing that the program which started it does, not even its death,
stops an acquisition that is saved.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from pycromanager import (
    Acquisition,
    Core,
    multi_d_acquisition_events,
    start_headless,
    stop_headless,
)

from live_restore.errors import SourceError
from live_restore.hook import PlanePublisher
from live_restore.hook_axes import POWER, Plan, plan_of_events
from live_restore.plane_protocol import LightWord, SourceHeader
from live_restore.plane_sender import PlaneSender
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.sources.acquisition import ACQUIRE, END, STOP
from live_restore.sources.adjusting import AcquisitionLight
from live_restore.sources.child import GONE, LIGHT, Orders, end_at_once, read_adjustment
from live_restore.sources.variation import Variation, borrowed_light

__all__ = ["Microscope", "acquisition_events", "main"]

logger = logging.getLogger(__name__)

_SEND_REST_S = 60.0
_LOOK_S = 0.5


class Microscope:
    """Micro-Manager's core with what a profile wants acquired.

    Parameters
    ----------
    settings : AcquisitionSource
        What to acquire.
    micro_manager : str
        Folder of the installation, for the backend "python".
    publisher : PlanePublisher
        Gets each plane.
    dose : DoseSettings
        What of the light is watched and may be changed.
    tell_light : callable
        Takes what it stands at.

    Attributes
    ----------
    light : AcquisitionLight or None
        Where it is watched.

    Raises
    ------
    SourceError
        The hardware can't be had, or lacks what the profile names.
    """

    def __init__(
        self,
        settings: AcquisitionSource,
        micro_manager: str,
        publisher: PlanePublisher,
        dose: DoseSettings,
        tell_light: Callable[[LightWord], object],
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._tell_light = tell_light
        self._core = _open_core(settings, micro_manager)
        for name, value in settings.properties.items():
            self._set(name, value)
        presets = _listed(self._core.get_available_configs(settings.channel_group))
        unknown = [channel for channel in settings.channels if channel not in presets]
        if unknown:
            raise SourceError(
                f"channel {unknown[0]!r} is no preset of the group {settings.channel_group!r}: "
                f"there are {', '.join(presets) or 'none'}. Mend channels in [source]"
            )
        self.light: AcquisitionLight | None = None
        if dose.is_watched:
            self.light = AcquisitionLight(self._core, dose, settings, tell_light)

    def acquire(self, stop: threading.Event, variation: Variation | None = None) -> str:
        """Acquire to the end; how it ended: "finished", "stopped" or what went wrong.

        Parameters
        ----------
        stop : threading.Event
            Set from another thread, it aborts the acquisition.
        variation : Variation, optional
            Of the profile's acquisition; its light is given back afterwards.
        """
        if variation is None:
            return self._acquire(stop, self._settings)
        settings = variation.of(self._settings)
        try:
            with borrowed_light(self._core, settings, variation, self._tell_light):
                return self._acquire(stop, settings)
        except SourceError as error:
            return str(error)

    def _acquire(self, stop: threading.Event, settings: AcquisitionSource) -> str:
        exposure = settings.exposure_ms
        if not isinstance(exposure, tuple):
            self._core.set_exposure(exposure)
        events = acquisition_events(settings)
        if settings.save_folder is not None:
            settings.save_folder.mkdir(parents=True, exist_ok=True)
        more: dict[str, Any] = {"port": settings.port} if settings.backend == "java" else {}
        if self.light is not None:
            more["pre_hardware_hook_fn"] = self.light.before_hardware
            more["post_hardware_hook_fn"] = self.light.after_hardware
        acquisition = Acquisition(
            directory=str(settings.save_folder) if settings.save_folder else None,
            name=settings.name,
            image_process_fn=self._hook,
            show_display=False,
            **more,
        )
        acquisition.acquire(events)
        acquisition.mark_finished()
        logger.info("acquiring %d planes", len(events))
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        over = threading.Event()
        waiting = threading.Thread(target=_await_end, args=(acquisition, ended), name="waiting")
        waiting.start()
        aborting = threading.Thread(
            target=_abort_when, args=(acquisition, stop, over, ended), name="aborting", daemon=True
        )
        aborting.start()
        reason = ended.get()
        over.set()
        if reason == "stopped":
            waiting.join()
        if self.light is not None:
            self.light.finish()
        acquisition.get_dataset().close()
        return reason

    def close(self) -> None:
        """Let go of the hardware."""
        if self._settings.backend == "python":
            stop_headless()

    def _set(self, name: str, value: str) -> None:
        device, _, property_name = name.partition("-")
        try:
            self._core.set_property(device, property_name, value)
        except Exception as error:
            raise SourceError(
                f"property {name} = {value!r}: can't be set ({error}). Mend properties in [source]; "
                "Micro-Manager's Device Property Browser shows names and values"
            ) from error

    def _hook(self, image: Any, metadata: Any) -> tuple[Any, Any]:
        told = metadata
        if self.light is not None:
            told = {**metadata, POWER: self.light.power_of(metadata.get("Axes") or {})}
        self._publisher.publish(image, told, None)
        return image, metadata


def acquisition_events(settings: AcquisitionSource) -> list[dict[str, Any]]:
    """Events for pycromanager: a profile's acquisition, in the order in which they happen."""
    plan: dict[str, Any] = {}
    if settings.channels:
        exposure = settings.exposure_ms
        each = exposure if isinstance(exposure, tuple) else (exposure,) * len(settings.channels)
        plan |= {
            "channel_group": settings.channel_group,
            "channels": list(settings.channels),
            "channel_exposures_ms": list(each),
        }
    if settings.positions:
        plan |= {
            "xyz_positions": [(p.x_um, p.y_um, p.z_um) for p in settings.positions],
            "position_labels": [p.name or str(i) for i, p in enumerate(settings.positions)],
        }
    events: list[dict[str, Any]] = multi_d_acquisition_events(
        num_time_points=settings.num_times,
        time_interval_s=settings.interval_s,
        z_start=settings.z_start_um,
        z_end=settings.z_start_um + (settings.num_slices - 1) * settings.z_step_um,
        z_step=settings.z_step_um,
        order="tpcz",
        **plan,
    )
    # Rounding may add a plane at the end of the range.
    return [event for event in events if event["axes"]["z"] < settings.num_slices]


def main() -> None:
    """Acquire as ordered."""
    stop, words = threading.Event(), queue.SimpleQueue[str]()
    saved = threading.Event()
    lights: list[AcquisitionLight] = []  # one, once there is

    def hear(word: str) -> None:
        if word.startswith(LIGHT):
            for light in lights:
                light.ask(read_adjustment(word))
            return
        if word == GONE:  # who goes on without this program goes on with the user's light
            for light in lights:
                light.give_back()
        # Without a file the planes of a program that is gone go nowhere, and light kills.
        if word == STOP or (word == GONE and not saved.is_set()):
            stop.set()
        words.put(word)

    orders = Orders(hear)
    settings = AcquisitionSource.model_validate(orders.values["settings"])
    if settings.save_folder is not None:
        saved.set()
    sender = PlaneSender(orders.values["endpoint"], settings.memory_mb * 2**20)
    sender.await_daemon(10.0)
    identity: str = orders.values["sender"]
    plan = Plan(
        num_slices=settings.num_slices,
        num_times=settings.num_times,
        pixel_size_um=settings.pixel_size_um,
        z_step_um=settings.z_step_um,
    ).with_fallback(plan_of_events(acquisition_events(settings)))
    publisher = PlanePublisher(sender, settings.name, plan, identity, ends_with_thread=False)

    def tell_light(light: LightWord) -> None:
        sender.say(SourceHeader(sender=identity, light=light))

    dose = DoseSettings.model_validate(orders.values["dose"])
    try:
        microscope = Microscope(
            settings, orders.values["micro_manager"], publisher, dose, tell_light
        )
    except SourceError as error:
        sender.say(SourceHeader(sender=identity, error=str(error)))
        sender.close()
        end_at_once(3)
    sender.say(SourceHeader(sender=identity, state="ready"))
    if microscope.light is not None:
        lights.append(microscope.light)
        microscope.light.announce()
    for word in iter(words.get, END):
        if word == GONE:
            break
        order, _, variation = word.partition(" ")
        if order == ACQUIRE:
            reason = microscope.acquire(stop, Variation.from_word(variation) if variation else None)
            publisher.finish(reason)
            sender.say(SourceHeader(sender=identity, ended=reason))
    microscope.close()
    sender.close(_SEND_REST_S)
    end_at_once(0)


def _open_core(settings: AcquisitionSource, micro_manager: str) -> Any:
    try:
        if settings.backend == "java":
            return Core(port=settings.port, timeout=5000)
        start_headless(
            mm_app_path=micro_manager,
            config_file=settings.config_file,
            python_backend=True,
            buffer_size_mb=settings.buffer_mb,
        )
        return Core()
    except Exception as error:
        if settings.backend == "java":
            raise SourceError(
                f"Micro-Manager doesn't answer on port {settings.port} ({error}): start it, and turn "
                'on "Run server" in its Tools > Options'
            ) from error
        raise SourceError(
            f"Micro-Manager in {micro_manager} with {settings.config_file}: can't be started "
            f"({error}). Load the same configuration in Micro-Manager itself; its device "
            "interface version must be pymmcore's"
        ) from error


def _listed(names: Any) -> tuple[str, ...]:
    """Names from the Python core's sequence, or from Java's vector of strings."""
    if hasattr(names, "size"):
        return tuple(str(names.get(i)) for i in range(names.size()))
    return tuple(str(name) for name in names)


def _await_end(acquisition: Any, ended: queue.SimpleQueue[str]) -> None:
    """In a thread of its own: the end, or what went wrong."""
    try:
        acquisition.await_completion()
    except Exception as error:  # noqa: BLE001 - becomes the end's reason
        ended.put(f"{type(error).__name__}: {error}")
    else:
        ended.put("finished")


def _abort_when(
    acquisition: Any,
    stop: threading.Event,
    over: threading.Event,
    ended: queue.SimpleQueue[str],
) -> None:
    while not stop.wait(_LOOK_S):
        if over.is_set():
            return
    if over.is_set():  # of several acquisitions only the one that runs is aborted
        return
    ended.put("stopped")
    acquisition.abort()
    # abort() also forgets a finish that is still queued, and would then never end.
    acquisition.mark_finished()


if __name__ == "__main__":
    main()
