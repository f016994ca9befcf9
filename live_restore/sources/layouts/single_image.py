"""A TIFF file of one image, by whatever writer, that may still be written or copied."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from live_restore.errors import SourceError
from live_restore.sources.layouts.extent import Extent, read_extent
from live_restore.sources.layouts.plane import EncodedPixels, Pixels
from live_restore.sources.layouts.raw_file import RawFile

__all__ = ["Age", "SingleImage"]

Age = Literal["young", "old", "finished"]
"""Of a file, as `SingleImage` takes it."""

# What looks finished is taken at once when its last pixel isn't black, and otherwise, or when it looks
# damaged, when it has stood still for so long.
_STILL_S = 1.0
_LONGEST_WAIT_S = 5.0  # between looks at a file that stands still and isn't finished
# A file that is copied slowly may keep its size and time all the while. It is looked at in so many
# places for whether it stands still.
_PROBES = 32
_PROBE_BYTES = 16


@dataclass(frozen=True, slots=True)
class _Sight:
    """What a file looked like; what comes last in it is empty as long as it isn't all there."""

    stamp: tuple[int, int]
    extent: Extent | None = None
    last: bytes = b""


class SingleImage:
    """Tells when a file is whole.

    Its size doesn't: Windows lays a file out to its full size, in zeros, before it copies what is in
    it. Everything that is needed has to lie in the file, and to look the same at two looks; and the
    last pixel isn't black, or the file has stood still for a second.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    age : str
        "young"; "old": it was there before we were, so that a second more doesn't matter, and whether it
        decodes is seen when it is read; "finished": nobody writes it any more, and one look is enough.

    Attributes
    ----------
    is_unseen : bool
        It hasn't been looked at yet.
    """

    def __init__(self, path: Path, age: Age) -> None:
        self.path = path
        self.is_unseen = True
        self._age = age
        self._stillness = _Stillness()
        self._next_look_s = 0.0
        self._tried: _Sight | None = None  # to decode, in vain

    def is_due(self, now: float) -> bool:
        """Whether it is worth a look; rarely so when it has stood still for long."""
        return now >= self._next_look_s

    def look(self, now: float) -> Pixels | EncodedPixels | None:
        """The image, or None as long as it isn't whole.

        Parameters
        ----------
        now : float
            On the monotonic clock.

        Raises
        ------
        DamagedFileError
            It never will be.
        SourceError
            The file is gone or can't be read.
        """
        try:
            with RawFile(self.path) as file:
                extent, problem = read_extent(file)
                if self._age == "finished":
                    return _finished(extent, problem)
                last = file.read(extent.end - extent.unit, extent.unit) if extent else b""
                sight = _Sight(file.stamp, extent, last)
                is_same = self._stillness.is_same(sight, now)
                if extent and is_same and any(last) and (image := self._soon(extent, sight)):
                    return image
                is_still = is_same and self._stillness.is_long(file, now)
        except SourceError as error:
            if not isinstance(error.__cause__, PermissionError):
                raise
            # Windows lets nobody read what its writer doesn't want read yet.
            extent, problem = None, error
            is_same = self._stillness.is_same(_Sight((0, 0)), now)
            is_still = is_same and self._stillness.is_long(None, now)
        self.is_unseen = False
        self._next_look_s = now + self._stillness.patience_s(now)
        if not is_still:
            return None
        if problem is not None:
            raise problem
        if extent is None:
            return None
        return extent.pixels if self._age == "old" else _decoded(extent.pixels)

    def _soon(self, extent: Extent, sight: _Sight) -> Pixels | EncodedPixels | None:
        """The image of a file that needn't stand still for long; None of one that has to."""
        if isinstance(extent.pixels, Pixels):
            return extent.pixels
        if self._age == "old" or sight == self._tried:
            return None
        try:
            return _decoded(extent.pixels)
        except SourceError:
            self._tried = sight
            return None


class _Stillness:
    """For how long a file has stood still."""

    def __init__(self) -> None:
        self._sight: _Sight | None = None
        self._probes: list[bytes] | None = None
        self._since_s = 0.0

    def is_same(self, sight: _Sight, now: float) -> bool:
        """Whether a file looks as it did at the last look."""
        if sight == self._sight:
            return True
        self._sight, self._probes, self._since_s = sight, None, now
        return False

    def is_long(self, file: RawFile | None, now: float) -> bool:
        """Whether a file that looks the same has done so for long, and all over."""
        if self._probes is not None and now - self._since_s < _STILL_S:
            return False
        probes = _probe(file) if file else []
        if probes == self._probes:
            return True
        self._probes, self._since_s = probes, now
        return False

    def patience_s(self, now: float) -> float:
        """For how long such a file may be left alone."""
        return min((now - self._since_s) / 4, _LONGEST_WAIT_S)


def _finished(extent: Extent | None, problem: SourceError | None) -> Pixels | EncodedPixels | None:
    if problem is not None:
        raise problem
    return extent.pixels if extent else None


def _probe(file: RawFile) -> list[bytes]:
    size = file.size
    return [file.read(at, _PROBE_BYTES) for at in range(0, size, max(1, size // _PROBES))]


def _decoded(pixels: Pixels | EncodedPixels) -> Pixels | EncodedPixels:
    """Pixels that were seen to decode, where they have to."""
    return pixels if isinstance(pixels, Pixels) else EncodedPixels(pixels.path, pixels.read())
