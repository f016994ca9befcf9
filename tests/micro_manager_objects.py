"""Micro-Manager's own objects as a client sees them, over an acquisition that tests control."""

from __future__ import annotations

import itertools
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.java_objects import JavaList, JavaObject, java
from tests.micro_manager_dialog import Compatibility, Core, SequenceSettings

STUDIO = "org.micromanager.Studio"
COORDS = "org.micromanager.data.Coords"
AXES = {"t": "time", "p": "position", "c": "channel", "z": "z"}
Place = tuple[int, int, int, int]


def pixels(place: Place, shape: tuple[int, ...], dtype: str = "uint16") -> np.ndarray:
    """The image of (t, p, c, z): other places have other images."""
    t, p, c, z = place
    ramp = np.arange(np.prod(shape), dtype=np.uint32) * 7
    stamp = 1009 * t + 313 * p + 101 * c + 17 * z
    return ((ramp + stamp) % 65521).astype(dtype).reshape(shape)


@dataclass
class Acquisition:
    """What ``start`` says of an acquisition."""

    num_times: int = 3
    channels: list[str] = field(default_factory=lambda: ["DAPI", "FITC"])
    num_slices: int = 12
    positions: list[str] = field(default_factory=list)
    shape: tuple[int, int] = (24, 32)
    dtype: str = "uint16"
    is_rgb: bool = False
    order: str = "tpcz"
    single_slice: list[int] = field(default_factory=list)  # channels without z-stack
    rate: float = 0.0  # images per second; without it there are as many as `images` says
    images: int | None = None  # None: all at once
    start_time: str = "2026-01-02 03:04:05.678 +0000"
    prefix: str = "cells_1"
    directory: str = "/data"
    save_path: str | None = None
    pixel_size_um: float = 0.1
    z_step_um: float = 0.3
    exposure_ms: float = 20.0
    is_displayed: bool = True
    slow_s: float = 0.0  # what the pixels of an image take on their way

    def __post_init__(self) -> None:
        sizes = {
            "t": self.num_times,
            "p": max(1, len(self.positions)),
            "c": len(self.channels),
            "z": self.num_slices,
        }
        self.sizes = sizes
        self.places: list[Place] = []
        for indices in itertools.product(*(range(sizes[axis]) for axis in self.order)):
            at = dict(zip(self.order, indices, strict=True))
            if at["c"] in self.single_slice and at["z"] != self.num_slices // 2:
                continue
            self.places.append((at["t"], at["p"], at["c"], at["z"]))
        self.number = {place: i for i, place in enumerate(self.places)}
        self.is_running = True
        self._started = time.monotonic()
        self._images = len(self.places) if self.images is None else self.images

    def num_images(self) -> int:
        if self.is_running and self.rate:
            grown = int((time.monotonic() - self._started) * self.rate)
            self._images = min(len(self.places), grown)
        if self.is_running and self._images >= len(self.places):
            self.is_running = False
        return self._images

    def set_images(self, up_to: int) -> None:
        self._images = min(up_to, len(self.places))

    def end(self) -> None:
        self.num_images()
        self.is_running = False

    def has(self, place: Place) -> bool:
        return self.number.get(place, sys.maxsize) < self.num_images()

    def summary(self) -> dict[str, Any]:
        dims = {AXES[axis]: size for axis, size in self.sizes.items()}
        return {
            "Prefix": _text(self.prefix),
            "Directory": _text(self.directory),
            "StartTime": _text(self.start_time),
            "ChNames": {"type": "STRING", "array": self.channels},
            "z-step_um": {"type": "DOUBLE", "scalar": self.z_step_um},
            "AxisOrder": {"type": "STRING", "array": [AXES[axis] for axis in self.order]},
            "IntendedDimensions": {
                "type": "PROPERTY_MAP",
                "scalar": {name: {"type": "INTEGER", "scalar": n} for name, n in dims.items()},
            },
            "StagePositions": {
                "type": "PROPERTY_MAP",
                "array": [{"Label": _text(label)} for label in self.positions],
            },
        }


def _text(value: str) -> dict[str, str]:
    return {"type": "STRING", "scalar": value}


class Coords(JavaObject):
    java_class = "org.micromanager.data.internal.DefaultCoords"
    interfaces = (COORDS,)

    def __init__(self, text: str) -> None:
        parts = dict(part.split("=") for part in text.split(",") if part)
        # As in Micro-Manager: an index of zero isn't kept.
        self.indices = {axis: int(index) for axis, index in parts.items() if int(index)}

    def place(self) -> Place:
        t, p, c, z = (self.indices.get(axis, 0) for axis in AXES.values())
        return t, p, c, z

    @java("int")
    def getT(self) -> int:  # noqa: N802
        return self.indices.get("time", 0)

    @java("int")
    def getP(self) -> int:  # noqa: N802
        return self.indices.get("position", 0)

    @java("int")
    def getC(self) -> int:  # noqa: N802
        return self.indices.get("channel", 0)

    @java("int")
    def getZ(self) -> int:  # noqa: N802
        return self.indices.get("z", 0)


class PropertyMap(JavaObject):
    java_class = "org.micromanager.internal.propertymap.DefaultPropertyMap"
    interfaces = ("org.micromanager.PropertyMap",)

    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @java("java.lang.String")
    def toJSON(self) -> str:  # noqa: N802
        head = {"encoding": "UTF-8", "format": "Micro-Manager Property Map"}
        return json.dumps(head | {"major_version": 2, "minor_version": 0, "map": self.values})


class WithPropertyMap(JavaObject):
    def __init__(self, values: dict[str, Any]) -> None:
        self.values = values

    @java("org.micromanager.PropertyMap")
    def toPropertyMap(self) -> PropertyMap:  # noqa: N802
        return PropertyMap(self.values)


class SummaryMetadata(WithPropertyMap):
    java_class = "org.micromanager.data.internal.DefaultSummaryMetadata"
    interfaces = ("org.micromanager.data.SummaryMetadata",)

    @java(COORDS)
    def getIntendedDimensions(self) -> Coords:  # noqa: N802
        dims = self.values.get("IntendedDimensions", {"scalar": {}})["scalar"]
        return Coords(",".join(f"{axis}={n['scalar']}" for axis, n in dims.items()))

    @java("java.util.List")
    def getChannelNameList(self) -> JavaList:  # noqa: N802
        return JavaList(self.values.get("ChNames", {"array": []})["array"])

    @java("java.lang.Double")
    def getZStepUm(self) -> float | None:  # noqa: N802
        return self.values.get("z-step_um", {"scalar": None})["scalar"]


class Metadata(WithPropertyMap):
    java_class = "org.micromanager.data.internal.DefaultMetadata"
    interfaces = ("org.micromanager.data.Metadata",)


class Image(JavaObject):
    java_class = "org.micromanager.data.internal.DefaultImage"
    interfaces = ("org.micromanager.data.Image",)

    def __init__(self, acquisition: Acquisition, place: Place) -> None:
        self.of, self.place = acquisition, place

    @java("java.lang.Object")
    def getRawPixels(self) -> np.ndarray:  # noqa: N802
        time.sleep(self.of.slow_s)
        shape = (*self.of.shape, 4) if self.of.is_rgb else self.of.shape
        return pixels(self.place, shape, "uint8" if self.of.is_rgb else self.of.dtype)

    @java("int")
    def getHeight(self) -> int:  # noqa: N802
        return self.of.shape[0]

    @java("int")
    def getWidth(self) -> int:  # noqa: N802
        return self.of.shape[1]

    @java("org.micromanager.data.Metadata")
    def getMetadata(self) -> Metadata:  # noqa: N802
        return Metadata(
            {
                "PixelSizeUm": {"type": "DOUBLE", "scalar": self.of.pixel_size_um},
                "Exposure-ms": {"type": "DOUBLE", "scalar": self.of.exposure_ms},
                "ReceivedTime": _text("2026-01-02 03:04:06.000 +0000"),
                "ChannelName": _text(self.of.channels[self.place[2]]),
            }
        )


class Store(JavaObject):
    java_class = "org.micromanager.data.internal.DefaultDatastore"
    interfaces = ("org.micromanager.data.Datastore", "org.micromanager.data.DataProvider")

    def __init__(self, acquisition: Acquisition) -> None:
        self.of = acquisition

    @java("boolean")
    def isFrozen(self) -> bool:  # noqa: N802
        self.of.num_images()
        return not self.of.is_running

    @java("int")
    def getNumImages(self) -> int:  # noqa: N802
        return self.of.num_images()

    @java("int", "java.lang.String")
    def getNextIndex(self, axis: str) -> int:  # noqa: N802
        at = list(AXES.values()).index(axis)
        highest = max((p[at] for p in self.of.places[: self.of.num_images()]), default=0)
        return highest + 1 if highest else 0  # as in Micro-Manager: zeros aren't kept

    @java("org.micromanager.data.SummaryMetadata")
    def getSummaryMetadata(self) -> SummaryMetadata:  # noqa: N802
        return SummaryMetadata(self.of.summary())

    @java("boolean", COORDS)
    def hasImage(self, coords: Coords) -> bool:  # noqa: N802
        return self.of.has(coords.place())

    @java("org.micromanager.data.Image", COORDS)
    def getImage(self, coords: Coords) -> Image | None:  # noqa: N802
        return Image(self.of, coords.place()) if self.of.has(coords.place()) else None

    @java("java.lang.String")
    def getName(self) -> str:  # noqa: N802
        return self.of.prefix

    @java("java.lang.String")
    def getSavePath(self) -> str | None:  # noqa: N802
        return self.of.save_path


class Preview(Store):
    """Where Snap and Live put their images: never frozen, without intended dimensions."""

    java_class = "org.micromanager.data.internal.DefaultRewritableDatastore"

    def __init__(self) -> None:
        acquisition = Acquisition(num_times=1, channels=["Default"], num_slices=1, prefix="Preview")
        super().__init__(acquisition)

    @java("boolean")
    def isFrozen(self) -> bool:  # noqa: N802
        return False

    @java("org.micromanager.data.SummaryMetadata")
    def getSummaryMetadata(self) -> SummaryMetadata:  # noqa: N802
        return SummaryMetadata({"ChNames": {"type": "STRING", "array": ["Default"]}})


class Acquisitions(JavaObject):
    java_class = "org.micromanager.acquisition.internal.DefaultAcquisitionManager"
    interfaces = ("org.micromanager.acquisition.AcquisitionManager",)

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores

    @java("boolean")
    def isAcquisitionRunning(self) -> bool:  # noqa: N802
        return any(not store.isFrozen() for store in self.stores)

    @java("org.micromanager.acquisition.SequenceSettings")
    def getAcquisitionSettings(self) -> SequenceSettings:  # noqa: N802
        return SequenceSettings()


class Data(JavaObject):
    java_class = "org.micromanager.data.internal.DefaultDataManager"
    interfaces = ("org.micromanager.data.DataManager",)

    @java(COORDS, "java.lang.String")
    def createCoords(self, text: str) -> Coords:  # noqa: N802
        return Coords(text)


class Displays(JavaObject):
    java_class = "org.micromanager.display.internal.DefaultDisplayManager"
    interfaces = ("org.micromanager.display.DisplayManager",)

    def __init__(self, stores: list[Store]) -> None:
        self.stores, self.preview = stores, Preview()

    @java("java.util.List")
    def getManagedDataProviders(self) -> JavaList:  # noqa: N802
        return JavaList([self.preview, *(s for s in self.stores if s.of.is_displayed)])


class Engine(JavaObject):
    java_class = "org.micromanager.acquisition.internal.acqengjcompat.AcqEngJAdapter"
    interfaces = ("org.micromanager.acquisition.internal.AcquisitionEngine",)

    def __init__(self, stores: list[Store]) -> None:
        self.stores = stores

    @java("org.micromanager.data.Datastore")
    def getAcquisitionDatastore(self) -> Store | None:  # noqa: N802
        return self.stores[-1] if self.stores else None


class Studio(JavaObject):
    java_class = "org.micromanager.internal.MMStudio"
    interfaces = (STUDIO,)

    def __init__(self) -> None:
        self.stores: list[Store] = []
        self.mmcore = Core()
        self._displays = Displays(self.stores)

    @java("org.micromanager.acquisition.AcquisitionManager")
    def acquisitions(self) -> Acquisitions:
        return Acquisitions(self.stores)

    @java("org.micromanager.data.DataManager")
    def data(self) -> Data:
        return Data()

    @java("org.micromanager.display.DisplayManager")
    def displays(self) -> Displays:
        return self._displays

    @java("org.micromanager.acquisition.internal.AcquisitionEngine")
    def getAcquisitionEngine(self) -> Engine:  # noqa: N802
        return Engine(self.stores)

    @java("org.micromanager.CompatibilityInterface")
    def compat(self) -> Compatibility:
        return Compatibility()

    @java("mmcorej.CMMCore")
    def core(self) -> Core:
        return self.mmcore
