"""What the network learns from: pairs of a raw volume and its truth, and patches cut from them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from live_restore.restore.intensity import IntensityRange, measure_range
from live_restore.restore.model import Normalisation
from live_restore.train.config import Patches

__all__ = [
    "HeldOut",
    "Origin",
    "Pair",
    "Patch",
    "choose_window",
    "cut_patch",
    "fit_shape",
    "normalise_pair",
    "turn_patch",
]

_FLIPPED: dict[str, tuple[int, ...]] = {"none": (), "yx": (1, 2), "zyx": (0, 1, 2)}


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A raw volume and its truth, in counts, with what normalises them.

    Attributes
    ----------
    raw, truth : ndarray, (Z, Y, X)
        Same shape; any real dtype.
    raw_range, truth_range : IntensityRange
        What becomes 0 and 1 in front of the network and behind it.
    own_range : IntensityRange
        The truth's own percentiles.
    photoelectrons : float or None
        Signal of the bright structures, where the camera is known.
    """

    raw: NDArray[Any]
    truth: NDArray[Any]
    raw_range: IntensityRange
    truth_range: IntensityRange
    own_range: IntensityRange
    photoelectrons: float | None = None

    @property
    def contrast(self) -> float:
        """What the truth's own range spans after normalisation: 1 where it normalised itself."""
        return self.own_range.width / self.truth_range.width


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A cut-out of a pair, normalised: float32 arrays ``(Z, Y, X)`` of one shape.

    `contrast` is the whole pair's.
    """

    raw: NDArray[np.float32]
    truth: NDArray[np.float32]
    contrast: float


@dataclass(frozen=True, slots=True, eq=False)
class HeldOut:
    """A pair that is never learned from, and the field of view it belongs to."""

    name: str
    field_of_view: str
    pair: Pair


class Origin(Protocol):
    """Where pairs come from."""

    @property
    def held_out(self) -> Sequence[HeldOut]:
        """Pairs for validation, the same at each call."""
        ...

    @property
    def voxel_size_um(self) -> tuple[float, float, float] | None:
        """``(z, y, x)`` where all volumes share one."""
        ...

    def draw(self, patches: Patches, rng: np.random.Generator) -> Patch:
        """A patch to learn from: a function of `rng` alone."""
        ...

    def describe(self) -> str:
        """In words, for the model's card."""
        ...


def normalise_pair(
    raw: NDArray[Any],
    truth: NDArray[Any],
    normalisation: Normalisation,
    photoelectrons: float | None = None,
) -> Pair:
    """Measure what normalises a pair; for the target "input" the truth is in the raw one's counts."""
    percents = (normalisation.low_percent, normalisation.high_percent, normalisation.epsilon)
    raw_range, own_range = measure_range(raw, *percents), measure_range(truth, *percents)
    truth_range = raw_range if normalisation.target == "input" else own_range
    return Pair(raw, truth, raw_range, truth_range, own_range, photoelectrons)


def cut_patch(
    pair: Pair, shape_zyx: tuple[int, int, int], patches: Patches, rng: np.random.Generator
) -> Patch:
    """A random patch with enough foreground, turned and mirrored at random."""
    window = choose_window(pair.truth, pair.own_range, shape_zyx, patches, rng)
    return turn_patch(pair, window, patches, rng)


def choose_window(
    truth: NDArray[Any],
    own_range: IntensityRange,
    shape_zyx: tuple[int, int, int],
    patches: Patches,
    rng: np.random.Generator,
) -> tuple[slice, slice, slice]:
    """Where to cut a patch of a shape that is not larger than the truth.

    The rule is the published one: at least `min_foreground` of the truth's voxels exceed
    `foreground` on the scale of the truth's own percentiles; the best of `tries` otherwise.
    """
    threshold = own_range.low + own_range.width * patches.foreground
    best: tuple[slice, slice, slice] = (slice(0), slice(0), slice(0))
    best_share = -1.0
    for _ in range(patches.tries):
        z, y, x = (
            int(rng.integers(size - edge + 1))
            for size, edge in zip(truth.shape, shape_zyx, strict=True)
        )
        nz, ny, nx = shape_zyx
        window = (slice(z, z + nz), slice(y, y + ny), slice(x, x + nx))
        share = float(np.mean(truth[window] > threshold))
        if share > best_share:
            best, best_share = window, share
        if share >= patches.min_foreground:
            break
    return best


def turn_patch(
    pair: Pair,
    window: tuple[slice, slice, slice],
    patches: Patches,
    rng: np.random.Generator,
) -> Patch:
    """A cut-out of a pair, normalised, turned and mirrored at random."""
    _, ny, nx = pair.raw[window].shape
    turns = int(rng.integers(4)) if patches.turn and ny == nx else 0
    flips = tuple(axis for axis in _FLIPPED[patches.flip] if rng.integers(2))

    def cut(volume: NDArray[Any], span: IntensityRange) -> NDArray[np.float32]:
        turned = np.rot90(span.normalise(volume[window]), turns, axes=(1, 2))
        return np.ascontiguousarray(np.flip(turned, flips))

    return Patch(cut(pair.raw, pair.raw_range), cut(pair.truth, pair.truth_range), pair.contrast)


def fit_shape(
    shape_zyx: tuple[int, int, int], volumes: Iterable[NDArray[Any]]
) -> tuple[int, int, int]:
    """A patch's shape, cut to the smallest of the volumes on each axis."""
    smallest = np.min([volume.shape for volume in volumes], axis=0)
    z, y, x = (min(edge, int(size)) for edge, size in zip(shape_zyx, smallest, strict=True))
    return z, y, x
