"""The demo's second half: less and less light, until the guard's verdict turns red."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from live_restore.client import VolumeMessage

__all__ = ["Rung", "show_ladder", "turning_points"]

_STYLES = {"green": "bold green", "amber": "bold yellow", "red": "bold red", "uncalibrated": "dim"}


@dataclass(frozen=True, slots=True)
class Rung:
    """One volume of the ladder: what the simulation knows, and what the guard said.

    Attributes
    ----------
    channel : str
        Its name.
    photons : float
        Per voxel in the brightest structures.
    true_nrmse : float
        Of the restored volume, at its best gain and offset, over the standard deviation of the truth.
    verdict : str
        Of the guard.
    reason : str
        The most important.
    signal, estimate, bound : float or None
        Photoelectrons per voxel; estimated NRMSE and its bound.
    target : float
        NRMSE that is accepted.
    """

    channel: str
    photons: float
    true_nrmse: float
    verdict: str
    reason: str
    signal: float | None
    estimate: float | None
    bound: float | None
    target: float

    @classmethod
    def of(cls, message: VolumeMessage, truth: NDArray[Any], photons: float) -> Self:
        """From a restored volume and its truth in counts."""
        import numpy as np

        found = message.header.assessment
        r = (
            float(np.corrcoef(message.data.ravel(), truth.ravel())[0, 1])
            if message.data.std()
            else 0.0
        )
        return cls(
            message.header.channel,
            round(photons, 2),
            round(float(np.sqrt(1 - max(r, 0.0) ** 2)), 4),
            found.verdict if found else "uncalibrated",
            found.reasons[0] if found and found.reasons else "",
            found.signal if found else None,
            found.error if found else None,
            found.error_bound if found else None,
            found.dose.target if found and found.dose else 0.35,
        )


def show_ladder(console: Any, rungs: Sequence[Rung]) -> None:
    """A table, and where the verdict turned."""
    from rich.table import Table

    target = rungs[0].target
    table = Table(
        title=f"less and less light: NRMSE, true and as the guard judges it (target {target:g})",
        title_justify="left",
    )
    table.add_column("channel", no_wrap=True)
    for name in ("photons", "signal", "true", "estimated", "bound"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for channel in dict.fromkeys(one.channel for one in rungs):
        for one in rungs:
            if one.channel == channel:
                table.add_row(
                    channel,
                    f"{one.photons:.1f}",
                    _number(one.signal, ".1f"),
                    f"[{'red' if one.true_nrmse > target else 'default'}]{one.true_nrmse:.2f}[/]",
                    _number(one.estimate, ".2f"),
                    _number(one.bound, ".2f"),
                    f"[{_STYLES[one.verdict]}]{one.verdict}[/]",
                )
        table.add_section()
    console.print(table)
    for channel, (crossed, turned) in turning_points(rungs).items():
        console.print(
            f"{channel}: the true error is above {target:g} {_from(crossed)}; the verdict is red {_from(turned)}"
        )
    last = rungs[-1]
    if last.reason:
        console.print(f"The guard's words for the last one: {last.reason}.", style="dim")


def turning_points(rungs: Sequence[Rung]) -> dict[str, tuple[float | None, float | None]]:
    """By channel: photons from which on down the true error misses the target, and the verdict is red."""
    found = {}
    for channel in dict.fromkeys(one.channel for one in rungs):
        ones = [one for one in rungs if one.channel == channel]
        crossed = _last_run(ones, [one.true_nrmse > one.target for one in ones])
        turned = _last_run(ones, [one.verdict == "red" for one in ones])
        found[channel] = (crossed, turned)
    return found


def _last_run(rungs: Sequence[Rung], marks: Sequence[bool]) -> float | None:
    """Photons of the first rung from which on all are marked."""
    first = None
    for one, is_marked in zip(reversed(rungs), reversed(marks), strict=True):
        if not is_marked:
            break
        first = one.photons
    return first


def _from(photons: float | None) -> str:
    return "nowhere" if photons is None else f"from {photons:.1f} photons down"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
