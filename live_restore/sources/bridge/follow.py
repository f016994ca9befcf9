"""The process that follows: ``python -m live_restore.sources.bridge.follow``, orders on its input.

One process is one connection. Whatever goes wrong with it, the process ends and the source starts
another one, since a bridge whose Micro-Manager died can't be mended, and may not even answer. Its
sign of life comes from the thread that makes the calls, so that one that hangs is noticed.
"""

from __future__ import annotations

import gc
import logging
import socket
import threading
import time
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.light import Adjustment
from live_restore.plane_protocol import LightWord, PlaneHeader, PlanesEnd, SourceHeader
from live_restore.plane_sender import PlaneSender
from live_restore.profile import DoseSettings
from live_restore.sources.bridge.ending import EndOfAcquisition
from live_restore.sources.bridge.files import FilesOnDisk, Lag
from live_restore.sources.bridge.plan import Plan, read_time
from live_restore.sources.bridge.walk import Place, PlaneSet, Walk, newest_visit
from live_restore.sources.child import LIGHT, Orders, end_at_once, read_adjustment

if TYPE_CHECKING:
    from live_restore.sources.bridge.light import FollowedLight
    from live_restore.sources.bridge.studio import ImageFacts, Store, Studio

__all__ = ["Follower", "main"]

logger = logging.getLogger(__name__)

_BEAT_S = 1.0
_IDLE_S = 0.5  # between looks for an acquisition
# Looks: a store may have come while another went. Each costs Micro-Manager calls for every store.
_LIST_EVERY = 20
_LIST_EVERY_ACQUIRING = 4
_KEEP_S = 60.0  # a restarted Micro-Manager has its data back only when the user has opened them
_MEMORY_BYTES = 256 * 2**20  # planes on their way to the source
_GRACE_S = 2.0  # to let go of what Micro-Manager holds for us
_YOUNG = 1  # what came since the last times: a fraction of a millisecond
_TYPES = ("uint8", "uint16", "float32")


class Follower:
    """Follows one acquisition after the other over one connection.

    Parameters
    ----------
    orders : mapping
        From the source: ``port``, ``poll_ms``, ``silence_s``, ``endpoint``, ``sender``, ``state``,
        ``since``, ``running`` (``planes`` and ``num_planned`` of acquisitions that have no end yet)
        and ``done`` (those that have); ``dose``, and ``light`` as it was told last.
    stopping : threading.Event
        Set when it shall end.
    """

    def __init__(self, orders: Mapping[str, Any], stopping: threading.Event) -> None:
        self._port = int(orders["port"])
        self._poll_s = float(orders["poll_ms"]) / 1000
        self._connect_s = min(5.0, float(orders["silence_s"]) / 2)
        self._beat_s = min(_BEAT_S, float(orders["silence_s"]) / 4)
        self._id = str(orders["sender"])
        self._since = datetime.fromisoformat(orders["since"])
        self._running = {
            name: (PlaneSet(one["planes"]), int(one["num_planned"]))
            for name, one in orders["running"].items()
        }
        self._done = set(orders["done"])
        self._stopping = stopping
        self._sender = PlaneSender(str(orders["endpoint"]), _MEMORY_BYTES)
        self._state = str(orders["state"])
        self._next_beat = 0.0
        self._number = 0
        self._seen = False, 0  # whether something is acquired, and the number of stores
        self._looks = 0
        self._facts: dict[tuple[int, int], tuple[int, ImageFacts]] = {}
        self._refused_type = ""
        self._dose = DoseSettings.model_validate(orders["dose"])
        self._told_light = orders["light"] and LightWord.model_validate(orders["light"])
        self._light: FollowedLight | None = None

    def run(self) -> None:
        """Follow until told to stop.

        Raises
        ------
        Exception
            Whatever broke the connection.
        """
        self._sender.await_daemon(_GRACE_S)
        if not self._await_server():
            return
        # Only now: it is large, and Micro-Manager may not be there for days.
        from live_restore.sources.bridge.light import FollowedLight
        from live_restore.sources.bridge.studio import Studio, quieten_bridge

        quieten_bridge()
        try:
            studio = Studio(self._port, self._connect_s)
        except Exception as error:
            raise SourceError(
                f"what listens on port {self._port} doesn't answer as Micro-Manager's server: if "
                "another program uses this port, set another one in Tools > Options and in [source]"
            ) from error
        if self._dose.is_watched:
            self._light = FollowedLight(
                studio.core(), self._dose, self._tell_light, self._told_light
            )
        connected_s = time.monotonic()
        self._beat(self._idle_state())
        while not self._stopping.is_set():
            found = self._find(studio)
            if found is None:
                if time.monotonic() - connected_s > _KEEP_S:
                    self._end_vanished()
                self._beat(self._idle_state())
                self._stopping.wait(min(_IDLE_S, self._beat_s))
            else:
                self._follow(studio, *found)
                del found
                gc.collect()
        if self._light is not None:
            self._light.give_back()
            self._light = None
        studio.close()

    def adjust(self, adjustment: Adjustment) -> None:
        """Ask for other light; from any thread."""
        if self._light is not None:
            self._light.ask(adjustment)

    def say_broken(self, error: Exception) -> None:
        """Tell the source why this connection ends."""
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        is_ours = isinstance(error, SourceError)
        broke = f"the connection to Micro-Manager on port {self._port} broke ({reason})"
        self._beat(str(error) if is_ours else broke)
        self._sender.await_sent(lambda: not self._stopping.is_set())

    # --- finding ---

    def _await_server(self) -> bool:
        """Wait until something listens; asking costs Micro-Manager nothing."""
        while not self._stopping.is_set():
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=_BEAT_S).close()
            except OSError:
                self._beat(
                    f"waiting for Micro-Manager on port {self._port}: turn on Tools > Options > "
                    "Run server"
                )
                self._stopping.wait(self._beat_s / 2)
            else:
                return True
        return False

    def _find(self, studio: Studio) -> tuple[Store, Plan] | None:
        """A store to follow: the running acquisition's first, then what was left unfinished.

        Also one that began and ended between two looks.
        """
        is_acquiring = studio.is_acquiring()
        number = studio.num_stores()
        self._looks += 1
        seldom = self._looks % (_LIST_EVERY_ACQUIRING if is_acquiring else _LIST_EVERY)
        if seldom and (is_acquiring, number) == self._seen:
            return None
        candidates: list[tuple[tuple[bool, int], Store, Plan]] = []
        stores = list(studio.stores())
        if is_acquiring and (extra := studio.engines_store()) is not None:
            stores.append(extra)
        for store in stores:
            self._beat(self._state)
            plan = store.plan()
            if plan is None or plan.acquisition in self._done:
                continue
            is_live = is_acquiring and not store.is_frozen
            if is_live or plan.acquisition in self._running or self._is_missed(plan):
                candidates.append(((is_live, plan.grid.num_planes), store, plan))
        if not candidates:
            self._seen = is_acquiring, number
            return None
        _, store, plan = max(candidates, key=lambda one: one[0])
        return store, plan

    def _is_missed(self, plan: Plan) -> bool:
        """Whether it was acquired since the source was opened; else the user opened an old one."""
        return plan.started_at is not None and plan.started_at >= self._since

    def _end_vanished(self) -> None:
        for name, (planes, num_planned) in tuple(self._running.items()):
            self._end(
                name, f"Micro-Manager has it no more, after {len(planes)} of {num_planned} planes"
            )

    # --- following ---

    def _follow(self, studio: Studio, store: Store, plan: Plan) -> None:
        name, grid = plan.acquisition, plan.grid
        planes, _ = self._running.setdefault(name, (PlaneSet(), grid.num_planes))
        walk, lag, files = Walk(grid, planes), Lag(), None
        self._beat(f"following {name}")
        end = EndOfAcquisition(studio, store)
        if self._light is not None:
            self._light.begin(store.num_images)
        while not self._stopping.is_set():
            # Before counting: the number is then the last one.
            is_over = walk.num_found == grid.num_planes or end.is_reached()
            num_images = store.num_images
            walk.begin(num_images, lambda: newest_visit(grid, store.next_index, store.has))
            if self._light is not None and not is_over:
                self._light.tend(num_images, grid.visit_size, self._exposure_ms())
            if files is not None:
                self._read_files(files, plan, planes)
            elif not is_over:
                self._fetch(store, plan, walk, until_s=time.monotonic() + self._poll_s)
                if lag.note(time.monotonic(), num_images, walk.num_found):
                    files = self._turn_to_files(store, plan)
                    lag = Lag()
            if is_over:
                walk.finish(num_images, store.next_index)
                self._fetch(store, plan, walk)
                break
            self._beat(self._state)
            if files is not None or walk.is_idle:
                self._stopping.wait(self._poll_s)
        if files is not None:
            files.close()
        self._facts.clear()
        if not self._stopping.is_set():
            if self._light is not None:
                self._light.give_back()
            whole = f"aborted after {walk.num_found} of {grid.num_planes} planes"
            self._end(name, "finished" if walk.is_whole else whole)

    def _fetch(self, store: Store, plan: Plan, walk: Walk, until_s: float | None = None) -> None:
        """Fetch planes until there are no more, or until it is time to count them anew."""
        while not self._stopping.is_set() and (place := walk.ask()) is not None:
            exists = store.has(place) and self._deliver(store, plan, place)
            walk.answer(exists=exists)
            self._beat(self._state)
            if until_s is not None and time.monotonic() >= until_s:
                return

    def _deliver(self, store: Store, plan: Plan, place: Place) -> bool:
        stack = place.position, place.channel
        known = self._facts.get(stack)
        is_known = known is not None and known[0] == place.time
        image = store.read(place, with_facts=not is_known)
        if image is None:
            return False
        data, facts = image
        if facts is not None:
            self._facts[stack] = place.time, facts
        facts = self._facts[stack][1]
        self._send(
            plan,
            place,
            data,
            exposure_ms=facts.exposure_ms,
            pixel_size_um=facts.pixel_size_um,
            acquired_at=None if is_known else read_time(facts.received_at),
        )
        return True

    def _exposure_ms(self) -> float | None:
        """The longest that is known of this acquisition."""
        known = [facts.exposure_ms for _, facts in self._facts.values()]
        return max((one for one in known if one is not None), default=None)

    def _turn_to_files(self, store: Store, plan: Plan) -> FilesOnDisk | None:
        files = FilesOnDisk.at(store.save_path, plan)
        if files is None:
            state = (
                f"following {plan.acquisition} with delay: images come faster than Micro-Manager's "
                "bridge carries them. Have it save to this computer's disk while it acquires, so "
                "that the files can be followed instead"
            )
        else:
            state = (
                f"following {plan.acquisition} by its files in {files.path}, since images come "
                "faster than Micro-Manager's bridge carries them"
            )
        self._beat(state)
        return files

    def _read_files(self, files: FilesOnDisk, plan: Plan, planes: PlaneSet) -> None:
        for place, plane in files.poll():
            if self._stopping.is_set():
                return
            number = plan.grid.number(place)
            data = files.read(plane) if number not in planes else None
            if data is not None:
                planes.add(number)
                self._send(
                    plan,
                    place,
                    data,
                    exposure_ms=plane.exposure_ms,
                    pixel_size_um=plane.pixel_size_um,
                )
            self._beat(self._state)

    def _send(self, plan: Plan, place: Place, data: NDArray[Any], **facts: Any) -> None:
        if data.dtype.name not in _TYPES:
            if data.dtype.name != self._refused_type:
                self._refused_type = data.dtype.name
                logger.warning("%s: %s pixels can't be restored", plan.acquisition, data.dtype.name)
            return
        header = PlaneHeader(
            sender=self._id,
            number=self._number,
            acquisition=plan.acquisition,
            position=plan.positions[place.position],
            time=place.time,
            channel=plan.channels[place.channel],
            z=place.z,
            type=data.dtype.name,
            shape=data.shape,
            num_slices=plan.grid.num_slices,
            num_times=plan.grid.num_times,
            channels=plan.channels,
            positions=plan.positions,
            z_step_um=plan.z_step_um,
            power=self._light and self._light.power_at(plan.grid.step(place)),
            origin="Micro-Manager",
            **facts,
        )
        self._number += 1
        self._sender.send(header, np.ascontiguousarray(data), lambda: not self._stopping.is_set())

    # --- words ---

    def _tell_light(self, light: LightWord) -> None:
        self._sender.say(SourceHeader(sender=self._id, state=self._state, light=light))

    def _idle_state(self) -> str:
        return f"Micro-Manager on port {self._port}: waiting for an acquisition"

    def _end(self, name: str, reason: str) -> None:
        word = PlanesEnd(sender=self._id, acquisition=name, reason=reason)
        while not self._sender.say(word) and not self._stopping.wait(0.05):
            pass
        self._running.pop(name, None)
        self._done.add(name)

    def _beat(self, state: str) -> None:
        """Give a sign of life: once a second, and when there is something new to say."""
        now = time.monotonic()
        if now >= self._next_beat or state != self._state:
            self._state = state
            self._next_beat = now + self._beat_s
            self._sender.say(SourceHeader(sender=self._id, state=state))
            gc.collect(_YOUNG)  # here, since the bridge's thread mustn't


def main() -> None:
    """Run the process to its end."""
    stopping = threading.Event()

    def hear(word: str) -> None:
        """Words of the light are for the follower; any other ends it, at once if Micro-Manager doesn't let go."""
        if word.startswith(LIGHT):
            for one in followers:
                one.adjust(read_adjustment(word))
            return
        stopping.set()
        threading.Timer(_GRACE_S, end_at_once, (0,)).start()

    followers: list[Follower] = []
    follower = Follower(Orders(hear).values, stopping)
    followers.append(follower)
    try:
        follower.run()
    except Exception as error:  # the bridge has no narrower one
        logger.debug("the connection to Micro-Manager broke", exc_info=True)
        follower.say_broken(error)
        threading.Timer(_GRACE_S, end_at_once, (1,)).start()
        # Micro-Manager lets go of what it holds for us, if it still answers.
        traceback.clear_frames(error.__traceback__)
        end_at_once(1)
    end_at_once(0)


if __name__ == "__main__":
    main()
