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


class Core(JavaObject):
    java_class = "mmcorej.CMMCore"

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
