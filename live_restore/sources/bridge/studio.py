"""Micro-Manager's own objects, as far as following needs them; only this module knows the bridge.

Whatever goes wrong in Micro-Manager or on the way there comes as a bare `Exception`, and a
Micro-Manager that died in mid-call doesn't answer for ever: who calls must be ready for both.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pyjavaz.bridge
from numpy.typing import NDArray
from pyjavaz import JavaObject

from live_restore.sources.bridge.plan import Plan, read_map, read_plan
from live_restore.sources.bridge.walk import Place

__all__ = ["ImageFacts", "Store", "Studio", "connect", "quieten_bridge"]

logger = logging.getLogger(__name__)

_RGB_CHANNELS = [2, 1, 0]  # Micro-Manager keeps blue, green, red and an empty fourth


class ImageFacts(NamedTuple):
    """What an image's metadata say.

    Attributes
    ----------
    exposure_ms, pixel_size_um : float or None
        None when unknown.
    received_at : str or None
        When Micro-Manager had it, as it writes it.
    """

    exposure_ms: float | None
    pixel_size_um: float | None
    received_at: str | None


class Store:
    """Where Micro-Manager keeps the images of one acquisition.

    Parameters
    ----------
    provider : Java object
        A ``DataProvider``.
    data : Java object
        The ``DataManager``.
    """

    def __init__(self, provider: Any, data: Any) -> None:
        self._provider = provider
        self._data = data
        self._shape: tuple[int, int] = (0, 0)

    def plan(self) -> Plan | None:
        """What is planned; None for a store that no acquisition fills."""
        summary = str(self._provider.get_summary_metadata().to_property_map().to_json())
        return read_plan(summary, str(self._provider.get_name() or ""), self._first_image_at)

    @property
    def is_frozen(self) -> bool:
        """Whether no more images can come."""
        return bool(self._provider.is_frozen())

    @property
    def num_images(self) -> int:
        """How many there are."""
        return int(self._provider.get_num_images())

    @property
    def save_path(self) -> Path | None:
        """Where it is saved, if it is."""
        if not hasattr(self._provider, "get_save_path"):
            return None
        path = self._provider.get_save_path()
        return Path(path) if path else None

    def next_index(self, axis: str) -> int:
        """The highest index along an axis, plus 1."""
        if hasattr(self._provider, "get_next_index"):
            return int(self._provider.get_next_index(axis))
        return int(self._provider.get_axis_length(axis))  # its name before version 2.0

    def has(self, place: Place) -> bool:
        """Whether a plane is there."""
        return bool(self._provider.has_image(self._coords(place)))

    def read(
        self, place: Place, *, with_facts: bool
    ) -> tuple[NDArray[Any], ImageFacts | None] | None:
        """A plane that is there; None if it isn't.

        The pixels come alone: a channel's name in the same message may break the bridge.

        Parameters
        ----------
        place : Place
            Which.
        with_facts : bool
            Whether its metadata are wanted too; they cost as much as the pixels.

        Returns
        -------
        ndarray, (Y, X) or (Y, X, 3)
            uint8, uint16 or float32 counts; nobody else's.
        ImageFacts or None
            What was wanted.
        """
        image = self._provider.get_image(self._coords(place))
        if image is None:
            return None
        pixels = np.asarray(image.get_raw_pixels())
        facts = self._facts(image) if with_facts else None
        if with_facts or pixels.size != self._shape[0] * self._shape[1]:
            self._shape = int(image.get_height()), int(image.get_width())
        shaped = pixels.reshape(*self._shape, -1)
        if shaped.shape[2] == 1:
            return shaped[..., 0], facts
        return np.ascontiguousarray(shaped[..., _RGB_CHANNELS]), facts

    def _coords(self, place: Place) -> Any:
        return self._data.create_coords(
            f"time={place.time},position={place.position},channel={place.channel},z={place.z}"
        )

    def _facts(self, image: Any) -> ImageFacts:
        values = read_map(str(image.get_metadata().to_property_map().to_json()))
        return ImageFacts(
            exposure_ms=_positive(values.get("Exposure-ms")),
            pixel_size_um=_positive(values.get("PixelSizeUm")),
            received_at=values.get("ReceivedTime"),
        )

    def _first_image_at(self) -> str | None:
        first = Place(0, 0, 0, 0)
        if not self.num_images or not self.has(first):
            return None
        return self._facts(self._provider.get_image(self._coords(first))).received_at


class Studio:
    """A connection to Micro-Manager.

    Parameters
    ----------
    port : int
        Of its server.
    timeout_s : float
        For the first answer; later ones have none.
    """

    def __init__(self, port: int, timeout_s: float) -> None:
        self._studio = connect(port, timeout_s)
        self._acquisitions = self._studio.acquisitions()
        self._displays = self._studio.displays()
        self._data = self._studio.data()

    def is_acquiring(self) -> bool:
        """Whether an acquisition runs."""
        return bool(self._acquisitions.is_acquisition_running())

    def num_stores(self) -> int:
        """How many stores have a display."""
        return int(self._displays.get_managed_data_providers().size())

    def stores(self) -> Iterator[Store]:
        """Those that have a display, in no order."""
        providers = self._displays.get_managed_data_providers()
        for index in range(providers.size()):
            yield Store(providers.get(index), self._data)

    def engines_store(self) -> Store | None:
        """The store of an acquisition that isn't displayed, where Micro-Manager tells."""
        try:
            provider = self._studio.get_acquisition_engine().get_acquisition_datastore()
        except Exception as error:  # noqa: BLE001 - the bridge has no narrower one; a way out only
            logger.debug("the acquisition engine doesn't tell its store: %s", error)
            return None
        return Store(provider, self._data) if provider is not None else None

    def core(self) -> Any:
        """Micro-Manager's ``CMMCore``."""
        return self._studio.core()

    def close(self) -> None:
        """Let go of everything that Micro-Manager holds for this connection."""
        del self._acquisitions, self._displays, self._data, self._studio
        gc.collect()


def connect(port: int, timeout_s: float) -> Any:
    """Micro-Manager's ``Studio``; `timeout_s` is for the first answer, later ones have none."""
    return JavaObject("org.micromanager.Studio", port=port, timeout=round(timeout_s * 1000))


def quieten_bridge() -> None:
    """Keep the bridge from remembering every object that it ever had, from hanging and shouting.

    It registers an exit handler for each, 378 bytes that stay until the process ends. And an object
    that is let go tells Micro-Manager: were it found by the garbage collector in the bridge's own
    thread, that one would wait for itself. So who makes the calls must collect garbage now and then.
    For a process that is the bridge's alone and runs no exit handlers, since a dead
    Micro-Manager hangs them.
    """
    gc.disable()
    pyjavaz.bridge.atexit = SimpleNamespace(register=lambda handler: handler)
    threading.excepthook = lambda what: logger.debug("bridge: %s", what.exc_value)
    sys.unraisablehook = lambda what: logger.debug("bridge: %s", what.exc_value)


def _positive(value: Any) -> float | None:
    """Micro-Manager says 0 for unknown."""
    return float(value) if value and float(value) > 0 else None
