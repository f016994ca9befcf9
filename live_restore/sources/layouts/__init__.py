"""Reads acquisitions on disk while they are being written, plane by plane."""

from live_restore.sources.layouts.layout import Layout, LayoutInfo
from live_restore.sources.layouts.plane import PlaneOnDisk
from live_restore.sources.layouts.recognition import Recognition, recognise

__all__ = ["Layout", "LayoutInfo", "PlaneOnDisk", "Recognition", "recognise"]
