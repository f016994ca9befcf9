"""From received volumes to napari's layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from live_restore.messages import Header, Kind
from live_restore.viewer.history import Held

__all__ = ["LiveLayers"]

_COLORS = ("yellow", "cyan", "magenta", "gray")


class LiveLayers:
    """One layer per kind and channel of a position; filled again with each volume that is shown.

    Used from the thread of the window.

    Parameters
    ----------
    viewer : napari.Viewer
        Gets the layers.
    """

    def __init__(self, viewer: Any) -> None:
        self._viewer = viewer
        self._layers: dict[tuple[Kind, str], Any] = {}
        self._colors: dict[str, str] = {}

    def show(self, held: Held) -> None:
        """Fill the volume's layer; a new one where there is none, or its voxels have another size."""
        header = held.header
        key = header.kind, header.channel
        layer = self._layers.get(key)
        scale = header.voxel_size_um or (1.0, 1.0, 1.0)
        if layer is not None and (
            layer not in self._viewer.layers
            or tuple(layer.scale[-3:]) != scale
            or layer.data.dtype != held.data.dtype
        ):
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
            layer = None
        if layer is None:
            layer = self._layers[key] = self._add(held, scale)
        else:
            layer.data = held.data
        layer.metadata["live_restore"] = header.model_dump(mode="json")

    def clear(self) -> None:
        """Take the layers away."""
        for layer in self._layers.values():
            if layer in self._viewer.layers:
                self._viewer.layers.remove(layer)
        self._layers.clear()

    def _add(self, held: Held, scale: tuple[float, float, float]) -> Any:
        header = held.header
        statistics = header.statistics
        low, high = statistics.p0_1, statistics.p99_9
        has_known_size = header.voxel_size_um is not None
        is_first = not len(self._viewer.layers)
        layer = self._viewer.add_image(
            held.data,
            name=_name(header),
            scale=scale,
            units=("µm",) * 3 if has_known_size else ("pixel",) * 3,
            axis_labels=("z", "y", "x"),
            colormap=self._colors.setdefault(header.channel, self._next_color()),
            blending="additive",
            contrast_limits=(low, high if high > low else low + 1),
            visible=header.kind == "restored",
        )
        info = np.iinfo(held.data.dtype) if held.data.dtype.kind == "u" else None
        if info is not None:
            layer.contrast_limits_range = (0, max(statistics.max * 2, high + 1))
        if is_first:
            self._viewer.scale_bar.visible = True
            if has_known_size:
                self._viewer.reset_view()
        return layer

    def _next_color(self) -> str:
        return _COLORS[len(self._colors) % len(_COLORS)]


def _name(header: Header) -> str:
    channel = header.channel or "volume"
    return f"{channel} {header.kind}"
