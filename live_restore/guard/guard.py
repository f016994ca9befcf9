"""The guard: looks at each restored volume, within its share of the time."""

from __future__ import annotations

import math
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import Bleaching, advise
from live_restore.guard.envelope import Envelope
from live_restore.guard.features import Features
from live_restore.guard.indicators import Indicators, clipped_fractions, noise_signs
from live_restore.guard.leverage import Brightness, Leverage
from live_restore.guard.parts import PROBE_ZYX, Sample, choose_part
from live_restore.guard.sums import Moments
from live_restore.guard.texture import texture
from live_restore.guard.thinned import DOSES, Thinned, classes
from live_restore.guard.verdict import Findings, rule
from live_restore.thinning import thin
from live_restore.volume import Restored

__all__ = ["Guard", "Measurement", "Probe"]

_MOST_STREAMS = 1000
_FIRST_PARTS = (
    4  # of a stream: fewer say too little. What they take beyond the budget is saved later
)
_BRIGHTEST = 0.98  # quantile of the restored volume from which structures count as bright


class Probe(Protocol):
    """Restores parts of a volume that was just restored; counts in, counts out, float32."""

    def as_volume(self, counts: NDArray[np.float32]) -> NDArray[np.float32]:
        """As the volume was: same normalisation, same attention."""
        ...

    def by_itself(
        self, counts: NDArray[np.float32], like: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Normalised by the percentiles of `like`, and with an attention that looks at the part alone."""
        ...

    @property
    def step(self) -> float:
        """Counts to which the volume will be rounded; 0 for none."""
        ...

    @property
    def pooled(self) -> NDArray[np.float32] | None:
        """What the attention looked at of the volume; None where each tile looks at itself."""
        ...


@dataclass(slots=True)
class _Stream:
    """What is remembered of a position and channel."""

    leverage: Leverage = field(default_factory=Leverage)
    thinned: Thinned = field(default_factory=Thinned)
    bleaching: Bleaching = field(default_factory=Bleaching)
    credit_s: float = 0.0
    num_probed: int = 0
    cost_s: float = 0.0  # of one pass over a part, about
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
    """

    def __init__(
        self,
        camera: CameraCalibration | None = None,
        envelope: Envelope | None = None,
        target_nrmse: float = 0.35,
        budget: float = 0.1,
        seed: int = 0,
    ) -> None:
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
        measured = self.measure(restored, probe, stream)
        assessment = self._judge(restored, measured, stream)
        stream.credit_s -= time.monotonic() - started
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
        moments = Moments.of(raw, matched, camera)
        sample = _sample(matched, camera)
        brightness = Brightness(float(np.percentile(sample.values, 20)), camera.variance)
        is_visible = moments.is_visible(camera)
        if is_visible and (self._budget > 0 or num_parts):
            look = _Look(raw, sample, brightness, moments, camera, probe, self._blurred_back, rng)
            self._probe(look, stream, num_parts)
        overfit, overfit_error = stream.leverage.overfit(sample.values, brightness)
        error = None
        if stream.leverage.num_parts:
            error = _rounded(
                moments.nrmse(camera, overfit, overfit_error),
                sample.values,
                probe.step / camera.gain,
            )
        gain = moments.gain(overfit) if is_visible else 0.0
        line = gain, moments.mean_raw - gain * moments.mean_restored
        signs = noise_signs(raw, matched, line, camera)
        return Measurement(
            Indicators(clipped[0], clipped[1], signs[0], signs[1], signs[2]),
            moments,
            is_visible,
            _signal(raw, sample, camera, overfit, moments) if is_visible else None,
            error,
            self._at_less(stream, moments, error),
            Features(_doubles(probe.pooled), texture(raw, moments, camera.gain)),
        )

    # --- the parts ---

    def _probe(self, look: _Look, stream: _Stream, num_parts: int) -> None:
        """Probe parts while there is time: two for the error, then one for the dose."""
        stream.leverage.fade()
        stream.thinned.fade()
        wanted = max(num_parts, _FIRST_PARTS if stream.num_probed == 0 else 0)
        num = 0
        while num < wanted or (num < 64 and stream.credit_s > 0):
            started = time.monotonic()
            kind = stream.num_probed % 3
            passes = look.dose(stream.thinned) if kind == 1 else look.error(stream.leverage)
            spent = time.monotonic() - started
            stream.credit_s -= spent
            stream.cost_s = spent / passes
            stream.num_probed += 1
            num += 1

    def _at_less(
        self, stream: _Stream, moments: Moments, error: float | None
    ) -> dict[float, float]:
        if error is None or self.camera is None:
            return {}
        found = {}
        least = error
        for dose in DOSES:
            nrmse = stream.thinned.nrmse(dose, moments, self.camera)
            if nrmse is not None:
                least = found[dose] = max(nrmse, least)  # less light is never better
        return found

    # --- judging ---

    def _judge(self, restored: Restored, found: Measurement, stream: _Stream) -> Assessment:
        mismatch = self.envelope.mismatch(restored.model, self.camera) if self.envelope else ""
        envelope = None if mismatch else self.envelope
        specimen = likeness = fineness = None
        if envelope is not None and found.signal is not None:
            kin = found.features.nearest(envelope, found.signal, restored.key.channel)
            specimen, likeness, fineness = kin.specimen, kin.likeness, kin.fineness
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
        bound = found.error * envelope.factor if envelope and found.error is not None else None
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
            dose=self._advice(restored, found, stream, ruling.is_valid, specimen),
        )

    def _advice(
        self,
        restored: Restored,
        found: Measurement,
        stream: _Stream,
        is_valid: bool,
        specimen: Any,
    ) -> DoseAdvice | None:
        """Without a gain that was measured no dose is advised: a factor of 2 in it makes it meaningless."""
        if found.error is None or found.signal is None or self.camera is None or not is_valid:
            return None
        if self.camera.method == "blind":
            return None
        stream.bleaching.add(restored.raw.received_s, found.signal)
        needed = specimen.signal_for(self._target) if specimen else None
        left = stream.bleaching.time_left_s(needed) if needed else None
        return advise(self._target, found.error, found.at_less, may_lower=True, time_left_s=left)

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
        if self.envelope is None or not self.envelope.card.sharpens:
            return data
        sigma = self.envelope.card.transfer_sigma
        return np.asarray(ndimage.gaussian_filter(data.astype(np.float32), sigma, truncate=3.0))

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


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """A volume that is being probed."""

    raw: NDArray[Any]
    sample: Sample
    brightness: Brightness
    moments: Moments
    camera: CameraCalibration
    probe: Probe
    blurred_back: Callable[[NDArray[Any]], NDArray[Any]]
    rng: np.random.Generator

    def error(self, leverage: Leverage) -> int:
        """See `Leverage.probe`; how many passes that took."""
        where, inside = self._choose()
        raw = self.camera.electrons(self.raw[where])
        leverage.probe(raw, self.brightness, self._through(self.probe.as_volume), inside, self.rng)
        return 2

    def dose(self, thinned: Thinned) -> int:
        """See `Thinned.probe`, at all doses; how many passes that took."""
        where, inside = self._choose()
        raw = self.camera.electrons(self.raw[where])
        everywhere = self.camera.electrons(_sampled(self.raw, self.sample.stride))
        noise = float(np.sqrt(self.camera.variance))
        whole = partial(self.probe.by_itself, like=self._counts(everywhere))
        base = self._through(whole)(raw)
        edges = classes(self.sample.values)
        for dose in DOSES:
            few, _ = thin(everywhere, dose, noise, self.rng)
            less = partial(self.probe.by_itself, like=self._counts(few))
            thinned.probe(
                dose,
                raw,
                base,
                edges,
                self.moments.mean_raw,
                self.camera,
                self._through(less),
                inside,
                self.rng,
            )
        return 1 + len(DOSES)

    def _choose(self) -> Any:
        x = self.brightness.regressors(self.sample.values)
        # Where what follows the noise is: mostly in bright structures.
        weights = (x[0] * np.float32(0.02) + x[1] * np.float32(0.2)).reshape(
            self.sample.values.shape
        )
        return choose_part(self.sample, weights, self.raw.shape, PROBE_ZYX, self.rng)

    def _through(
        self, restore: Callable[[NDArray[np.float32]], NDArray[np.float32]]
    ) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda electrons: self.camera.electrons(
            self.blurred_back(restore(self._counts(electrons)))
        )

    def _counts(self, electrons: NDArray[np.float32]) -> NDArray[np.float32]:
        return electrons * np.float32(self.camera.gain) + np.float32(self.camera.offset)


def _signal(
    raw: NDArray[Any],
    sample: Sample,
    camera: CameraCalibration,
    overfit: float,
    moments: Moments,
) -> float:
    """Photoelectrons per voxel in the bright structures, above the median.

    The restored volume says where they are. Where it follows the noise, the raw one is brighter there by chance:
    by as much as the noise's slope on it says, which is taken off.
    """
    electrons = camera.electrons(_sampled(raw, sample.stride))
    restored = sample.values
    bright = restored >= np.quantile(restored, _BRIGHTEST)
    by_chance = overfit / max(moments.var_restored, 1e-12)
    excess = float(restored[bright].mean()) - moments.mean_restored
    median = float(np.median(restored)) - moments.mean_restored
    background = moments.mean_raw + moments.gain(overfit) * median
    return max(float(electrons[bright].mean()) - background - by_chance * excess, 0.0)


def _rounded(nrmse: float | None, restored: NDArray[np.float32], step: float) -> float | None:
    """An error with that of rounding added: both lower the correlation with the truth."""
    if nrmse is None or step <= 0 or not np.ptp(restored) > 0:
        return nrmse
    rounded = np.rint(restored / step)
    if not np.ptp(rounded) > 0:
        return 1.0
    kept = float(np.corrcoef(restored.ravel(), rounded.ravel())[0, 1]) ** 2
    return math.sqrt(min(1 - (1 - nrmse**2) * kept, 1.0))


def _sample(data: NDArray[Any], camera: CameraCalibration) -> Sample:
    stride = Sample.stride_of(data.shape)
    return Sample(camera.electrons(_sampled(data, stride)), stride)


def _sampled(data: NDArray[Any], stride: tuple[int, int, int]) -> NDArray[Any]:
    return data[:: stride[0], :: stride[1], :: stride[2]]


def _without_gaps(restored: Restored) -> tuple[NDArray[Any], NDArray[Any]]:
    raw, data = restored.raw.data, restored.data
    if not restored.raw.missing:
        return raw, data
    came = np.setdiff1d(np.arange(raw.shape[0]), restored.raw.missing)
    return raw[came], data[came]


def _doubles(values: NDArray[np.float32] | None) -> NDArray[np.float64] | None:
    return None if values is None else values.astype(np.float64)
