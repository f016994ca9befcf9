"""What Micro-Manager says of itself, its camera and its acquisition dialog."""

from __future__ import annotations

from tests.java_objects import JavaObject, java


class SequenceSettings(JavaObject):
    """What the acquisition dialog is set to."""

    java_class = "org.micromanager.acquisition.SequenceSettings"

    @java("boolean")
    def save(self) -> bool:
        return True

    @java("java.lang.String")
    def root(self) -> str:
        return "/data"

    @java("java.lang.String")
    def prefix(self) -> str:
        return "cells"

    @java("boolean")
    def shouldDisplayImages(self) -> bool:  # noqa: N802
        return True


class Compatibility(JavaObject):
    java_class = "org.micromanager.internal.DefaultCompatibility"
    interfaces = ("org.micromanager.CompatibilityInterface",)

    @java("java.lang.String")
    def getVersion(self) -> str:  # noqa: N802
        return "2.0.3 20260101"


class PropertyType(JavaObject):
    java_class = "mmcorej.PropertyType"

    @java("int")
    def swigValue(self) -> int:  # noqa: N802
        return 2  # a decimal number


class Core(JavaObject):
    """With a laser, of which the power can be set."""

    java_class = "mmcorej.CMMCore"

    def __init__(self) -> None:
        self.light = "10.0000"

    @java("java.lang.String", "java.lang.String", "java.lang.String")
    def getProperty(self, device: str, name: str) -> str:  # noqa: N802
        if (device, name) != ("Laser", "Power"):
            raise ValueError(f'No device with label "{device}"')
        return self.light

    @java("void", "java.lang.String", "java.lang.String", "java.lang.String")
    def setProperty(self, device: str, name: str, value: str) -> None:  # noqa: N802
        self.light = f"{float(value):.4f}"

    @java("boolean", "java.lang.String", "java.lang.String")
    def isPropertyReadOnly(self, device: str, name: str) -> bool:  # noqa: N802
        return False

    @java("mmcorej.PropertyType", "java.lang.String", "java.lang.String")
    def getPropertyType(self, device: str, name: str) -> PropertyType:  # noqa: N802
        return PropertyType()

    @java("boolean", "java.lang.String", "java.lang.String")
    def hasPropertyLimits(self, device: str, name: str) -> bool:  # noqa: N802
        return True

    @java("double", "java.lang.String", "java.lang.String")
    def getPropertyLowerLimit(self, device: str, name: str) -> float:  # noqa: N802
        return 1.0

    @java("double", "java.lang.String", "java.lang.String")
    def getPropertyUpperLimit(self, device: str, name: str) -> float:  # noqa: N802
        return 100.0

    @java("void", "java.lang.String")
    def waitForDevice(self, device: str) -> None:  # noqa: N802
        return None

    @java("long")
    def getImageWidth(self) -> int:  # noqa: N802
        return 2048

    @java("long")
    def getImageHeight(self) -> int:  # noqa: N802
        return 2048

    @java("long")
    def getBytesPerPixel(self) -> int:  # noqa: N802
        return 2

    @java("double")
    def getExposure(self) -> float:  # noqa: N802
        return 10.0
