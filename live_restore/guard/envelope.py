"""Within which limits a model was shown to hold: what `live-restore characterize` finds out.

A file beside the model, in the format safetensors: a card as JSON, and the arrays of `Likeness`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from live_restore.errors import CalibrationError
from live_restore.guard.camera import CameraCalibration
from live_restore.guard.dose import DoseCurve
from live_restore.guard.shift import Likeness
from live_restore.volume import ModelUse

__all__ = [
    "Envelope",
    "EnvelopeCard",
    "Limits",
    "Rung",
    "Specimen",
    "bound_margin",
    "curve_of",
    "envelope_beside",
]

_CARD_KEY = "live_restore.envelope"
_ALPHA = 0.1


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Rung(_Card):
    """One step of a ladder: medians over the acquisitions."""

    signal: float
    """Photoelectrons per voxel in bright structures."""
    nrmse: float
    """True NRMSE."""
    worst: float
    """Its 90th percentile."""
    estimate: float
    """What the guard said."""
    blur: float = 0.0
    """Standard deviation of the added Gaussian blur, in lateral voxels."""
    flagged: float = 0.0
    """Fraction of the acquisitions that the guard didn't call green."""


class Limits(_Card):
    """Beyond which indicators forbid to rely on a volume."""

    noise_ratio: tuple[float, float] = (0.93, 1.07)
    """Noise found over noise expected."""
    correlation: float = 0.05
    """Of neighbouring residuals, absolute."""
    likeness: float = 2.0
    """Distance of the network's features."""
    fineness: float = 2.0
    """Distance of the raw volume's texture."""


class Specimen(_Card):
    """What was found for one channel's structures."""

    channel: str
    """Its name."""
    num_acquisitions: int = Field(ge=1)
    """Independent ones."""
    curve: tuple[float, float, float]
    """b, c, d of NRMSE² = b + c / S + d / S², S the signal."""
    photon_ladder: tuple[Rung, ...]
    """From much light to little."""
    blur_ladder: tuple[Rung, ...] = ()
    """From sharp to blurred."""
    limits: Limits = Limits()
    """Of the indicators."""

    @property
    def signal_range(self) -> tuple[float, float]:
        """Of the photon ladder."""
        signals = [rung.signal for rung in self.photon_ladder]
        return min(signals), max(signals)

    def signal_for(self, nrmse: float) -> float | None:
        """The signal from which nine of ten acquisitions had an NRMSE below `nrmse`; None where none did."""
        rungs = sorted(self.photon_ladder, key=lambda rung: rung.signal)
        holding = None
        for rung in reversed(rungs):
            if rung.worst > nrmse:
                break
            holding = rung
        if holding is None:
            return None
        below = [rung for rung in rungs if rung.signal < holding.signal]
        if not below:
            return holding.signal
        failing = below[-1]
        # Between the two, NRMSE is about a power of the signal.
        share = math.log(failing.worst / nrmse) / max(math.log(failing.worst / holding.worst), 1e-9)
        steps = min(max(share, 0.0), 1.0)
        return float(failing.signal * (holding.signal / failing.signal) ** steps)


class EnvelopeCard(_Card):
    """What an envelope is of, and what it says."""

    model_name: str
    """Of the model's card."""
    model_sha256: str
    """Of the model's file: for another one the envelope says nothing."""
    camera: CameraCalibration
    """The stacks' camera and mode."""
    voxel_size_um: tuple[float, float, float] | None
    """(z, y, x) of the stacks; none when unknown."""
    shape_zyx: tuple[int, int, int]
    """Of the volumes."""
    tile_zyx: tuple[int, int, int]
    """In which they were restored."""
    attention: str
    """What the channel attention looked at."""
    truth: Literal["unseen photons", "matched stacks", "simulation"]
    """What the restored volumes were compared with."""
    specimens: tuple[Specimen, ...] = Field(min_length=1)
    """One per channel."""
    excesses: tuple[float, ...]
    """True minus estimated NRMSE of each acquisition, at the dose where that was largest; ascending."""
    transfer_sigma: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Gaussian (z, y, x), in voxels, that blurs the restored volume back to the raw one's sharpness; 0 for
    a model that doesn't sharpen."""
    sharpens: bool = False
    """Whether it does."""
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    """UTC."""
    made_with: str = ""
    """Version of the program."""

    @property
    def num_acquisitions(self) -> int:
        """Independent ones behind the bound."""
        return len(self.excesses)


class Envelope:
    """A card with the arrays that recognise volumes like those it was made from.

    Attributes
    ----------
    card : EnvelopeCard
        What it says.
    likeness, fineness : dict of str to Likeness
        By channel: the network's features, and the raw volumes' texture.
    """

    def __init__(
        self,
        card: EnvelopeCard,
        likeness: dict[str, Likeness],
        fineness: dict[str, Likeness],
    ) -> None:
        self.card = card
        self.likeness = likeness
        self.fineness = fineness

    def bound(self, nrmse: float) -> float:
        """What the true NRMSE of a volume with this estimate isn't above, in `coverage` of all acquisitions."""
        return min(nrmse + self.margin, 1.0)

    @property
    def margin(self) -> float:
        """What is added to an estimate to bound the error."""
        return bound_margin(self.card.excesses)[0]

    @property
    def coverage(self) -> float | None:
        """Of that bound; None from fewer than nine acquisitions."""
        return bound_margin(self.card.excesses)[1]

    def mismatch(self, use: ModelUse, camera: CameraCalibration | None) -> str:
        """Why it says nothing of a volume; empty where it does.

        Parameters
        ----------
        use : ModelUse
            What restored the volume.
        camera : CameraCalibration or None
            What it was taken with.
        """
        card = self.card
        if card.model_sha256 != use.sha256:
            return f"the envelope is of another model file ({card.model_name})"
        if camera is None:
            return (
                f"the envelope is of the camera {card.camera.name}, and the profile names no camera "
                "calibration"
            )
        if not card.camera.fits(camera):
            return f"the envelope is of the camera {card.camera.name}, this is {camera.name}"
        pools_tiles = use.attention == "tile"
        if pools_tiles != (card.attention == "tile") or (
            pools_tiles and use.tile_zyx != card.tile_zyx
        ):
            return (
                f"the envelope is of tiles {card.tile_zyx} with attention {card.attention}, these are "
                f"{use.tile_zyx} with {use.attention}"
            )
        return ""

    def voxel_ratio(self, voxel_size_um: tuple[float, float, float] | None) -> float | None:
        """By how much voxels are larger or smaller than the envelope's, at least 1; None where either is unknown."""
        if voxel_size_um is None or self.card.voxel_size_um is None:
            return None
        pairs = zip(voxel_size_um, self.card.voxel_size_um, strict=True)
        return max(max(a / b, b / a) for a, b in pairs)

    def save(self, path: Path) -> None:
        """Write it, whole or not at all.

        Raises
        ------
        CalibrationError
            It can't be written.
        """
        arrays: dict[str, NDArray[np.float32]] = {}
        for kind, of in (("likeness", self.likeness), ("fineness", self.fineness)):
            for channel, one in of.items():
                index = [s.channel for s in self.card.specimens].index(channel)
                arrays[f"{kind}.{index}.signals"] = one.signals.astype(np.float32)
                arrays[f"{kind}.{index}.features"] = one.features.astype(np.float32)
        part = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(save(arrays, metadata={_CARD_KEY: self.card.model_dump_json()}))
            part.replace(path)
        except OSError as error:
            raise CalibrationError(f"{path}: can't be written ({error.strerror})") from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read one.

        Raises
        ------
        CalibrationError
            There is none, or it is damaged.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                text = (file.metadata() or {}).get(_CARD_KEY)
                if text is None:
                    raise ValueError("it holds no envelope")
                card = EnvelopeCard.model_validate(json.loads(text))
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, ValueError, SafetensorError, ValidationError) as error:
            raise CalibrationError(
                f"{path}: isn't an envelope ({str(error).splitlines()[0]}). Make one with "
                "live-restore characterize"
            ) from error
        read: dict[str, dict[str, Likeness]] = {"likeness": {}, "fineness": {}}
        for kind, of in read.items():
            for index, specimen in enumerate(card.specimens):
                key = f"{kind}.{index}"
                if f"{key}.features" in arrays:
                    signals, features = arrays[f"{key}.signals"], arrays[f"{key}.features"]
                    of[specimen.channel] = Likeness(
                        signals.astype(np.float64), features.astype(np.float64)
                    )
        return cls(card, read["likeness"], read["fineness"])


def bound_margin(excesses: Sequence[float], alpha: float = _ALPHA) -> tuple[float, float | None]:
    """The conformal margin of an estimate, and the coverage that can be stated for it.

    The k-th smallest of true minus estimated error, k = ⌈(n + 1)(1 - α)⌉, of n exchangeable acquisitions
    (Vovk, Gammerman and Shafer, *Algorithmic Learning in a Random World*, 2005). A difference, not a
    ratio: the largest ratios are those of errors so small that they don't matter.

    Parameters
    ----------
    excesses : sequence of float
        One per acquisition, not per tile or time point.
    alpha : float
        One minus the coverage.

    Returns
    -------
    margin : float
        The largest excess where there are too few; not negative.
    coverage : float or None
        None where there are too few: nine for 0.9.
    """
    n = len(excesses)
    rank = math.ceil((n + 1) * (1 - alpha) - 1e-9)
    if rank > n:
        return max(max(excesses, default=0.0), 0.0), None
    return max(sorted(excesses)[rank - 1], 0.0), 1 - alpha


def envelope_beside(model: Path) -> Path:
    """Where the envelope of a model file lies."""
    return model.with_suffix(".envelope")


def curve_of(specimen: Specimen) -> DoseCurve:
    """Its error by signal."""
    return DoseCurve(*specimen.curve)
