"""One field of view at several doses, low to high, and the lowest once more: what became of it meanwhile."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.exposures import Exposures
from live_restore.guard.photon_transfer import PhotonTransfer, measure_photon_transfer
from live_restore.registration import measure_shift
from live_restore.volume import VoxelSize

__all__ = [
    "Bleach",
    "Drift",
    "LadderField",
    "LadderStep",
    "Truth",
    "check_linear",
    "measure_camera",
]

_BRIGHT, _DIM = 0.97, 0.5  # quantiles of the smoothed truth: structures, and what lies around them
_CERTAIN = 5.0  # standard errors from which a signal counts as one
_LOST, _MOST_LOST = 0.1, 0.2  # of the signal: told of; the truth isn't comparable any more
_SHIFTED, _MOST_SHIFTED = 0.5, 2.0  # voxels, likewise
_CROOKED = 0.15  # by which a step's signal may differ from what its dose says
_PLANES = 6  # of each step, that the camera is calibrated from
_LARGEST_CHANGE = (
    0.04  # of the light between two repeats, of planes that the camera is calibrated from
)
_LIT = 0.2  # standard deviations of the dark frames, above which a plane has light

Electrons = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LadderStep:
    """Stacks taken with the same light.

    Attributes
    ----------
    value : float
        Milliseconds, or in the property's unit.
    dose : float
        In normal stacks; the signal of an unbleached specimen is proportional to it.
    stacks : tuple of ndarray, (Z, Y, X)
        Camera counts; not modified.
    """

    value: float
    dose: float
    stacks: tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True, eq=False)
class LadderField:
    """One field of view.

    Attributes
    ----------
    name : str
        For people; other fields have others.
    channel : str
        Name.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    steps : tuple of LadderStep
        As they were taken: low to high.
    bracket : LadderStep
        The lowest once more, taken last.

    Raises
    ------
    CalibrationError
        Too few steps, or not low to high.
    """

    name: str
    channel: str
    voxel_size_um: VoxelSize | None
    steps: tuple[LadderStep, ...]
    bracket: LadderStep

    def __post_init__(self) -> None:
        doses = [step.dose for step in self.steps]
        if len(doses) < 2 or sorted(set(doses)) != doses:
            raise CalibrationError(
                f"{self.name}: doses {', '.join(f'{one:.3g}' for one in doses)}; expected two or more different "
                "ones, low to high. A device that rounds may have made two of them one: take steps further apart"
            )

    def light_before(self) -> Iterator[tuple[LadderStep, int, float]]:
        """Each stack's step, number and what the field had got until its middle, in normal stacks."""
        spent = 0.0
        for step in (*self.steps, self.bracket):
            for number in range(len(step.stacks)):
                yield step, number, spent + step.dose / 2
                spent += step.dose

    @property
    def total_dose(self) -> float:
        """All light, in normal stacks."""
        return sum(step.dose * len(step.stacks) for step in (*self.steps, self.bracket))


class Truth:
    """What the lower steps are compared with: the mean of the highest step's stacks.

    Attributes
    ----------
    signal : float
        Photoelectrons per voxel of bright structures above those around, at the highest step.

    Raises
    ------
    CalibrationError
        There is nothing to be seen in it.
    """

    def __init__(self, field: LadderField, camera: CameraCalibration) -> None:
        self._camera = camera
        self._stacks = [camera.electrons(one) for one in field.steps[-1].stacks]
        smooth = ndimage.uniform_filter(self.without(None), (1, 3, 3))
        low, high = np.quantile(smooth[:, ::2, ::2], [_DIM, _BRIGHT])
        self._bright, self._dim = smooth >= high, smooth <= low
        # Seen by the step before, whose noise didn't choose the places.
        other = field.steps[-2]
        found, error = self.signal_in(other.stacks[0])
        if found < _CERTAIN * error:
            raise CalibrationError(
                f"{field.name}: no signal to restore: what is bright at {field.steps[-1].value:g} isn't at "
                f"{other.value:g} ({found:.2f} ± {error:.2f} photoelectrons per voxel). Take a field with structures "
                "in focus, and more light"
            )
        self.signal, _ = self.signal_in(field.steps[-1].stacks[0])

    def without(self, number: int | None) -> Electrons:
        """Mean of the stacks, in photoelectrons, but for one of them."""
        others = [one for index, one in enumerate(self._stacks) if index != number]
        return np.asarray(np.mean(others, axis=0), dtype=np.float32)

    def variance(self, number: int | None) -> float:
        """Of the noise-free volume behind `without`.

        The camera's noise is taken off. (Of two stacks the covariance would do without a camera, but the second has
        bleached: 2 % between the two made an NRMSE of 0.14 come out as 0.19 and 0.05.)
        """
        num = len(self._stacks) - (number is not None)
        values = self.without(number).astype(np.float64)
        noise = max(float(values.mean()), 0.0) + self._camera.variance
        return float(values.var()) - noise / num

    @property
    def num_stacks(self) -> int:
        """That it is the mean of."""
        return len(self._stacks)

    def signal_in(self, counts: NDArray[Any]) -> tuple[float, float]:
        """Photoelectrons per voxel of bright structures above those around, and its standard error."""
        means, variance = [], 0.0
        for where in (self._bright, self._dim):
            mean = float(self._camera.electrons(counts[where]).mean(dtype=np.float64))
            means.append(mean)
            variance += (max(mean, 0.0) + self._camera.variance) / int(where.sum())
        return means[0] - means[1], math.sqrt(variance)


@dataclass(frozen=True, slots=True)
class Bleach:
    """What the light of a ladder took of its own signal.

    A fluorophore's signal falls as exp(-rate · light); the rate is fitted to the lowest step, taken first and last,
    so that it rests on no device's being linear.

    Attributes
    ----------
    rate, rate_error : float
        Per normal stack.
    total_dose : float
        In normal stacks.
    """

    rate: float
    rate_error: float
    total_dose: float

    @classmethod
    def measure(cls, field: LadderField, truth: Truth) -> Bleach:
        """Fit it.

        Raises
        ------
        CalibrationError
            The lowest step shows no signal.
        """
        light, log, weight = [], [], []
        for step, number, before in field.light_before():
            if step is not field.steps[0] and step is not field.bracket:
                continue
            signal, error = truth.signal_in(step.stacks[number])
            if signal < _CERTAIN * error:
                raise CalibrationError(
                    f"{field.name}: the lowest step ({step.value:g}) shows no signal ({signal:.2f} ± {error:.2f} "
                    "photoelectrons per voxel), so that bleaching can't be told: begin with more light"
                )
            light.append(before)
            log.append(math.log(signal / step.dose))
            weight.append((signal / error) ** 2)
        x, y, w = (np.array(one) for one in (light, log, weight))
        x = x - np.average(x, weights=w)
        spread = float(w @ x**2)
        return cls(-float(w @ (x * y)) / spread, 1 / math.sqrt(spread), field.total_dose)

    @property
    def lost(self) -> float:
        """Fraction of the signal, from the first stack to the last; below 0 where it rose."""
        return 1 - math.exp(-self.rate * self.total_dose)

    def left(self, light: float) -> float:
        """Fraction of the signal that is left after so much light."""
        return math.exp(-self.rate * light)

    def check(self, name: str, warnings: list[str]) -> None:
        """Whether the stacks are still comparable.

        Raises
        ------
        CalibrationError
            They aren't.
        """
        certain = abs(self.lost) - 2 * self.rate_error * self.total_dose
        what = "bleached" if self.lost > 0 else "became brighter"
        text = (
            f"{name}: the specimen {what} by {abs(self.lost):.0%} from the first stack to the last"
        )
        if certain > _MOST_LOST:
            raise CalibrationError(
                f"{text}; beyond {_MOST_LOST:.0%} its brightest stacks aren't the truth of the others. Take fewer "
                "steps or repeats, less light at the highest, or a specimen that bleaches less"
                + ("" if self.lost > 0 else ". Rising signal also comes of a focus that settles")
            )
        if abs(self.lost) > _LOST and certain > 0:
            warnings.append(f"{text}; doses are corrected for it, structures can't be.")


@dataclass(frozen=True, slots=True)
class Drift:
    """How far the specimen moved.

    Attributes
    ----------
    voxels : tuple of float or None
        ``(z, y, x)``, from the first stacks to the last; None where it can't be told.
    """

    voxels: tuple[float, float, float] | None

    @classmethod
    def measure(cls, field: LadderField) -> Drift:
        """Both against the brightest stack, in which most is to be seen."""
        bright = field.steps[-1].stacks[0]
        found = [
            measure_shift(np.asarray(np.mean(step.stacks, axis=0)), bright)
            for step in (field.steps[0], field.bracket)
        ]
        z, y, x = (before - after for before, after in zip(*found, strict=True))
        return cls(None if math.isnan(z + y + x) else (z, y, x))

    @property
    def largest(self) -> float:
        """Along one axis; 0 where it can't be told."""
        return max((abs(one) for one in self.voxels or ()), default=0.0)

    def check(self, name: str, warnings: list[str]) -> None:
        """Whether all stacks show the same place.

        Raises
        ------
        CalibrationError
            They don't.
        """
        if self.voxels is None:
            warnings.append(
                f"{name}: whether it moved can't be told from its lowest step, there is too little to be seen."
            )
            return
        moved = ", ".join(f"{one:+.1f}" for one in self.voxels)
        text = f"{name}: the specimen moved by ({moved}) voxels (z, y, x) from the first stack to the last"
        if self.largest > _MOST_SHIFTED:
            raise CalibrationError(
                f"{text}; expected less than {_SHIFTED:g}. Let the stage settle, turn the focus lock on, or take a "
                "fixed specimen"
            )
        if self.largest > _SHIFTED:
            warnings.append(f"{text}: errors come out larger than they are.")


def check_linear(field: LadderField, truth: Truth, bleach: Bleach) -> list[str]:
    """Warnings of steps whose signal isn't what their dose says, bleaching taken off."""
    found = []
    firsts = [one for one in field.light_before() if one[1] == 0 and one[0] is not field.bracket]
    top, _, light_of_top = firsts[-1]
    for step, _, light in firsts[:-1]:
        signal, error = truth.signal_in(step.stacks[0])
        expected = truth.signal * step.dose / top.dose
        expected *= bleach.left(light) / bleach.left(light_of_top)
        if abs(signal - expected) > max(_CROOKED * expected, _CERTAIN * error):
            found.append((step.value, signal / expected))
    if not found:
        return []
    said = ", ".join(f"{ratio:.2f} times at {value:g}" for value, ratio in found)
    return [
        f"{field.name}: the signal doesn't follow the light: {said}, of what the highest step says. A shutter or "
        "laser that is slower than the exposure, a property that isn't proportional to the power, or "
        "photons_absorbed in [dose]"
    ]


def measure_camera(
    fields: Iterable[LadderField],
    dark: Sequence[NDArray[Any]],
    offset: float | None = None,
    read_noise: float | None = None,
) -> PhotonTransfer:
    """Calibrate the camera from planes that were taken again with the same light.

    Parameters
    ----------
    fields : iterable of LadderField
        With two repeats at least; each is asked for once.
    dark : sequence of ndarray, (Z, Y, X)
        Stacks without light; may be empty where `offset` is given.
    offset, read_noise : float, optional
        See `measure_photon_transfer`.

    Raises
    ------
    CalibrationError
        They can't tell.
    """
    frames = [Exposures("dark", np.concatenate(dark))] if dark else []
    level = float(np.mean(frames[0].frames)) if frames else float(offset or 0.0)
    noise = float(np.std(frames[0].frames)) if frames else 1.0
    light = [one for field in fields for one in _series(field, level, noise)]
    if not light:
        raise CalibrationError(
            "no two stacks of a step are alike enough to calibrate the camera from them: they are dark, or their "
            "light differs by 4 % and more. Take two repeats at least; or calibrate the camera by itself, with "
            "live-restore calibrate, and name it in [guard]"
        )
    return measure_photon_transfer(frames, light, offset, read_noise)


def _series(field: LadderField, dark: float, noise: float) -> Iterator[Exposures]:
    """Identical exposures: some planes of each step, in all its repeats."""
    for step in field.steps:
        if len(step.stacks) < 2:
            continue
        num = len(step.stacks[0])
        for z in np.unique(np.linspace(0, num - 1, min(num, _PLANES)).round().astype(int)):
            planes = np.stack([one[z] for one in step.stacks])
            means = planes.mean(axis=(1, 2), dtype=np.float64) - dark
            is_lit = means.min() > _LIT * noise
            if is_lit and means.max() / means.min() - 1 < _LARGEST_CHANGE:
                yield Exposures(f"{field.name}, {step.value:g}, plane {z}", planes)
