"""The rules by which the light may be changed while it is watched: no input or output, no clock.

One `DoseRules` is one control of the light: a device property, or one channel's exposure. It is told what
the guard found of each volume and with what light that was taken, and says what should be done, if anything.
The constants are those with which a simulated closed loop neither chattered nor left its target; without the
dead band, the agreement and the interval it did.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from live_restore.assessment import Assessment
from live_restore.light import is_same
from live_restore.profile import DoseSettings

__all__ = ["DEAD_BAND", "MOST_DOWN", "MOST_UP", "DoseRules", "Evidence", "Proposal"]

DEAD_BAND = 0.15
"""Within it of what is needed, the dose stays as it is."""
MOST_DOWN, MOST_UP = 0.7, 1.2
"""Of the dose, in one step."""

_DIGITS = 6  # that a value is asked for with
_AGREEING = 2  # volumes in a row
_MOST_STREAMS = 32_768
_MOST_BEHIND = 3  # newer volumes of the stream that wait for restoration already

Action = Literal["set", "propose", "give back"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one restored volume says about the light.

    Attributes
    ----------
    acquisition : str
        Its acquisition; another one's evidence counts no more.
    stream : tuple of str
        Position and channel.
    assessment : Assessment or None
        What the guard found.
    taken_with : float or None
        What the light stood at when the volume was taken; None where nobody knows.
    num_behind : int
        Newer volumes of the stream that were seen already.
    is_backfill, is_whole : bool
        Newer ones were restored before it; no plane is missing.
    """

    acquisition: str
    stream: tuple[str, str]
    assessment: Assessment | None
    taken_with: float | None
    num_behind: int = 0
    is_backfill: bool = False
    is_whole: bool = True


@dataclass(frozen=True, slots=True)
class Proposal:
    """What should be done.

    Attributes
    ----------
    action : str
        ``set``: do it. ``propose``: say it, and do nothing. ``give back``: the user's own value, and nothing more
        until it is switched on again.
    value, before : float
        New and present.
    reason : str
        In words.
    """

    action: Action
    value: float
    before: float
    reason: str


class DoseRules:
    """One control of the light; used from one thread.

    Parameters
    ----------
    settings : DoseSettings
        What the user wants.
    own : float
        What he had set: never exceeded, and what he gets back.
    lowest, highest : float, optional
        The device's own limits.

    Attributes
    ----------
    own : float
        As above; what he sets by hand later takes its place.
    value : float
        What the light stands at as far as these rules know.
    frozen : str
        Why nothing is changed any more, until `switch_on`; empty where it is.
    remark : str
        Why the last volume changed nothing, for people.
    """

    def __init__(
        self,
        settings: DoseSettings,
        own: float,
        lowest: float | None = None,
        highest: float | None = None,
    ) -> None:
        self.own = self.value = own
        self.frozen = ""
        self.remark = ""
        self._settings = settings
        self._lowest = lowest
        self._highest = highest
        self._changed_s = -math.inf
        self._is_asked = False  # and not read back yet
        self._is_given_back = False  # likewise
        self._acquisition: str | None = None
        self._votes: dict[tuple[str, str], tuple[float, ...]] = {}

    # --- what happens to the light ---

    def confirm(self, value: float, now_s: float) -> None:
        """What was asked for is done: the value that was read back."""
        self.value = value
        self._is_asked = self._is_given_back = False
        self._changed_s = now_s
        self._forget_votes()

    def start(self, own: float, value: float) -> None:
        """An acquisition begins: the user's own value, and the present one."""
        self.own, self.value = own, value
        self._is_asked = self._is_given_back = False
        self._forget_votes()

    def take_over(self, value: float) -> None:
        """The user has set another value by hand: it is his own from now on, and hands off."""
        self.own = self.value = value
        self._is_asked = self._is_given_back = False
        self._forget_votes()
        if self._is_on and self._settings.control != "dry-run":
            self.frozen = "you have changed the light yourself"

    def freeze(self, reason: str) -> Proposal | None:
        """Change nothing any more; what to give back, if the light isn't the user's own."""
        if not self.frozen:
            self.frozen = reason
        self._forget_votes()
        is_own = not self._is_asked and is_same(self.value, self.own)
        if is_own or self._is_given_back:
            return None
        self._is_asked = self._is_given_back = True
        return Proposal("give back", self.own, self.value, reason)

    def switch_on(self) -> None:
        """Begin anew after `freeze`."""
        self.frozen = ""
        self._forget_votes()

    def change(self, settings: DoseSettings) -> Proposal | None:
        """Other settings; what to give back where they leave the light alone."""
        is_other = settings.control != self._settings.control
        self._settings = settings
        if settings.control in ("off", "dry-run"):
            given = self.freeze(f'control = "{settings.control}" in the profile')
            if settings.control == "dry-run":
                self.switch_on()
            return given
        if is_other:
            self.switch_on()
        return None

    # --- what a volume says ---

    def judge(self, evidence: Evidence, now_s: float, value_now: float) -> Proposal | None:
        """What should be done after a volume.

        Parameters
        ----------
        evidence : Evidence
            What it says.
        now_s : float
            On a clock that never goes back.
        value_now : float
            What the light stands at now, as read from the device. If it isn't what it was set to, the user's
            hand was there.
        """
        if not self._is_on or self.frozen or not math.isfinite(value_now):
            return None
        if not self._is_asked and not is_same(value_now, self.value):
            self.take_over(value_now)
            return None
        self._meet(evidence)
        found = evidence.assessment
        if found is not None and (found.verdict == "red" or not found.is_valid):
            why = found.reasons[0] if found.reasons else "its error can't be estimated"
            return self.freeze(f"red flag in {' '.join(evidence.stream)}: {why}")
        self.remark = self._why_not(evidence)
        if self.remark or found is None or found.dose is None or found.dose.lowest is None:
            self._votes[evidence.stream] = ()
            return None
        # Less light is asked for by green alone: amber wants a person to look twice.
        lowest = found.dose.lowest if found.verdict == "green" else max(1.0, found.dose.lowest)
        votes = self._votes.get(evidence.stream, ())
        self._votes[evidence.stream] = (*votes, lowest)[-_AGREEING:]
        return self._step(now_s)

    def _meet(self, evidence: Evidence) -> None:
        if evidence.acquisition != self._acquisition:
            self._acquisition = evidence.acquisition
            self._votes.clear()
        self._votes.setdefault(evidence.stream, ())
        if len(self._votes) > _MOST_STREAMS:
            del self._votes[next(iter(self._votes))]

    def _why_not(self, evidence: Evidence) -> str:
        """Why a volume says nothing; empty where it does."""
        found, taken = evidence.assessment, evidence.taken_with
        if found is None or found.verdict == "uncalibrated":
            return "there is no calibration to judge by (live-restore calibrate, characterize)"
        if found.dose is None or found.dose.is_floor or not _is_dose(found.dose.lowest):
            return "no dose can be told that would meet the target"
        if not evidence.is_whole:
            return "planes are missing"
        if evidence.is_backfill or evidence.num_behind > _MOST_BEHIND:
            return "restoration is behind: the result is of an older volume"
        if self._is_asked or taken is None or not is_same(taken, self.value):
            return "the volume wasn't taken with the present light"
        return ""

    def _step(self, now_s: float) -> Proposal | None:
        """A step, if all streams have asked for one often enough."""
        if any(len(votes) < _AGREEING for votes in self._votes.values()):
            self.remark = (
                "not all positions and channels have been seen twice with the present light"
            )
            return None
        need = max(_need(votes) for votes in self._votes.values())
        if abs(need - 1) <= DEAD_BAND:
            self.remark = "the light is what is needed, within 15 %"
            return None
        if need > 1 and self._settings.control == "down":
            self.remark = 'more light is needed than control = "down" may give'
            return None
        if now_s - self._changed_s < self._settings.interval_s:
            self.remark = "the last change is too recent (interval_s)"
            return None
        step = self.value * self._of_value(min(max(need, MOST_DOWN), MOST_UP))
        value = self._bounded(float(f"{step:.{_DIGITS}g}"))
        is_step = value < self.value if need < 1 else value > self.value
        if not is_step or is_same(value, self.value):
            self.remark = "the limit is reached"
            return None
        self._changed_s = now_s
        is_dry = self._settings.control == "dry-run"
        self._is_asked = not is_dry
        most = max(self._votes, key=lambda stream: _need(self._votes[stream]))
        self._forget_votes()
        reason = (
            f"the target is met with {need:.2f} of the present dose"
            if need < 1
            else f"the target needs {need:.2f} times the present dose"
        ) + f", by {' '.join(most)}, which needs most"
        return Proposal("propose" if is_dry else "set", value, self.value, reason)

    def _of_value(self, factor: float) -> float:
        """By what the value changes, from what the signal should change by."""
        is_power = self._settings.device_property != "exposure"
        squared = is_power and self._settings.photons_absorbed == 2
        return math.sqrt(factor) if squared else factor

    def _bounded(self, value: float) -> float:
        """Within the limits that lie in the step's direction; others may be passed already, by the user."""
        settings = self._settings
        if value < self.value:
            return max(
                value, settings.least or 0.0, -math.inf if self._lowest is None else self._lowest
            )
        tops = (settings.most, self._highest)
        return min(value, self.own, *(one for one in tops if one is not None))

    @property
    def _is_on(self) -> bool:
        return self._settings.control != "off"

    def _forget_votes(self) -> None:
        self._votes = dict.fromkeys(self._votes, ())


def _need(votes: tuple[float, ...]) -> float:
    """The dose that a stream needs, of the present one: 1 unless its volumes agree, else the cautious one."""
    if max(votes) < 1 - DEAD_BAND:
        return max(votes)
    return min(votes) if min(votes) > 1 + DEAD_BAND else 1.0


def _is_dose(lowest: float | None) -> bool:
    return lowest is not None and math.isfinite(lowest) and lowest > 0
