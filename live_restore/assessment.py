"""What the guard found of a restored volume, and what it advises: values that travel with the volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Assessment", "DoseAdvice", "Verdict"]

Verdict = Literal["green", "amber", "red", "uncalibrated"]
"""``green``: inside of what the model was shown to hold for, and the error bound meets the target. ``amber``:
look twice. ``red``: don't trust it. ``uncalibrated``: nobody has measured where the model holds."""


@dataclass(frozen=True, slots=True)
class DoseAdvice:
    """How much light the volume needs, by what it shows itself.

    Attributes
    ----------
    target : float
        The NRMSE that the user accepts.
    lowest : float or None
        The lowest dose that meets the target, as a fraction of the present one; above 1 where more light
        is needed (then only a rough guess). None where it can't be told, or no dose will do.
    is_floor : bool
        The target is out of reach: more light will not help.
    time_left_s : float or None
        Until bleaching takes the signal below what the target needs; None while there is no trend.
    text : str
        The same for people.
    """

    target: float
    lowest: float | None
    is_floor: bool = False
    time_left_s: float | None = None
    text: str = ""

    @property
    def headroom(self) -> float | None:
        """By how much the dose could be divided; below 1 where there isn't enough light."""
        return 1 / self.lowest if self.lowest else None


@dataclass(frozen=True, slots=True)
class Assessment:
    """A verdict on one volume.

    Attributes
    ----------
    verdict : str
        See `Verdict`.
    reasons : tuple of str
        Why, in words; the most important first. Empty for green.
    blind_to : tuple of str
        What nobody can see from the volume alone, so that green doesn't mean it.
    signal : float or None
        Photoelectrons per voxel in the bright structures above their background; None without a
        camera calibration.
    error : float or None
        Estimated NRMSE: root mean squared error of the restored volume, but for gain and offset, over the
        standard deviation of the truth.
    error_bound : float or None
        The true NRMSE is below it in `coverage` of all acquisitions like those of the envelope.
    coverage : float or None
        None where there were too few acquisitions to state any.
    num_acquisitions : int
        How many stand behind the bound.
    severity : float
        The largest of all indicators over its limit: above 1 isn't green.
    is_valid : bool
        Nothing forbids to rely on the error estimate: no saturation, wrong gain, correlated noise.
    dose : DoseAdvice or None
        Where a dose can be advised.
    """

    verdict: Verdict
    reasons: tuple[str, ...] = ()
    blind_to: tuple[str, ...] = ()
    signal: float | None = None
    error: float | None = None
    error_bound: float | None = None
    coverage: float | None = None
    num_acquisitions: int = 0
    severity: float = 0.0
    is_valid: bool = True
    dose: DoseAdvice | None = None
