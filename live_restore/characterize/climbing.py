"""A ladder of light, restored step by step: each step's true error, and the light that would have done."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.characterize.exposure_ladder import (
    Bleach,
    Drift,
    LadderField,
    Truth,
    check_linear,
)
from live_restore.characterize.ladder import Outcome, Pusher, Step, true_nrmse
from live_restore.characterize.stacks import HighDose
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import MARGIN_ALIKE, DoseCurve
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, ModelUse, Volume, VolumeKey, utc_now

__all__ = ["Climb", "LadderAdvice", "LadderRow", "StepResult", "advise_ladder", "climb"]

_MOST = 8.0  # times the highest step; of more nothing is said


@dataclass(frozen=True, slots=True, eq=False)
class StepResult:
    """One stack of a ladder.

    Attributes
    ----------
    value : float
        Of its step: milliseconds, or the property's.
    dose : float
        In normal stacks of an unbleached specimen: what bleaching had taken until then is taken off.
    outcome : Outcome
        What became of it.
    """

    value: float
    dose: float
    outcome: Outcome


@dataclass(frozen=True, slots=True, eq=False)
class Climb:
    """One field's ladder.

    Attributes
    ----------
    field : str
        Name.
    results : tuple of StepResult
        From much light to little, repeat by repeat. The highest step's are each compared with its other stacks; of
        a single one there is none.
    bleach : Bleach
        What the ladder itself took.
    drift : Drift
        How far it moved meanwhile.
    warnings : tuple of str
        What makes it doubtful.
    use : ModelUse
        What restored it.
    """

    field: str
    results: tuple[StepResult, ...]
    bleach: Bleach
    drift: Drift
    warnings: tuple[str, ...]
    use: ModelUse


def climb(
    restorer: RcanRestorer, pusher: Pusher, field: LadderField, camera: CameraCalibration
) -> Climb:
    """Restore and measure all stacks of a field but the bracket's.

    Parameters
    ----------
    restorer : RcanRestorer
        Entered.
    pusher : Pusher
        Its examiner.
    field : LadderField
        What was taken.
    camera : CameraCalibration
        Of its stacks.

    Raises
    ------
    CalibrationError
        Nothing is to be seen, or it bleached or moved too much.
    """
    warnings: list[str] = []
    truth = Truth(field, camera)
    drift = Drift.measure(field)
    drift.check(field.name, warnings)
    bleach = Bleach.measure(field, truth)
    bleach.check(field.name, warnings)
    warnings += check_linear(field, truth, bleach)
    doses = {
        (step.value, number): step.dose * bleach.left(light)
        for step, number, light in field.light_before()
        if step is not field.bracket
    }
    top = field.steps[-1]
    top_dose = doses[top.value, 0]
    results: list[StepResult] = []
    use: ModelUse | None = None
    for number in range(len(field.steps[0].stacks)):
        stack = HighDose(
            f"{field.name} {number}",
            field.name,
            field.channel,
            top.stacks[0],
            None,
            field.voxel_size_um,
        )
        for step in reversed(field.steps):
            without = number if step is top else None
            if number >= len(step.stacks) or (step is top and truth.num_stacks == 1):
                continue
            counts = step.stacks[number]
            restored = restorer.restore(_volume(stack, counts, step.value))
            if pusher.measured is None:
                raise RuntimeError("the examiner of the restorer isn't this one")
            use = restored.model
            dose = doses[step.value, number]
            outcome = Outcome(
                stack.label,
                Step(dose / top_dose),
                truth.signal * dose / top_dose,
                true_nrmse(restored.data, truth.without(without), truth.variance(without)),
                pusher.measured,
                counts.max(axis=0).astype(np.float32),
                restored.data.max(axis=0).astype(np.float32),
            )
            results.append(StepResult(step.value, dose, outcome))
    if use is None:
        raise RuntimeError("a ladder has two steps at least")
    return Climb(field.name, tuple(results), bleach, drift, tuple(warnings), use)


@dataclass(frozen=True, slots=True)
class LadderRow:
    """One step, over all fields and repeats.

    Attributes
    ----------
    value : float
        Milliseconds, or the property's.
    dose : float
        Median, in normal stacks.
    signal : float
        Median, photoelectrons.
    nrmse, worst : float
        True NRMSE: median, and of the field in which it was largest.
    estimate : float or None
        What the guard said, median.
    """

    value: float
    dose: float
    signal: float
    nrmse: float
    worst: float
    estimate: float | None


@dataclass(frozen=True, slots=True)
class LadderAdvice:
    """How much light is enough.

    Attributes
    ----------
    target : float
        NRMSE that is accepted.
    rows : tuple of LadderRow
        Low to high.
    curve : DoseCurve
        Of the median NRMSE, by dose in normal stacks.
    enough : LadderRow or None
        The lowest step that meets the target with `MARGIN_ALIKE` in each field, as do all above it.
    dose : float or None
        By the curve: what meets it with `MARGIN_ALIKE`; None where no dose does, or it is far beyond all steps.
    """

    target: float
    rows: tuple[LadderRow, ...]
    curve: DoseCurve
    enough: LadderRow | None
    dose: float | None

    @property
    def is_floor(self) -> bool:
        """More light will not help."""
        return self.enough is None and (self.dose is None or self.dose > _MOST * self.rows[-1].dose)


def advise_ladder(climbs: Sequence[Climb], target: float) -> LadderAdvice:
    """What the steps say of the light.

    Parameters
    ----------
    climbs : sequence of Climb
        Of one channel.
    target : float
        NRMSE that is accepted.
    """
    by_value: dict[float, dict[str, list[StepResult]]] = defaultdict(lambda: defaultdict(list))
    for one in climbs:
        for result in one.results:
            by_value[_rounded(result.value)][one.field].append(result)
    rows = tuple(_row(value, by_value[value]) for value in sorted(by_value))
    curve = DoseCurve.fit({row.dose: row.nrmse for row in rows})
    enough = None
    for row in reversed(rows):
        if row.worst * MARGIN_ALIKE > target:
            break
        enough = row
    return LadderAdvice(target, rows, curve, enough, curve.dose_for(target / MARGIN_ALIKE))


def _row(value: float, fields: dict[str, list[StepResult]]) -> LadderRow:
    every = [result for results in fields.values() for result in results]
    means = [float(np.mean([one.outcome.nrmse for one in results])) for results in fields.values()]
    errors = [e for one in every if (e := one.outcome.found.error) is not None]
    return LadderRow(
        value,
        float(np.median([one.dose for one in every])),
        float(np.median([one.outcome.signal for one in every])),
        float(np.median(means)),
        max(means),
        float(np.median(errors)) if errors else None,
    )


def _rounded(value: float) -> float:
    """Devices tell the same value with other last digits."""
    return float(f"{value:.3g}")


def _volume(stack: HighDose, counts: NDArray[Any], value: float) -> Volume:
    nz, ny, nx = counts.shape
    info = AcquisitionInfo(
        f"{stack.name} at {value:g}",
        (nz, ny, nx),
        counts.dtype,
        stack.voxel_size_um,
        (stack.channel,),
    )
    return Volume(
        VolumeKey(info.acquisition, "0", 0, stack.channel), info, counts, None, utc_now(), 0.0
    )
