"""The closed loop of dose: from what the guard finds to the microscope's light, with a log of each step.

Everything is decided in one thread of its own, so that neither restoration nor the source ever waits for it:
readings of the light from the source thread, what the guard found from the restore thread, and the switch from
the port thread go through one queue to the rules, and from there to the source and to a log.

What can go wrong gives the user's own light back; what can't be known changes nothing.
"""

from __future__ import annotations

import json
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from live_restore.dose_ledger import DoseLedger
from live_restore.errors import ProfileError
from live_restore.guard.control import DoseRules, Evidence, Proposal
from live_restore.interfaces import Adjustable, Source
from live_restore.light import Adjustment, LightReading, is_same
from live_restore.profile import DoseSettings
from live_restore.volume import Plane, Restored, VolumeKey, utc_now

__all__ = ["DoseControl"]

logger = logging.getLogger(__name__)

_MOST_STREAMS = 32_768


class DoseControl:
    """Watches the light of one service, and changes it where the profile says so; enter it to start it.

    Parameters
    ----------
    settings : DoseSettings
        What the user wants.
    log : pathlib.Path, optional
        File that each step is appended to, a line of JSON each.
    """

    def __init__(self, settings: DoseSettings, log: Path | None = None) -> None:
        self._settings = settings
        self._can_act = settings.control != "off"
        self._log = log
        self._ledger = DoseLedger(settings.power)
        self._source: Adjustable | None = None
        self._rules: dict[str, DoseRules] = {}  # of each channel's exposure; "" for a property
        self._readings: dict[str, LightReading] = {}
        self._newest: dict[tuple[str, str, str], int] = {}  # time point of each stream
        self._remarks: set[tuple[str, str]] = set()  # that were told
        self._off = ""  # why it was switched off before there was a reading
        self._status: dict[str, Any] = {"control": settings.control}
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="dose")

    def __enter__(self) -> Self:
        if self._can_act:
            self._worker.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """The source has given the light back by now, where it could."""
        if self._worker.is_alive():
            self._tasks.put(None)
            self._worker.join()

    def connect(self, source: Source) -> None:
        """Say through which source the light is changed, before it gives anything."""
        self._source = source if isinstance(source, Adjustable) else None

    # --- source thread ---

    def plane(self, plane: Plane) -> None:
        """Count a plane's light."""
        self._ledger.count(plane)

    def reading(self, reading: LightReading) -> None:
        """What the light stands at."""
        self._do(partial(self._read, reading))

    def seen(self, key: VolumeKey) -> None:
        """A volume came, whole or not."""
        if not self._can_act:
            return
        stream = key.acquisition, key.position, key.channel
        self._newest[stream] = max(key.time, self._newest.pop(stream, 0))
        if len(self._newest) > _MOST_STREAMS:
            del self._newest[next(iter(self._newest))]

    # --- restore thread ---

    def restored(self, restored: Restored) -> Restored:
        """The volume with its light; what the guard found of it is considered meanwhile."""
        key, raw = restored.key, restored.raw
        name, taken = key.channel, raw.exposure_ms
        if self._settings.device_property != "exposure":
            name, taken = "", raw.power
        newest = self._newest.get((key.acquisition, key.position, key.channel), key.time)
        evidence = Evidence(
            acquisition=key.acquisition,
            stream=(key.position, key.channel),
            assessment=restored.assessment,
            taken_with=taken,
            num_behind=newest - key.time,
            is_backfill=restored.is_backfill,
            is_whole=not raw.missing,
        )
        self._do(partial(self._judge, name, evidence, key))
        rules = self._rules.get(name)
        of_own = taken / rules.own if rules and rules.own and taken is not None else None
        return replace(restored, light=self._ledger.light_of(raw, of_own))

    def settle(self, key: VolumeKey) -> None:
        """A volume was restored, or won't be."""
        self._ledger.settle(key)

    # --- who switches ---

    def switch_on(self) -> str:
        """Let it change the light from now on; what happens now, in words. From any thread.

        Raises
        ------
        ProfileError
            The profile doesn't want it.
        """
        self._check_control()
        self._do(self._switch_on)
        return f"dose control is on ({self._settings.control}); the present light is yours"

    def switch_off(self) -> str:
        """Give the user's own light back at once, and change nothing more; as `switch_on`."""
        self._check_control()
        self._do(partial(self._switch_off, "switched off"))
        return "dose control is off; your own light comes back with the next volume"

    def change(self, settings: DoseSettings) -> None:
        """Take the profile's table as it is now. From any thread.

        Raises
        ------
        ProfileError
            That needs a restart; nothing is changed.
        """
        before = self._settings
        fixed = [
            name
            for name in ("device_property", "power_property", "photons_absorbed")
            if getattr(settings, name) != getattr(before, name)
        ]
        if settings.control != "off" and not self._can_act:
            fixed.append("control")
        if fixed:
            raise ProfileError(
                f"[dose] {', '.join(fixed)} changed, and can't change while the daemon runs: restart it"
            )
        if settings != before:
            self._settings = settings
            self._do(partial(self._change, settings))

    def status(self) -> dict[str, Any]:
        """What it stands at, as JSON values. From any thread."""
        return self._status

    def _check_control(self) -> None:
        if self._settings.control == "off":
            raise ProfileError(
                'the profile says control = "off" in [dose]: write "dry-run", "down" or "down-up" there, and '
                "restart the daemon"
            )

    # --- the thread that decides ---

    def _do(self, task: Callable[[], None]) -> None:
        if self._can_act:
            self._tasks.put(task)

    def _work(self) -> None:
        for task in iter(self._tasks.get, None):
            try:
                task()
            except Exception:
                logger.exception("dose control failed: your own light comes back")
                self._freeze_all("it failed, see the daemon's log")
            self._status = self._told()

    def _read(self, reading: LightReading) -> None:
        name = reading.channel
        rules, before = self._rules.get(name), self._readings.get(name)
        self._readings[name] = reading
        if rules is None or before is None or reading.is_start:
            self._begin(reading)
        elif reading.is_ours:
            rules.confirm(reading.value, time.monotonic())
            self._note("stands at", name, before.value, reading.value, reading.problem)
            if reading.problem and rules.frozen:
                logger.error("%s: set it back by hand: %s", self._called(name), reading.problem)
            elif reading.problem:
                self._freeze_all(f"{self._called(name)} doesn't follow: {reading.problem}")
        elif not is_same(reading.value, rules.value):
            logger.warning(
                "%s: you have changed it from %g to %g: nothing is changed any more until dose control is switched "
                "on again",
                self._called(name),
                rules.value,
                reading.value,
            )
            self._note("by hand", name, rules.value, reading.value, "")
            rules.take_over(reading.value)
            if rules.frozen:
                self._freeze_all(rules.frozen)

    def _begin(self, reading: LightReading) -> None:
        made = DoseRules(self._settings, reading.own, reading.lowest, reading.highest)
        rules = self._rules.setdefault(reading.channel, made)
        rules.start(reading.own, reading.value)
        self._note("start", reading.channel, reading.own, reading.value, "")
        logger.info(
            "dose control (%s): %s stands at %g",
            self._settings.control,
            self._called(reading.channel),
            reading.value,
        )
        if self._off:
            self._act(reading.channel, rules.freeze(self._off))

    def _judge(self, name: str, evidence: Evidence, key: VolumeKey) -> None:
        rules = self._rules.get(name)
        if rules is None:
            return
        was_frozen = bool(rules.frozen)
        proposal = rules.judge(evidence, time.monotonic(), self._readings[name].value)
        self._act(name, proposal, key)
        if rules.frozen and not was_frozen:
            self._freeze_all(rules.frozen)
        elif rules.remark and (name, rules.remark) not in self._remarks:
            self._remarks.add((name, rules.remark))
            logger.info("%s stays at %g: %s", self._called(name), rules.value, rules.remark)

    def _act(self, name: str, proposal: Proposal | None, key: VolumeKey | None = None) -> None:
        if proposal is None:
            return
        what = self._called(name)
        told = what, proposal.before, proposal.value, proposal.reason
        if proposal.action == "propose":
            logger.info("dry run: %s would go from %g to %g: %s", *told)
        elif proposal.action == "set":
            logger.info("%s goes from %g to %g: %s", *told)
        else:
            logger.warning("%s goes back from %g to your own %g: %s", *told)
        self._note(proposal.action, name, proposal.before, proposal.value, proposal.reason, key)
        if proposal.action != "propose" and self._source is not None:
            self._source.adjust(Adjustment(name, proposal.value))

    def _freeze_all(self, reason: str) -> None:
        """One red flag, one hand, one switch: it is for all channels."""
        for name, rules in self._rules.items():
            self._act(name, rules.freeze(reason))
        logger.warning(
            "dose control is frozen until it is switched on again (live-restore dose on): %s",
            reason,
        )
        self._note("frozen", "", None, None, reason)

    def _switch_on(self) -> None:
        self._off = ""
        for rules in self._rules.values():
            rules.switch_on()
        logger.info("dose control is switched on")
        self._note("switched on", "", None, None, "")

    def _switch_off(self, reason: str) -> None:
        self._off = reason
        for name, rules in self._rules.items():
            self._act(name, rules.freeze(reason))
        logger.info("dose control is off: %s", reason)
        self._note("switched off", "", None, None, reason)

    def _change(self, settings: DoseSettings) -> None:
        for name, rules in self._rules.items():
            self._act(name, rules.change(settings))
        logger.info('dose control is "%s" now, as the profile says', settings.control)
        self._note("profile", "", None, None, f"control = {settings.control}")

    def _called(self, name: str) -> str:
        return f"exposure of {name}" if name else self._settings.device_property

    def _told(self) -> dict[str, Any]:
        frozen = self._off or next(filter(None, (one.frozen for one in self._rules.values())), "")
        return {
            "control": self._settings.control,
            "device_property": self._settings.device_property,
            "frozen": frozen,
            "lights": [
                {
                    "channel": name,
                    "value": rules.value,
                    "own": rules.own,
                    "remark": rules.frozen or rules.remark,
                }
                for name, rules in self._rules.items()
            ],
        }

    def _note(
        self,
        what: str,
        name: str,
        before: float | None,
        value: float | None,
        reason: str,
        key: VolumeKey | None = None,
    ) -> None:
        """Append a line to the log."""
        if self._log is None:
            return
        line = {
            "at": utc_now().isoformat(),
            "what": what,
            "control": self._settings.control,
            "property": self._settings.device_property,
            "channel": name,
            "from": before,
            "to": value,
            "reason": reason,
            "after": str(key) if key else None,
        }
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            logger.warning("%s: a step of dose control isn't noted (%s)", self._log, error.strerror)
