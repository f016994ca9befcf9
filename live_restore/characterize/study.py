"""All stacks pushed, one after the other: what the envelope and the report are made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from live_restore.characterize.build import FEWEST_ALIKE
from live_restore.characterize.ladder import (
    BLURS,
    Outcome,
    Pusher,
    Step,
    as_volume,
    blur_steps,
    doses_for,
    signal_of,
)
from live_restore.characterize.stacks import HighDose, Label
from live_restore.characterize.suitable import FEWEST_FIELDS, check_noise, check_stack
from live_restore.characterize.transfer import measure_transfer
from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import ModelUse

__all__ = ["NUM_STEPS", "Example", "Shown", "Study", "study_stacks"]

NUM_STEPS = 10 + len(BLURS)
"""Restorations of a stack."""

_FOR_TRANSFER = 3  # stacks
_SHOWN = 160  # voxels of a side: what of a stack is shown


@dataclass(frozen=True, slots=True, eq=False)
class Shown:
    """A rung to look at.

    Attributes
    ----------
    step : Step
        Which.
    signal, nrmse : float
        Of it.
    raw, restored : ndarray of float32, (Y, X)
        Parts of the maximum projections, in counts.
    """

    step: Step
    signal: float
    nrmse: float
    raw: NDArray[np.float32]
    restored: NDArray[np.float32]


@dataclass(slots=True, eq=False)
class Example:
    """One stack of a channel, at each step.

    Attributes
    ----------
    stack : Label
        Which.
    rungs : list of Shown
        In the order of the steps.
    """

    stack: Label
    rungs: list[Shown] = field(default_factory=list)
    _where: tuple[slice, slice] | None = None

    def add(self, one: Outcome) -> None:
        """The next rung: of the part that was brightest in the first."""
        if self._where is None:
            self._where = _brightest(one.restored)
        raw, restored = (np.array(image[self._where]) for image in (one.raw, one.restored))
        self.rungs.append(Shown(one.step, one.signal, one.nrmse, raw, restored))


@dataclass(slots=True, eq=False)
class Study:
    """What was found.

    Attributes
    ----------
    outcomes : list of Outcome
        Of all stacks and steps, bare.
    use : ModelUse
        What restored them.
    transfer_sigma : tuple of float
        See `measure_transfer`.
    examples : dict of str to Example
        The first stack of each channel.
    warnings : list of str
        For people.
    """

    outcomes: list[Outcome]
    use: ModelUse
    transfer_sigma: tuple[float, float, float]
    examples: dict[str, Example]
    warnings: list[str]


def study_stacks(
    restorer: RcanRestorer,
    pusher: Pusher,
    stacks: Callable[[], Iterator[HighDose]],
    camera: CameraCalibration,
    tell: Callable[[str], None],
    seed: int = 0,
) -> Study:
    """Push a model with each stack.

    Parameters
    ----------
    restorer : RcanRestorer
        With `pusher` for its examiner.
    pusher : Pusher
        Measures.
    stacks : callable
        Gives the stacks from the first on, each time that it is called; one at a time is kept.
    camera : CameraCalibration
        Of them.
    tell : callable
        Is told a stack's name after each of its `NUM_STEPS` restorations.
    seed : int
        Of all noise.

    Raises
    ------
    CalibrationError
        A stack can't be used: which, and why.
    """
    outcomes: list[Outcome] = []
    examples: dict[str, Example] = {}
    warnings: list[str] = []

    def checked() -> Iterator[HighDose]:
        """The first ones, with what forbids to use them told before anything is made of them."""
        for stack in islice(stacks(), _FOR_TRANSFER):
            check_stack(stack, camera)
            yield stack

    sigma = measure_transfer(restorer, checked(), camera, seed)
    pusher.blur_back(sigma)
    use = None
    for number, stack in enumerate(stacks()):
        warnings += check_stack(stack, camera)
        restorer.restore(as_volume(stack, stack.counts, "whole"))
        if pusher.measured is not None:
            warnings += check_noise(stack, pusher.measured.indicators, camera)
        use = use or restorer.model_use(stack.shape_zyx)
        tell(stack.name)
        doses = doses_for(stack, camera, number)
        steps = [Step(dose) for dose in doses]
        steps += blur_steps(doses, signal_of(camera.electrons(stack.counts)))
        example = examples.setdefault(stack.channel, Example(stack.label))
        for one in pusher.push(restorer, stack, steps):
            if example.stack.name == stack.name:
                example.add(one)
            outcomes.append(one.bare())
            tell(stack.name)
    if use is None:
        raise CalibrationError("no stack was read: give high-dose z-stacks")
    num_fields = len({one.stack.field_of_view for one in outcomes})
    if num_fields < FEWEST_FIELDS:
        warnings.append(
            f"{num_fields} fields of view: no coverage can be stated for the error bound from fewer than "
            f"{FEWEST_FIELDS}. Time points and channels of a field count as one"
            + (
                ""
                if num_fields >= FEWEST_ALIKE
                else f". What is unlike them can't be told from fewer than {FEWEST_ALIKE}"
            )
        )
    return Study(outcomes, use, sigma, examples, warnings)


def _brightest(image: NDArray[np.float32]) -> tuple[slice, slice]:
    """The part with the most light."""
    where = []
    for axis in (0, 1):
        profile = image.sum(axis=1 - axis, dtype=np.float64)
        length = min(_SHOWN, profile.size)
        sums = np.convolve(profile - profile.min(), np.ones(length), mode="valid")
        start = int(np.argmax(sums))
        where.append(slice(start, start + length))
    return where[0], where[1]
