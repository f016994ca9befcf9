"""What stands inside the headers of several messages: model, statistics, the guard's verdict."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from live_restore.assessment import Assessment, Verdict
from live_restore.light import Light

__all__ = ["AssessmentHeader", "DoseHeader", "LightHeader", "ModelHeader", "Statistics"]


class ModelHeader(BaseModel):
    """Which model made a restored volume."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    name: str
    """From the model's card."""
    sha256: str
    """Of the model file."""
    precision: str
    """float16, bfloat16 or float32."""
    device: str
    """Where it ran."""
    tile: tuple[int, int, int]
    """Tile shape (z, y, x); with another one the result differs slightly."""
    attention: str = "whole"
    """What the channel attention looked at: the whole volume, the previous one, or each tile alone."""
    normalisation: str = "per_volume"
    """running or locked: by other volumes of the stream; per_volume: by this one."""
    remark: str = ""
    """What was unusual, for people: an overflow, a lack of memory, intensities that jump."""
    difference: float | None = None
    """The largest from float32, of the intensity range, on a probe volume when the model was loaded."""


class Statistics(BaseModel):
    """Of the voxels in this message, for contrast."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    min: float
    """Smallest."""
    max: float
    """Largest."""
    p0_1: float
    """0.1st percentile."""
    p99_9: float
    """99.9th percentile."""


class LightHeader(BaseModel):
    """What light a volume and its position got."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    exposure_ms: float | None = None
    """Of each plane; null when unknown."""
    power: float | None = None
    """What the property of the light's power stood at; null where none is known."""
    unit: str = "ms"
    """Of the doses: exposure alone, or times the property of the power."""
    dose: float | None = None
    """Summed over all planes of this volume; null when unknown."""
    total: float | None = None
    """Of all volumes of this position so far, of all channels; null when unknown."""
    of_own: float | None = None
    """The exposure or power that dose control changes, over the user's own: 1 where it is his. Null where
    nothing may be changed."""

    @classmethod
    def of(cls, one: Light) -> LightHeader:
        """As it travels."""
        return cls(**{name: getattr(one, name) for name in cls.model_fields})


class DoseHeader(BaseModel):
    """What dose would do, by what the volume shows itself."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    target: float
    """The NRMSE that the user accepts."""
    headroom: float | None = None
    """By how much the dose could be divided; below 1, about by how much more is needed. Null when it can't
    be told."""
    floor: bool = False
    """More light will not help."""
    time_left_s: float | None = None
    """Until bleaching takes too much signal; null while there is no trend."""
    text: str = ""
    """For people."""


class AssessmentHeader(BaseModel):
    """What the guard found of a restored volume."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)

    verdict: Verdict
    """green, amber, red, or uncalibrated."""
    reasons: tuple[str, ...] = ()
    """Why, for people, the most important first."""
    blind_to: tuple[str, ...] = ()
    """What can't be seen from the volume alone, for people."""
    signal: float | None = None
    """Photoelectrons per voxel in bright structures; null without a camera calibration."""
    error: float | None = None
    """Estimated NRMSE: over the standard deviation of the truth."""
    error_bound: float | None = None
    """The true one is below in `coverage` of such acquisitions."""
    coverage: float | None = None
    """Null where too few acquisitions stand behind the bound."""
    num_acquisitions: int = 0
    """How many do."""
    severity: float = 0.0
    """The largest of all indicators over its limit; above 1 isn't green."""
    dose: DoseHeader | None = None
    """Advice; null where none can be given."""

    @classmethod
    def of(cls, one: Assessment) -> AssessmentHeader:
        """As it travels."""
        dose = one.dose and DoseHeader(
            target=one.dose.target,
            headroom=one.dose.headroom,
            floor=one.dose.is_floor,
            time_left_s=one.dose.time_left_s,
            text=one.dose.text,
        )
        names = cls.model_fields.keys() - {"dose"}
        return cls(**{name: getattr(one, name) for name in names}, dose=dose)
