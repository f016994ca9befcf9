"""What an envelope says, in words that a biologist understands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from live_restore.guard.envelope import Envelope, Specimen, curve_of

__all__ = [
    "BLIND",
    "NRMSE",
    "Holding",
    "as_document",
    "bound_in_words",
    "digits",
    "holding",
    "sharpness",
]

NRMSE = (
    "NRMSE: root mean squared error of the restored volume, but for gain and offset, over the standard "
    "deviation of the truth. 0 is perfect, 1 is no better than an empty image"
)
BLIND = (
    "Blur isn't seen by the error estimate: a blurred structure can be restored faithfully, and stays blurred. "
    "Only the comparison with the stacks of this report flags it, and only where it is strong"
)

_NEAR_FLOOR = 1.1  # times the error that no light goes below


@dataclass(frozen=True, slots=True)
class Holding:
    """Within which light a model holds on a channel.

    Attributes
    ----------
    target : float
        NRMSE.
    from_signal : float or None
        Photoelectrons per voxel from which nine of ten fields met it; None where they never did.
    is_least : bool
        No dimmer light was tried.
    floor : float
        NRMSE that no light goes below.
    enough : float or None
        Signal from which more light gains next to nothing; None where it still did at the top.
    brightest : float
        That was tried.
    """

    target: float
    from_signal: float | None
    is_least: bool
    floor: float
    enough: float | None
    brightest: float

    def __str__(self) -> str:
        if self.from_signal is None:
            held = (
                f"at no light that was tried (up to {digits(self.brightest)} photoelectrons per voxel) nine of ten "
                f"fields had an NRMSE of {self.target:g}"
            )
        else:
            held = f"holds from {digits(self.from_signal)} photoelectrons per voxel for an NRMSE of {self.target:g}"
            held += " (the least that was tried)" if self.is_least else ""
        if self.enough is None:
            return f"{held}; more light gained up to the brightest that was tried, {digits(self.brightest)}"
        return (
            f"{held}; more light than {digits(self.enough)} gains next to nothing (an NRMSE of about "
            f"{self.floor:.2f} remains)"
        )


def digits(value: float) -> str:
    """Two digits and more, never with an exponent."""
    return f"{value:.2g}" if value < 9.95 else f"{value:.0f}"


def holding(specimen: Specimen, target: float) -> Holding:
    """What a channel's ladder says of a target."""
    low, high = specimen.signal_range
    curve = curve_of(specimen)
    enough = curve.dose_for(_NEAR_FLOOR * curve.floor) if curve.floor > 0 else None
    if enough is not None and not enough < high:
        enough = None
    needed = specimen.signal_for(target)
    is_least = needed is not None and needed <= low
    return Holding(target, needed, is_least, curve.floor, enough, high)


def bound_in_words(envelope: Envelope) -> str:
    """The margin, and what may be promised with it."""
    n = envelope.card.num_acquisitions
    margin = f"the true NRMSE was at most {envelope.margin:.3f} above the guard's estimate"
    if envelope.coverage is None:
        return (
            f"{margin}, the largest of {n} fields of view, each at its worst dose. For a bound that holds in nine "
            "of ten acquisitions nine fields of view are needed at least: none is stated"
        )
    return (
        f"{margin} in {envelope.coverage:.0%} of acquisitions like these (n = {n} fields of view, each at its worst "
        "dose; conformal bound)"
    )


def sharpness(envelope: Envelope) -> str:
    """Whether the model sharpens."""
    sigma = envelope.card.transfer_sigma
    if not envelope.card.sharpens:
        return "the model doesn't sharpen: restored volumes are as fine as the raw ones' structure, or less"
    return (
        "the model sharpens: its volumes are compared with raw light after a Gaussian blur of "
        f"{sigma[0]:.2f} x {sigma[1]:.2f} x {sigma[2]:.2f} voxels (z, y, x), and the detail that it adds can't be "
        "checked by this comparison"
    )


def as_document(envelope: Envelope, target: float, warnings: list[str]) -> dict[str, Any]:
    """All of it for programs."""
    return {
        "envelope": envelope.card.model_dump(mode="json"),
        "margin": envelope.margin,
        "coverage": envelope.coverage,
        "num_acquisitions": envelope.card.num_acquisitions,
        "channels": {
            one.channel: {
                "holds_from": (held := holding(one, target)).from_signal,
                "floor": held.floor,
                "enough": held.enough,
                "says": str(held),
            }
            for one in envelope.card.specimens
        },
        "warnings": warnings,
    }
