"""From errors at several doses to the lowest dose that will do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls

from live_restore.assessment import DoseAdvice

__all__ = ["MARGIN", "MARGIN_ALIKE", "Bleaching", "DoseCurve", "advise"]

MARGIN = 1.3
"""By which an estimate at a lower dose must stay below the target, where nothing else is known. Of 14 volumes unlike
the envelope's in `benchmarks/guard.py` one missed the target with it, by a thousandth, and with 1.25 by a twelfth."""

MARGIN_ALIKE = 1.15
"""The same for a volume like those of the envelope, whose ladder says from which signal nine of ten met the target:
with `held` none of 24 missed it."""

_MOST = 32.0  # times the present dose; beyond it nothing is said


@dataclass(frozen=True, slots=True)
class DoseCurve:
    """NRMSE² = b + c / dose + d / dose², none of them negative.

    Attributes
    ----------
    b, c, d : float
        Dose in whatever unit the fit was given.
    """

    b: float
    c: float
    d: float

    @classmethod
    def fit(cls, errors: Mapping[float, float]) -> DoseCurve:
        """From NRMSE by dose, at one dose or more."""
        dose = np.array(list(errors))
        y = np.maximum(np.array(list(errors.values())) ** 2, 1e-8)
        if len(dose) == 1:
            return cls(0.0, float(y[0] * dose[0]), 0.0)
        basis = np.stack([np.ones_like(dose), 1 / dose, 1 / dose**2], axis=1)
        if len(dose) == 2:
            basis[:, 2] = 0.0
        solution, _ = nnls(basis / y[:, None], np.ones_like(y))
        return cls(*(float(one) for one in solution))

    def nrmse(self, dose: float) -> float:
        """At a dose."""
        return math.sqrt(self.b + self.c / dose + self.d / dose**2)

    @property
    def floor(self) -> float:
        """NRMSE that no dose goes below."""
        return math.sqrt(self.b)

    def dose_for(self, nrmse: float) -> float | None:
        """The lowest dose at which the curve is at or below `nrmse`; None where none is."""
        room = nrmse**2 - self.b
        if room <= 0:
            return None
        if self.d == 0:
            return self.c / room if self.c > 0 else 0.0
        # room x² - c x - d = 0 in the dose x.
        return (self.c + math.sqrt(self.c**2 + 4 * room * self.d)) / (2 * room)


def advise(
    target: float,
    now: float,
    at_less: Mapping[float, float],
    held: float = 0.0,
    time_left_s: float | None = None,
    margin: float = MARGIN,
) -> DoseAdvice:
    """Advice on dose for one volume.

    Parameters
    ----------
    target : float
        NRMSE that the user accepts.
    now : float
        Estimated NRMSE at the present dose.
    at_less : mapping of float to float
        Estimated NRMSE at fractions of it.
    held : float
        Fraction of it below which the model wasn't shown to hold: nothing lower is advised.
    time_left_s : float, optional
        See `Bleaching`.
    margin : float
        `MARGIN`, or `MARGIN_ALIKE`.
    """
    errors = {1.0: now, **at_less}
    curve = DoseCurve.fit(errors)
    # A network isn't as good at every dose: nothing is said of doses below the lowest that was tried.
    least = min(errors)
    if now * margin > target:
        if now <= target:
            return DoseAdvice(
                target, 1.0, time_left_s=time_left_s, text="the dose is about what the target needs"
            )
        needed = curve.dose_for(target) if len(errors) > 1 else None
        if len(errors) > 1 and (needed is None or needed > _MOST):
            text = (
                f"more light will not help: at any dose an NRMSE of about {max(curve.floor, target):.2f} "
                f"remains, the target is {target:.2f}"
            )
            return DoseAdvice(target, None, is_floor=True, text=text)
        if needed is None:
            return DoseAdvice(target, None, text="more light is needed; how much isn't known yet")
        return DoseAdvice(
            target, max(needed, 1.0), text=f"about {max(needed, 1.0):.1f} times the light is needed"
        )
    lowest = max(_lowest(curve, errors, target / margin), held)
    if lowest >= 1.0:
        return DoseAdvice(target, 1.0, time_left_s=time_left_s, text="keep the dose")
    at_least = "at least " if lowest <= least else ""
    text = f"{at_least}{1 / lowest:.1f} times less light would do"
    return DoseAdvice(target, lowest, time_left_s=time_left_s, text=text)


def _lowest(curve: DoseCurve, errors: Mapping[float, float], wanted: float) -> float:
    """The lowest dose at which the curve meets `wanted`, not beyond the first trial that failed it."""
    lowest = 1.0
    for dose in sorted(errors, reverse=True):
        if errors[dose] > wanted:
            failed = dose
            break
        lowest = failed = dose
    needed = curve.dose_for(wanted)
    return lowest if needed is None else min(1.0, max(needed, failed))


class Bleaching:
    """The trend of the signal over time.

    A fluorophore's signal falls as exp(-dose / D); at a steady dose its logarithm is a line in time.
    """

    _FEWEST = 6
    _KEPT = 60

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def add(self, at_s: float, signal: float) -> None:
        """Note a volume's signal, in photoelectrons."""
        if signal > 0:
            self._seen.append((at_s, math.log(signal)))
            del self._seen[: -self._KEPT]

    def time_left_s(self, needed: float) -> float | None:
        """Until the signal falls to `needed`; None while there are few volumes, or no trend that is sure."""
        if len(self._seen) < self._FEWEST or needed <= 0:
            return None
        at, log = np.array(self._seen).T
        slope, error, now = _line(at, log)
        if slope >= -2 * error or slope >= 0:
            return None
        return max((now - math.log(needed)) / -slope, 0.0)


def _line(x: Sequence[float], y: Sequence[float]) -> tuple[float, float, float]:
    """Slope, its standard error, and the value at the last x of a straight line."""
    at, value = np.asarray(x), np.asarray(y)
    centred = at - at.mean()
    spread = float(centred @ centred)
    if spread <= 0:
        return 0.0, math.inf, float(value[-1])
    slope = float(centred @ value) / spread
    residual = value - value.mean() - slope * centred
    error = math.sqrt(float(residual @ residual) / max(len(at) - 2, 1) / spread)
    return slope, error, float(value.mean() + slope * centred[-1])
