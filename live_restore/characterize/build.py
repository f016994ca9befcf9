"""From what a model did on the ladders to the envelope within which it holds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from live_restore import __version__
from live_restore.characterize.ladder import Outcome
from live_restore.characterize.stacks import TruthKind
from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import DoseCurve
from live_restore.guard.envelope import Envelope, EnvelopeCard, Limits, Rung, Specimen
from live_restore.guard.shift import Likeness
from live_restore.volume import ModelUse

__all__ = ["FEWEST_ALIKE", "build_envelope", "moved_errors"]

_USABLE = 0.7  # NRMSE: worse results teach nothing of what good ones look like
_ALPHA = 0.1
FEWEST_ALIKE = 4
"""Fields of view from which it can be told what is unlike them."""
_SLACK = 1.1
_LEAST_SPREAD = (
    0.01  # variance of the logarithms of a rung's signals, from which a line can be drawn
)

Array = NDArray[np.float64]


def build_envelope(
    outcomes: Sequence[Outcome],
    use: ModelUse,
    camera: CameraCalibration,
    truth: TruthKind,
    transfer_sigma: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Envelope:
    """The envelope.

    Parameters
    ----------
    outcomes : sequence of Outcome
        Of all stacks, all steps.
    use : ModelUse
        What restored them.
    camera : CameraCalibration
        Of the stacks.
    truth : str
        See `TruthKind`.
    transfer_sigma : tuple of float
        From `measure_transfer`.

    Raises
    ------
    CalibrationError
        Nothing was to be seen in any of them.
    """
    by_channel: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        by_channel[one.stack.channel].append(one)
    specimens, likeness, fineness = [], {}, {}
    for channel, ones in by_channel.items():
        specimen, kin, fine = _specimen(channel, ones)
        specimens.append(specimen)
        if kin is not None:
            likeness[channel] = kin
        if fine is not None:
            fineness[channel] = fine
    excesses = _excesses(outcomes)
    if not excesses:
        raise CalibrationError(
            "no stack shows a signal that the model restores: check the camera's gain and offset, and that the "
            "stacks are raw and of a high dose"
        )
    first = outcomes[0].stack
    card = EnvelopeCard(
        model_name=use.name,
        model_sha256=use.sha256,
        camera=camera,
        voxel_size_um=first.voxel_size_um,
        shape_zyx=first.shape_zyx,
        tile_zyx=use.tile_zyx,
        attention=use.attention,
        truth=truth,
        specimens=tuple(specimens),
        excesses=tuple(round(one, 4) for one in sorted(excesses)),
        transfer_sigma=transfer_sigma,
        sharpens=any(transfer_sigma),
        made_with=__version__,
    )
    return Envelope(card, likeness, fineness)


def _excesses(outcomes: Sequence[Outcome]) -> list[float]:
    """True minus estimated error: of each field of view the largest, over all doses that an error was estimated at.

    Doses, time points and channels of a field share its cells, their focus and their light: they are no
    independent evidence. So one number stands for each, and the bound holds for all doses of a field at
    once. Chosen by the estimate, which is known live; leaving out what failed unseen would make it too good.
    """
    fields: dict[str, list[float]] = defaultdict(list)
    for one in outcomes:
        if not one.step.blur and one.found.error is not None and one.found.error < _USABLE:
            fields[one.stack.field_of_view].append(one.nrmse - one.found.error)
    return [max(found) for found in fields.values()]


def _specimen(
    channel: str, outcomes: Sequence[Outcome]
) -> tuple[Specimen, Likeness | None, Likeness | None]:
    sharp = [one for one in outcomes if not one.step.blur]
    usable = [one for one in sharp if one.nrmse < _USABLE and one.found.signal and one.found.error]
    fields = np.array([one.stack.field_of_view for one in usable])
    signals = np.array([one.found.signal or 0.0 for one in usable])
    likeness, like_limit = _distances(
        fields, signals, [one.found.features.pooled for one in usable]
    )
    fineness, fine_limit = _distances(
        fields, signals, [one.found.features.texture for one in usable]
    )
    limits = _limits(usable).model_copy(update={"likeness": like_limit, "fineness": fine_limit})
    curve = DoseCurve.fit(_medians(sharp))
    photon_ladder = _rungs(sharp, limits, likeness, fineness)
    blurred = [one for one in outcomes if one.step.blur]
    specimen = Specimen(
        channel=channel,
        num_acquisitions=len({one.stack.field_of_view for one in outcomes}),
        curve=(curve.b, curve.c, curve.d),
        photon_ladder=tuple(photon_ladder),
        blur_ladder=tuple(_rungs(blurred, limits, likeness, fineness)),
        limits=limits,
    )
    return specimen, likeness, fineness


def _medians(outcomes: Sequence[Outcome]) -> dict[float, float]:
    """Median NRMSE by median signal, step by step."""
    found = {}
    for ones in _by_step(outcomes):
        signal = float(np.median([one.signal for one in ones]))
        found[signal] = float(np.median([one.nrmse for one in ones]))
    return found


def _by_step(outcomes: Sequence[Outcome]) -> list[list[Outcome]]:
    """Groups of the same rung: the same place in each stack's own ladder."""
    stacks: dict[str, list[Outcome]] = defaultdict(list)
    for one in outcomes:
        stacks[one.stack.name].append(one)
    longest = max((len(ones) for ones in stacks.values()), default=0)
    return [[ones[i] for ones in stacks.values() if i < len(ones)] for i in range(longest)]


def _rungs(
    outcomes: Sequence[Outcome],
    limits: Limits,
    likeness: Likeness | None,
    fineness: Likeness | None,
) -> list[Rung]:
    rungs = []
    for ones in _by_step(outcomes):
        signals = np.array([one.signal for one in ones])
        middle = float(np.median(signals))
        errors = moved_errors(signals, np.array([one.nrmse for one in ones]), middle)
        estimates = [one.found.error for one in ones if one.found.error is not None]
        flags = [_is_flagged(one, limits, likeness, fineness) for one in ones]
        rungs.append(
            Rung(
                signal=round(middle, 3),
                nrmse=round(float(np.median(errors)), 4),
                worst=round(float(np.quantile(errors, 0.9)), 4),
                estimate=round(float(np.median(estimates)), 4) if estimates else 1.0,
                blur=ones[0].step.blur,
                flagged=round(float(np.mean(flags)), 3),
            )
        )
    return rungs


def moved_errors(signals: Array, errors: Array, to: float) -> Array:
    """Errors of a rung as they would be at one signal: along a straight line of their logarithms.

    The stacks of a rung differ in signal, since each begins its ladder at another place: the worst would be
    those with the least light.

    Parameters
    ----------
    signals, errors : ndarray, (acquisitions,)
        Photoelectrons per voxel; NRMSE.
    to : float
        The signal.
    """
    x, y = np.log(np.maximum(signals, 1e-6)), np.log(np.maximum(errors, 1e-6))
    spread = float(np.sum((x - x.mean()) ** 2))
    if len(x) < FEWEST_ALIKE or spread < _LEAST_SPREAD * len(x):
        return errors
    slope = min(float(np.sum((x - x.mean()) * (y - y.mean()))) / spread, 0.0)
    moved: Array = errors * np.exp(slope * (np.log(max(to, 1e-6)) - x))
    return np.minimum(moved, 1.0)


def _is_flagged(
    one: Outcome, limits: Limits, likeness: Likeness | None, fineness: Likeness | None
) -> bool:
    """Whether the guard would have called it unlike the others, or unseen."""
    if not one.found.signal or one.found.error is None:
        return True
    signal, features = one.found.signal, one.found.features
    for kin, values, limit in (
        (likeness, features.pooled, limits.likeness),
        (fineness, features.texture, limits.fineness),
    ):
        if kin is not None and values is not None and kin.distance(signal, values) > limit:
            return True
    return False


def _distances(
    fields: NDArray[np.str_],
    signals: Array,
    rows: Sequence[Array | None],
) -> tuple[Likeness | None, float]:
    """What is usual, and the distance beyond which a volume isn't.

    From fields that were left out in turn: their doses lie between those of the others, as live volumes' do.
    """
    default = Limits().likeness
    if len(set(fields)) < FEWEST_ALIKE or any(row is None for row in rows):
        return None, default
    features = np.stack([row for row in rows if row is not None])
    whole = Likeness.of(signals, features)
    usual = []
    for field in sorted(set(fields)):
        others = Likeness.of(signals[fields != field], features[fields != field])
        if others is None:
            continue
        distances = []
        for index in np.flatnonzero(fields == field):
            distances.append(others.distance(signals[index], features[index]))
        usual.append(float(np.quantile(distances, 0.9)))
    if whole is None or not usual:
        return None, default
    # Doses of one field are alike: what is usual is told by fields. Two such distances share the error
    # that one may make.
    rank = min(math.ceil((len(usual) + 1) * (1 - _ALPHA / 2)), len(usual))
    return whole, round(sorted(usual)[rank - 1] * _SLACK, 4)


def _limits(usable: Sequence[Outcome]) -> Limits:
    """Of the noise's indicators: what was usual, and a little more."""
    default = Limits()
    if not usable:
        return default
    ratios = [one.found.indicators.noise_ratio or 1.0 for one in usable]
    correlations = [abs(one.found.indicators.correlation) for one in usable]
    low, high = np.quantile(ratios, [0.005, 0.995])
    return Limits(
        noise_ratio=(
            round(min(float(low) / 1.03, default.noise_ratio[0]), 4),
            round(max(float(high) * 1.03, default.noise_ratio[1]), 4),
        ),
        correlation=round(
            max(float(np.quantile(correlations, 0.99)) * 1.25, default.correlation), 4
        ),
    )
