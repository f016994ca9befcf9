"""The guard: looks at each restored volume, within its share of the time."""

from __future__ import annotations

import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import MARGIN, MARGIN_ALIKE, Bleaching, advise
from live_restore.guard.envelope import Envelope, Specimen
from live_restore.guard.features import Features
from live_restore.guard.indicators import Indicators, clipped_fractions, noise_signs
from live_restore.guard.leverage import Brightness, Leverage
from live_restore.guard.look import Look, Probe, sample_of, signal_of, with_rounding
from live_restore.guard.parts import Sample
from live_restore.guard.sums import Moments
from live_restore.guard.texture import texture
from live_restore.guard.thinned import DOSES, Thinned
from live_restore.guard.verdict import Findings, rule
from live_restore.volume import Restored

__all__ = ["Guard", "Measurement"]

_MOST_STREAMS = 1000
_HELD_MARGIN = 1.15
"""Of the signal below which no dose is advised: there one of ten acquisitions missed the target, and a volume's signal
isn't known exactly. Without it 18 % of 38 volumes missed it, with 1.1 to 1.3 one of them did."""
_FEWEST_SUMMED = 2_000_000  # voxels
_MOST_PARTS = 64  # of a volume
_FIRST_PARTS = (
    4  # of a stream: fewer say too little. What they take beyond the budget is saved later
)


@dataclass(slots=True)
class _Stream:
    """What is remembered of a position and channel."""

    leverage: Leverage = field(default_factory=Leverage)
    thinned: Thinned = field(default_factory=Thinned)
    bleaching: Bleaching = field(default_factory=Bleaching)
    num_probed: int = 0
    credit_s: float = 0.0  # what is left of the budget of this volume and of those before
    part_s: float = 0.0  # what the last part took
    probing_s: float = 0.0  # what all parts took together
    rest_s: float = 0.0  # what all else of a volume took
    step: int = 1  # every how many planes are summed up
    light: tuple[float | None, float | None] = (None, None)


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """What was measured of a volume, before anybody judges it.

    Attributes
    ----------
    indicators : Indicators
        Of the noise.
    moments : Moments or None
        Of raw and restored; None without a camera calibration.
    is_visible : bool or None
        Whether anything is to be seen.
    signal, error : float or None
        Photoelectrons per voxel; estimated NRMSE.
    at_less : dict of float to float
        Estimated NRMSE at fractions of the dose.
    features : Features
        For the envelope.
    """

    indicators: Indicators
    moments: Moments | None
    is_visible: bool | None
    signal: float | None
    error: float | None
    at_less: dict[float, float]
    features: Features


class Guard:
    """Judges restored volumes.

    Parameters
    ----------
    camera : CameraCalibration or None
        Of the profile.
    envelope : Envelope or None
        Of the model.
    target_nrmse : float
        Error that the user accepts.
    budget : float
        Share of the restoration's time.
    seed : int
        Of the probes' noise.
    transfer_sigma : tuple of float, optional
        Blurs the restored volume back to the raw one's sharpness, see `EnvelopeCard`; the envelope's without it.
    """

    def __init__(
        self,
        camera: CameraCalibration | None = None,
        envelope: Envelope | None = None,
        target_nrmse: float = 0.35,
        budget: float = 0.1,
        seed: int = 0,
        transfer_sigma: tuple[float, float, float] | None = None,
    ) -> None:
        if transfer_sigma is None:
            transfer_sigma = envelope.card.transfer_sigma if envelope else (0.0, 0.0, 0.0)
        self._transfer_sigma = transfer_sigma
        self.camera = camera
        self.envelope = envelope
        self._target = target_nrmse
        self._budget = budget
        self._seed = seed
        self._streams: OrderedDict[tuple[str, str, str], _Stream] = OrderedDict()

    def examine(self, restored: Restored, probe: Probe, restoring_s: float) -> Assessment:
        """Judge one volume; from the restore thread, before it is sent.

        Parameters
        ----------
        restored : Restored
            The volume beside its raw one.
        probe : Probe
            Restores parts of it.
        restoring_s : float
            What restoring it took.
        """
        started = time.monotonic()
        stream = self._stream(restored)
        stream.credit_s = min(stream.credit_s, restoring_s) + self._budget * restoring_s
        before = stream.probing_s
        measured = self.measure(restored, probe, stream)
        assessment = self._judge(restored, measured, stream)
        took = time.monotonic() - started
        stream.credit_s -= took
        stream.rest_s = took - (stream.probing_s - before)
        # A GPU may restore faster than sums over all voxels take.
        if stream.rest_s > self._budget / 2 * restoring_s:
            fewer = restored.raw.data.size // (2 * stream.step)
            stream.step *= 2 if fewer >= _FEWEST_SUMMED else 1
        return assessment

    def measure(
        self, restored: Restored, probe: Probe, stream: _Stream | None = None, num_parts: int = 0
    ) -> Measurement:
        """Measure a volume without judging it.

        Parameters
        ----------
        restored : Restored
            The volume beside its raw one.
        probe : Probe
            Restores parts of it.
        stream : optional
            What was learnt before; a stream of its own otherwise.
        num_parts : int
            At least so many parts are probed, whatever that takes.
        """
        raw, data = _without_gaps(restored)
        stream = stream or _Stream()
        rng = self._rng(restored)
        if self.camera is None:
            return self._uncalibrated(raw, data, probe)
        camera = self.camera
        clipped = clipped_fractions(raw, camera.saturation)
        matched = self._blurred_back(data)
        moments = Moments.of(raw[:: stream.step], matched[:: stream.step], camera)
        sample = sample_of(matched, camera)
        brightness = Brightness(float(np.percentile(sample.values, 20)), camera.variance)
        is_visible = moments.is_visible(camera)
        if is_visible and (self._budget > 0 or num_parts):
            look = Look(raw, sample, brightness, moments, camera, probe, self._blurred_back, rng)
            self._probe(look, stream, num_parts)
        overfit, overfit_error = stream.leverage.overfit(sample.values, brightness)
        error = None
        if stream.leverage.num_parts:
            nrmse = moments.nrmse(camera, overfit, overfit_error)
            error = with_rounding(nrmse, sample, camera, probe.step)
        gain = moments.gain(overfit) if is_visible else 0.0
        line = gain, moments.mean_raw - gain * moments.mean_restored
        follows = partial(stream.leverage.of, brightness=brightness) if is_visible else None
        signs = noise_signs(raw, matched, line, camera, follows)
        return Measurement(
            Indicators(clipped[0], clipped[1], signs[0], signs[1], signs[2]),
            moments,
            is_visible,
            signal_of(raw, sample, camera, overfit, moments) if is_visible else None,
            error,
            self._at_less(stream, moments, error, sample, probe.step),
            Features(_doubles(probe.pooled), texture(raw, moments, camera.gain)),
        )

    # --- the parts ---

    def _probe(self, look: Look, stream: _Stream, num_parts: int) -> None:
        """Probe parts while there is time: two for the error, then one for the dose."""
        stream.leverage.fade()
        stream.thinned.fade()
        wanted = max(num_parts, _FIRST_PARTS if stream.num_probed == 0 else 0)
        allowed_s = stream.credit_s - stream.rest_s
        num, spent_s = 0, 0.0
        while num < wanted or (num < _MOST_PARTS and spent_s + stream.part_s < allowed_s):
            started = time.monotonic()
            if stream.num_probed % 3 == 1:
                look.dose(stream.thinned)
            else:
                look.error(stream.leverage)
            stream.part_s = time.monotonic() - started
            spent_s += stream.part_s
            stream.num_probed += 1
            num += 1
        stream.probing_s += spent_s

    def _at_less(
        self, stream: _Stream, moments: Moments, error: float | None, sample: Sample, step: float
    ) -> dict[float, float]:
        if error is None or self.camera is None:
            return {}
        found = {}
        least = error
        for dose in DOSES:
            exact = stream.thinned.nrmse(dose, moments, self.camera)
            less = Sample(sample.values * np.float32(dose), sample.stride)
            nrmse = with_rounding(exact, less, self.camera, step)
            if nrmse is not None:
                least = found[dose] = max(nrmse, least)  # less light is never better
        return found

    # --- judging ---

    def _judge(self, restored: Restored, found: Measurement, stream: _Stream) -> Assessment:
        mismatch = self.envelope.mismatch(restored.model, self.camera) if self.envelope else ""
        envelope = None if mismatch else self.envelope
        specimen = likeness = fineness = None
        is_alike = False
        if envelope is not None and found.signal is not None:
            kin = found.features.nearest(envelope, found.signal, restored.key.channel)
            specimen, likeness, fineness = kin.specimen, kin.likeness, kin.fineness
            is_alike = kin.is_alike
        ruling = rule(
            Findings(
                found.indicators,
                found.is_visible,
                found.signal,
                found.error,
                specimen,
                likeness,
                fineness,
                envelope.voxel_ratio(restored.info.voxel_size_um) if envelope else None,
                len(restored.raw.missing),
            ),
            self.envelope,
            mismatch,
            self._target,
        )
        bound = envelope.bound(found.error) if envelope and found.error is not None else None
        is_covered = bound is not None and ruling.is_valid and envelope is not None
        return Assessment(
            verdict=ruling.verdict,
            reasons=tuple(ruling.reasons),
            blind_to=tuple(ruling.blind_to),
            signal=found.signal,
            error=found.error,
            error_bound=bound,
            coverage=envelope.coverage if is_covered and envelope else None,
            num_acquisitions=envelope.card.num_acquisitions if envelope else 0,
            severity=ruling.severity,
            is_valid=ruling.is_valid,
            dose=self._advice(restored, found, stream, specimen, is_alike)
            if ruling.is_valid
            else None,
        )

    def _advice(
        self,
        restored: Restored,
        found: Measurement,
        stream: _Stream,
        specimen: Specimen | None,
        is_alike: bool,
    ) -> DoseAdvice | None:
        """Without a gain that was measured no dose is advised: a factor of 2 in it makes it meaningless."""
        if found.error is None or found.signal is None or self.camera is None:
            return None
        if self.camera.method == "blind":
            return None
        stream.bleaching.add(restored.raw.received_s, found.signal)
        needed = specimen.signal_for(self._target) if specimen else None
        left = stream.bleaching.time_left_s(needed) if needed else None
        held = _HELD_MARGIN * needed / found.signal if needed and found.signal else 0.0
        margin = MARGIN_ALIKE if is_alike else MARGIN
        return advise(self._target, found.error, found.at_less, held, left, margin)

    def _uncalibrated(self, raw: NDArray[Any], data: NDArray[Any], probe: Probe) -> Measurement:
        """What can be said without knowing the camera."""
        unit = CameraCalibration(camera="unknown", gain=1.0, offset=0.0, read_noise=0.0)
        clipped = clipped_fractions(raw, None)
        moments = Moments.of(raw, data, unit)
        gain = moments.gain(0.0)
        line = gain, moments.mean_raw - gain * moments.mean_restored
        correlation, _, _ = noise_signs(raw, data, line, None)
        return Measurement(
            Indicators(*clipped, correlation),
            None,
            None,
            None,
            None,
            {},
            Features(_doubles(probe.pooled), texture(raw, moments, 1.0)),
        )

    def _blurred_back(self, data: NDArray[Any]) -> NDArray[Any]:
        """A sharpened volume at the raw one's sharpness; others as they are."""
        if not any(self._transfer_sigma):
            return data
        smooth = ndimage.gaussian_filter(
            data.astype(np.float32), self._transfer_sigma, truncate=3.0
        )
        return np.asarray(smooth)

    def _stream(self, restored: Restored) -> _Stream:
        key = restored.key
        name = (key.acquisition, key.position, key.channel)
        stream = self._streams.get(name)
        light = restored.raw.exposure_ms, restored.raw.power
        if stream is None or stream.light != light:
            # At another dose the network follows the noise in another way.
            stream = _Stream(light=light)
            self._streams[name] = stream
        self._streams.move_to_end(name)
        if len(self._streams) > _MOST_STREAMS:
            self._streams.popitem(last=False)
        return stream

    def _rng(self, restored: Restored) -> np.random.Generator:
        key = restored.key
        return np.random.default_rng([self._seed, zlib.crc32(str(key).encode())])


def _without_gaps(restored: Restored) -> tuple[NDArray[Any], NDArray[Any]]:
    raw, data = restored.raw.data, restored.data
    if not restored.raw.missing:
        return raw, data
    came = np.setdiff1d(np.arange(raw.shape[0]), restored.raw.missing)
    return raw[came], data[came]


def _doubles(values: NDArray[np.float32] | None) -> NDArray[np.float64] | None:
    return None if values is None else values.astype(np.float64)
