"""From what was found of a volume to a verdict, in words that a biologist understands."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from live_restore.assessment import Verdict
from live_restore.guard.envelope import Envelope, Limits, Specimen
from live_restore.guard.indicators import Indicators

__all__ = ["Findings", "Ruling", "rule"]

_SATURATED = 0.001  # of the voxels: the brightest structures are flat
_HARDLY_SATURATED = 0.0001
_CUT_OFF = 0.02
_BELOW_OFFSET = 2.0  # standard deviations of the read-out
_VOXELS = 1.25
_BRIGHTER = 1.5  # than the envelope's brightest
_SURELY_LESS = 1.2
"""Times less light than is needed: nearer to it a volume's signal, which is known to a tenth or so, isn't surely below."""

_BLUR = "blur: a blurred structure can be restored faithfully, and stays blurred"
_SHARPENING = "detail that a sharpening model adds beyond the raw volume's resolution"


@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of a volume.

    Attributes
    ----------
    indicators : Indicators
        Of the noise.
    is_visible : bool or None
        Whether there is any signal; None without a camera calibration.
    signal, error : float or None
        Photoelectrons per voxel; estimated NRMSE.
    specimen : Specimen or None
        Of the envelope, the one that is most like it.
    likeness, fineness : float or None
        Distances from it.
    voxel_ratio : float or None
        From the envelope's.
    num_missing : int
        Planes that never came.
    """

    indicators: Indicators
    is_visible: bool | None = None
    signal: float | None = None
    error: float | None = None
    specimen: Specimen | None = None
    likeness: float | None = None
    fineness: float | None = None
    voxel_ratio: float | None = None
    num_missing: int = 0


@dataclass(slots=True)
class Ruling:
    """A verdict with its reasons.

    Attributes
    ----------
    verdict : str
        See `Verdict`.
    reasons : list of str
        The worst first.
    blind_to : list of str
        What nobody can see.
    severity : float
        The largest indicator over its limit.
    is_valid : bool
        Nothing forbids to rely on the error estimate.
    """

    verdict: Verdict = "green"
    reasons: list[str] = field(default_factory=list)
    blind_to: list[str] = field(default_factory=list)
    severity: float = 0.0
    is_valid: bool = True


@dataclass(slots=True)
class _Rules:
    """Collects what speaks against a volume."""

    red: list[tuple[float, str]] = field(default_factory=list)
    amber: list[tuple[float, str]] = field(default_factory=list)
    severity: float = 0.0
    is_valid: bool = True

    def check(self, excess: float, text: str, *, is_red: bool, spoils: bool = False) -> None:
        """An indicator over its limit; above 1 it counts."""
        if not math.isfinite(excess):
            excess = 1e3
        self.severity = max(self.severity, excess)
        if excess > 1:
            (self.red if is_red else self.amber).append((excess, text))
            self.is_valid &= not spoils


def rule(found: Findings, envelope: Envelope | None, mismatch: str, target: float) -> Ruling:
    """Judge a volume.

    Parameters
    ----------
    found : Findings
        What is known of it.
    envelope : Envelope or None
        Where the model holds.
    mismatch : str
        Why there is none, or why it says nothing here.
    target : float
        NRMSE that the user accepts.
    """
    is_calibrated = envelope is not None and not mismatch
    specimen = found.specimen if is_calibrated else None
    rules = _Rules()
    _camera(rules, found, specimen.limits if specimen else Limits())
    _signal(rules, found, specimen, target)
    if envelope is not None and is_calibrated:
        _kinship(rules, found, specimen)
        _error(rules, found, envelope, target)
    if found.num_missing:
        rules.check(2.0, f"{found.num_missing} planes never came and are zero", is_red=False)
    reasons = [text for _, text in sorted(rules.red, reverse=True)]
    reasons += [text for _, text in sorted(rules.amber, reverse=True)]
    blind = [_BLUR]
    if envelope is None or envelope.card.sharpens:
        blind.append(_SHARPENING)
    verdict: Verdict
    if rules.red:
        verdict = "red"
    elif not is_calibrated:
        verdict = "uncalibrated"
        reasons.insert(0, mismatch or "nobody has characterised this model on such volumes")
    else:
        verdict = "amber" if rules.amber else "green"
    return Ruling(verdict, reasons, blind, rules.severity, rules.is_valid)


def _camera(rules: _Rules, found: Findings, limits: Limits) -> None:
    """Whether the noise is what the camera's calibration says."""
    seen = found.indicators
    flat = f"{seen.saturated:.2%} of the voxels are saturated: bright structures are flat, their shape is lost"
    rules.check(seen.saturated / _SATURATED, flat, is_red=True, spoils=True)
    if seen.saturated <= _SATURATED:
        rules.check(seen.saturated / _HARDLY_SATURATED, flat, is_red=False)
    rules.check(
        seen.cut_off / _CUT_OFF,
        f"{seen.cut_off:.0%} of the voxels have the lowest count there is: the camera's offset is cut off, and "
        "dim structures with it. Raise the offset",
        is_red=False,
        spoils=True,
    )
    rules.check(
        abs(seen.correlation) / limits.correlation,
        f"the noise of neighbouring pixels is correlated ({seen.correlation:+.2f}): a filter, binning or "
        "resampling changed the raw data, or the restoration left structure out",
        # Which of the two can't be told without knowing how much noise there should be.
        is_red=seen.noise_ratio is not None,
        spoils=True,
    )
    if seen.noise_ratio is not None:
        low, high = limits.noise_ratio
        middle, half = (math.log(high) + math.log(low)) / 2, (math.log(high) - math.log(low)) / 2
        away = abs(math.log(max(seen.noise_ratio, 1e-6)) - middle) / half
        rules.check(
            away,
            f"the noise is {seen.noise_ratio:.2f} times what the camera's calibration says: wrong gain or another "
            "camera mode (calibrate again), or structures too fine for this model",
            is_red=True,
            spoils=True,
        )
    if seen.below_offset is not None:
        rules.check(
            max(seen.below_offset, 0.0) / _BELOW_OFFSET,
            "the darkest voxels lie below the calibrated offset: calibrate the camera again",
            is_red=True,
            spoils=True,
        )


def _signal(rules: _Rules, found: Findings, specimen: Specimen | None, target: float) -> None:
    """Whether there is enough light."""
    if found.is_visible is False:
        rules.check(10.0, "no signal that could be told from the noise", is_red=True)
        return
    if specimen is None or found.signal is None:
        return
    needed = specimen.signal_for(target)
    low, high = specimen.signal_range
    here = f"signal {found.signal:.1f} photoelectrons per voxel"
    if needed is None:
        rules.check(
            2.0,
            f"{here}; at no signal was this model shown to reach an NRMSE of {target:g}",
            is_red=True,
        )
        return
    lack = needed / max(found.signal, 1e-6) * (1 if needed > low else 0.99)
    rules.check(
        lack, f"{here}; this model was shown to hold from {needed:.1f}", is_red=lack > _SURELY_LESS
    )
    rules.check(
        found.signal / (_BRIGHTER * high),
        f"{here}; this model was tried up to {high:.0f}",
        is_red=False,
    )


def _kinship(rules: _Rules, found: Findings, specimen: Specimen | None) -> None:
    """Whether the volume is like those of the envelope."""
    limits = specimen.limits if specimen else Limits()
    if found.voxel_ratio is not None:
        rules.check(
            (found.voxel_ratio - 1) / (_VOXELS - 1),
            f"voxels are {found.voxel_ratio:.1f} times larger or smaller than those that the model was "
            "characterised with",
            is_red=False,
        )
    if found.likeness is not None:
        rules.check(
            found.likeness / limits.likeness,
            "the structures are unlike those that the model was characterised with",
            is_red=False,
        )
    if found.fineness is not None:
        rules.check(
            found.fineness / limits.fineness,
            "structures are finer or coarser than those that the model was characterised with: check focus and voxel "
            "size",
            is_red=False,
        )


def _error(rules: _Rules, found: Findings, envelope: Envelope, target: float) -> None:
    """Whether the error is acceptable."""
    if found.error is None:
        return
    bound = envelope.bound(found.error)
    is_sure = found.error > target
    rules.check(
        bound / target,
        f"estimated NRMSE {found.error:.2f}, above the target of {target:g}"
        if is_sure
        else f"estimated NRMSE {found.error:.2f} may be up to {bound:.2f}, above the target of {target:g}",
        is_red=is_sure,
    )
