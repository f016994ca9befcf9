"""The light of acquisitions that Micro-Manager runs itself: a property, changed while it rests between two visits.

Such an acquisition can't be made to wait. So other light is set only while all planes of a time point and position
are there and no more come for a while; an acquisition without rests is left as it is.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

from live_restore.light import Adjustment, is_same
from live_restore.plane_protocol import LightWord
from live_restore.profile import DoseSettings
from live_restore.sources.device_property import DeviceProperty, clamped

__all__ = ["FollowedLight"]

logger = logging.getLogger(__name__)

_READ_EVERY_S = 1.0
_REST_S = 0.3  # at least; and three exposures, since images on their way can't be seen
_REST_EXPOSURES = 3
_IMPATIENT_S = 60.0  # before it is told that an acquisition never rests
_GIVE_BACK_S = 10.0  # the user's own value doesn't wait longer than this
_MOST_READINGS = 10_000


class FollowedLight:
    """What is done to the light over one connection; used from the thread that makes the calls, but for `ask`.

    Parameters
    ----------
    core : object
        Micro-Manager's.
    dose : DoseSettings
        Which property.
    tell : callable
        Takes each reading.
    before : LightWord, optional
        What the connection before this one knew.

    Raises
    ------
    SourceError
        The profile names a property that can't be used; the text says why.
    """

    def __init__(
        self,
        core: Any,
        dose: DoseSettings,
        tell: Callable[[LightWord], object],
        before: LightWord | None = None,
    ) -> None:
        self._is_active = dose.control != "off"
        self._property = DeviceProperty(core, dose.power or dose.device_property)
        if self._is_active:
            self._property.check_settable()
        self._limits = self._property.limits
        self._tell = tell
        self._value = self._property.read()
        is_known = before is not None and is_same(before.value, self._value)
        self._own = before.own if before is not None and is_known else self._value
        self._asked: tuple[float, float] | None = None  # a value, and when
        self._lock = threading.Lock()
        self._num_images, self._since, self._next_read = 0, 0.0, 0.0
        # Numbers of images when another value was read, and the values.
        self._numbers: list[int] = []
        self._values: list[float] = []
        self._is_impatient = False
        self._say(is_start=is_known or before is None)  # else the user's hand was there meanwhile

    def ask(self, adjustment: Adjustment) -> None:
        """Another value, when the acquisition rests; from any thread."""
        with self._lock:
            self._asked = adjustment.value, time.monotonic()

    def begin(self, num_images: int) -> None:
        """An acquisition is followed from now on."""
        self._numbers, self._values = [], []
        self._num_images, self._since = num_images, time.monotonic()
        self._is_impatient = False
        value = self._property.read()
        if not is_same(value, self._value):  # set while nothing was acquired
            self._own = self._value = value
            self._asked = None
        self._note(num_images, value)
        self._say(is_start=True)

    def tend(self, num_images: int, visit_size: int, exposure_ms: float | None) -> None:
        """Read, and set what is asked for if this is the moment.

        Parameters
        ----------
        num_images : int
            That exist now.
        visit_size : int
            Planes of one time point and position.
        exposure_ms : float or None
            Of a plane.
        """
        now = time.monotonic()
        is_new = num_images != self._num_images
        if is_new:
            self._num_images, self._since = num_images, now
        is_between = num_images > 0 and num_images % visit_size == 0
        if (is_between and is_new) or now >= self._next_read:
            self._next_read = now + _READ_EVERY_S
            self._look(num_images)
        if self._asked is None or not self._is_active:
            return
        value, asked_s = self._asked
        rest_s = _REST_S + _REST_EXPOSURES * (exposure_ms or 0.0) / 1000
        if value >= self._own:
            is_moment = is_between or now - asked_s > _GIVE_BACK_S
        else:
            is_moment = is_between and now - self._since >= rest_s
        if is_moment:
            self._look(num_images)  # the user's hand may have been there meanwhile
            self._apply(num_images)
        elif now - asked_s > _IMPATIENT_S and not self._is_impatient:
            self._is_impatient = True
            logger.warning(
                "the light isn't changed: that needs a rest of %.1f s between time points or positions, and this "
                "acquisition has none",
                rest_s,
            )

    def power_at(self, step: int) -> float | None:
        """What a plane was taken with, by its number in the order of acquisition; None for earlier ones."""
        at = bisect_right(self._numbers, step)
        return self._values[at - 1] if at else None

    def give_back(self) -> None:
        """At once, the user's own value; nothing else is asked for any more."""
        with self._lock:
            self._asked = None
        if not self._is_active or is_same(self._value, self._own):
            return
        if is_same(self._property.read(), self._value):  # else it is the user's already
            self._set(self._own, self._num_images)

    def _look(self, num_images: int) -> None:
        value = self._property.read()
        if not is_same(value, self._value):
            self._own = self._value = value
            with self._lock:
                self._asked = None  # hands off
            if self._is_active:
                self._say()
        self._note(num_images, value)

    def _apply(self, num_images: int) -> None:
        with self._lock:
            asked, self._asked = self._asked, None
        if asked is not None:
            value = asked[0]  # never above the user's own, whoever asks
            self._set(
                self._own if value >= self._own else min(self._own, clamped(value, *self._limits)),
                num_images,
            )

    def _set(self, wanted: float, num_images: int) -> None:
        problem = ""
        before = self._value
        try:
            self._property.set(wanted, towards=before)
        except Exception as error:  # noqa: BLE001 - the bridge has no narrower one
            problem = f"can't be set to {wanted:g}: {' '.join(str(error).split())[:200]}"
        self._value = self._property.read()
        if not problem and is_same(self._value, before) and not is_same(before, wanted):
            problem = f"asked for {wanted:g}, it stands at {self._value:g}"
        self._note(num_images, self._value)
        self._say(is_ours=True, problem=problem)

    def _note(self, num_images: int, value: float) -> None:
        if self._values and is_same(self._values[-1], value):
            return
        self._numbers.append(num_images)
        self._values.append(value)
        del self._numbers[:-_MOST_READINGS], self._values[:-_MOST_READINGS]

    def _say(self, *, is_start: bool = False, is_ours: bool = False, problem: str = "") -> None:
        if not self._is_active:
            return
        lowest, highest = self._limits
        self._tell(
            LightWord(
                value=self._value,
                own=self._own,
                lowest=lowest,
                highest=highest,
                is_start=is_start,
                is_ours=is_ours,
                problem=problem,
            )
        )
