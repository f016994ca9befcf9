"""What is remembered of each stream of volumes for the next one of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from live_restore.restore.engine import Pooled
from live_restore.restore.normalising import SteadyRange
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey

__all__ = ["History", "Stream"]

_MOST_STREAMS = 10_000

Light = tuple[float | None, float | None]


@dataclass(slots=True)
class Stream:
    """One position and channel of an acquisition, in one shape.

    Attributes
    ----------
    range : SteadyRange
        Its normalisation.
    pooled : list of Tensor or None
        What the attention looked at of the newest volume.
    newest : int
        Its time point.
    light : tuple or None
        Exposure and power of its volumes; with other light a stream begins anew, since its intensities are others.
    """

    range: SteadyRange
    pooled: Pooled | None = None
    newest: int = -1
    light: Light | None = None

    def is_next(self, volume: Volume) -> bool:
        """Whether a volume is newer than those before it: older ones come when there is time."""
        return volume.key.time > self.newest


class History:
    """The streams, those of long ago forgotten.

    Parameters
    ----------
    new_range : callable
        Makes the normalisation of a stream.
    """

    def __init__(self, new_range: Callable[[], SteadyRange]) -> None:
        self._new_range = new_range
        self._streams: OrderedDict[Hashable, Stream] = OrderedDict()

    def of_volume(self, volume: Volume) -> Stream:
        """The stream of a whole volume: a new one where the light is another."""
        stream = self.of(volume.key, volume.info)
        light = volume.exposure_ms, volume.power
        if stream.light not in (None, light):
            stream = Stream(self._new_range())
            self._streams[_name(volume.key, volume.info)] = stream
        stream.light = light
        return stream

    def of(self, key: VolumeKey, info: AcquisitionInfo) -> Stream:
        """The stream of a volume."""
        name = _name(key, info)
        stream = self._streams.setdefault(name, Stream(self._new_range()))
        self._streams.move_to_end(name)
        if len(self._streams) > _MOST_STREAMS:
            self._streams.popitem(last=False)
        return stream


def _name(key: VolumeKey, info: AcquisitionInfo) -> Hashable:
    return (key.acquisition, key.position, key.channel, info.shape_zyx)
