"""A service in trouble: nothing is lost, nothing grows. `Soak` is what benchmarks/soak.py runs for hours."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import struct
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest
import tifffile
from websockets.sync.client import connect

from live_restore.client import Subscriber, VolumeMessage
from tests.conftest import wait_for
from tests.ingesting import free_endpoint
from tests.measured import PATIENCE_S, Program, freeze
from tests.soaking import (
    GOOD,
    SHAPE,
    Daemon,
    Fault,
    Key,
    Microscope,
    deck,
    save_stacks,
    send_planes,
)

_LOOK_S = 20
_LAST_LOOKS = 5
_KILLED = "killed and started"
# What may be added between the second and the last quarter of the process that lived longest. A source that lags behind
# holds up to four files open; asyncio makes the threads of the viewer's pool when they are wanted. Were all volumes held, `ingest` would grow by 90 MiB in three minutes; in two hours
# 40 MiB are less than a hundredth of them.
_BOUNDS = {"threads": 0, "descriptors": 2, "MiB": 40}
_COME_LATER = {("folder", "descriptors"): 4, ("view", "threads"): 2}
RESTORED = ("written", "unwritten")


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals that Windows hasn't")
def test_a_service_in_trouble_loses_nothing_and_does_not_grow(tmp_path, tiny_model):
    soak = Soak(tmp_path, minutes=2.4, seed=1, model=tiny_model.path)
    soak.run()
    assert soak.problems == []
    assert soak.grown() == []


class Soak:
    """All of it in a folder.

    Parameters
    ----------
    folder : pathlib.Path
        Empty.
    minutes : float
        For how long volumes are acquired.
    seed : int
        Of all that is drawn. Threads take turns as they happen to, so that no two runs are the same.
    model : str or pathlib.Path
        What restores.
    tell : callable
        Hears of each fault when it comes.

    Attributes
    ----------
    faults : collections.Counter
        How often each came.
    fates : dict
        What became of the volumes, by source: how many are ``written``, ``told`` as skipped, ``unwritten``.
    problems : list of str
        What mustn't be.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        seed: int,
        model: object = "default",
        tell: Callable[[str], Any] = print,
    ) -> None:
        self.faults: Counter[str] = Counter()
        self.fates: dict[str, Counter[str]] = {}
        self.problems: list[str] = []
        self.num_pictures = 0
        self._model = model
        self._folder, self._seconds, self._seed, self._tell = folder, 60 * minutes, seed, tell
        self._healing, self._ending, self._over = (threading.Event() for _ in range(3))
        self._received: dict[str, Counter[Key]] = {"ingest": Counter(), "bridge": Counter()}

    def run(self) -> None:
        """Acquire in trouble, heal everything, and see what became of it."""
        watched, self._port = self._folder / "watched", free_endpoint()
        watched.mkdir()
        with ExitStack() as opened:
            self._microscope = opened.enter_context(closing(Microscope()))
            sources = {
                "ingest": f"kind = 'ingest'\nendpoint = '{self._port}'\nidle_s = 15",
                "folder": f"kind = 'folder'\npath = '{watched}'\nsettle_s = 0.2\nrescan_s = 2",
                "bridge": f"kind = 'micromanager'\nport = {self._microscope.one.port}\nsilence_s = 2",
            }
            self.daemons = {
                name: opened.enter_context(
                    closing(Daemon(self._folder / name, source, self._model))
                )
                for name, source in sources.items()
            }
            ports = self.daemons["ingest"].data, "--control", self.daemons["ingest"].control
            page = "--port", "0", "--no-browser", "--history-mb", "4"
            self._listen = Program(self._folder / "listen", "listen", *ports)
            self._view = Program(self._folder / "view", "view", *ports, *page)
            for program in (self._listen, self._view):
                opened.enter_context(closing(program))
            self.measured: dict[str, Program] = self.daemons | {"view": self._view}
            try:
                self._acquire(watched)
            finally:
                for event in (self._healing, self._ending, self._over):
                    event.set()

    def _acquire(self, watched: Path) -> None:
        ingest, folder, bridge = self.daemons.values()
        faults = {name: one.faults() for name, one in self.daemons.items()}
        faults["folder"][_KILLED] = folder.restart
        faults["bridge"]["child process killed"] = bridge.kill_child
        faults["bridge"]["Micro-Manager hangs"] = self._microscope.hang
        faults["viewer"] = {"frozen": self._freeze_viewer, _KILLED: self._kill_viewer}
        self._began_s = time.monotonic()
        viewers = [self._start(self._watch, name) for name in self._received]
        viewers.append(self._start(self._look_at_page))
        sources = [
            self._start(send_planes, ingest, self._port, self._note, self._ending),
            self._start(save_stacks, folder, watched, self._note, self._ending),
            self._start(self._microscope.acquire, bridge, self._note, self._ending),
        ]
        trouble = [self._start(self._trouble, *one) for one in faults.items()]
        seconds = itertools.count(1)
        while self._elapsed_s < self._seconds and not self.problems:
            for program in self.measured.values():
                program.measure()
            if next(seconds) % _LOOK_S == 0:
                for name, daemon in self.daemons.items():
                    self._look_at_files(name, daemon)
            time.sleep(1.0)
        for event, threads in (self._healing, trouble), (self._ending, sources):
            event.set()
            for thread in threads:
                thread.join()
        for name, daemon in self.daemons.items():
            self._settle(name, daemon)
        for _ in range(_LAST_LOOKS):  # no second model is loaded now, and no volume is in work
            time.sleep(1.0)
            for program in self.measured.values():
                program.measure()
        self._over.set()
        for thread in viewers:
            thread.join()
        for name, daemon in self.daemons.items():
            self._stop(name, daemon)

    @property
    def _elapsed_s(self) -> float:
        return time.monotonic() - self._began_s

    # --- threads ---

    def _start(self, work: Callable[..., None], *arguments: Any) -> threading.Thread:
        """A thread with dice of its own."""
        name = " ".join([work.__name__, *(one for one in arguments if isinstance(one, str))])

        def run() -> None:
            try:
                work(random.Random(f"{self._seed} {name}"), *arguments)
            except Exception:  # noqa: BLE001 - told in the end
                self.problems.append(f"{name}: {traceback.format_exc()}")

        thread = threading.Thread(target=run, name=name)
        thread.start()
        return thread

    def _note(self, fault: str) -> None:
        self.faults[fault] += 1
        self._tell(f"{self._elapsed_s:8.1f} s  {fault}")

    def _trouble(self, rng: random.Random, where: str, faults: dict[str, Fault]) -> None:
        """One fault after another."""
        cards = deck(rng, *faults)
        while not self._healing.wait(rng.uniform(1, 8)):
            card = next(cards)
            # Until half time, so that one process lives long enough to tell whether it grows.
            if where == "viewer" or card != _KILLED or self._elapsed_s < self._seconds / 2:
                self._note(f"{where}: {card}")
                faults[card](rng)

    def _watch(self, rng: random.Random, name: str) -> None:
        """A viewer that keeps up, and asks for what it missed."""
        daemon = self.daemons[name]
        with Subscriber(daemon.data, control=daemon.control, from_start=True) as viewer:
            while not self._over.is_set():
                message = viewer.receive(0.5)
                if isinstance(message, VolumeMessage):
                    one = message.header
                    acquisition = one.acquisition.partition("_")[0]
                    self._received[name][acquisition, one.position, one.time, one.channel] += (
                        message.data.shape == SHAPE
                    )
            if viewer.missed:
                self.problems.append(f"a viewer of {name} missed {viewer.missed} volumes")

    def _look_at_page(self, rng: random.Random) -> None:
        """A page that draws what it is sent, and is closed and opened again."""
        pattern = re.compile(r"http://\S+/")
        address = wait_for(
            lambda: pattern.search(self._view.output.read_text("utf-8")), "the page", PATIENCE_S
        ).group()
        url, origin = address.replace("http", "ws") + "live", address.rstrip("/")
        while not self._over.is_set():
            closes_s = self._elapsed_s + rng.uniform(3, 15)
            with connect(url, origin=origin, max_size=None) as page:
                while self._elapsed_s < closes_s and not self._over.is_set():
                    body = page.recv(PATIENCE_S)
                    (length,) = struct.unpack_from("<I", body)
                    header = json.loads(body[4 : 4 + length])
                    self.num_pictures += "picture" in header
                    page.send(json.dumps({"drawn": header["number"]}))
            self._note("page: closed and opened again")

    def _freeze_viewer(self, rng: random.Random) -> None:
        self._listen.await_word(b"restored", lambda: freeze(self._listen.process, rng), "output")

    def _kill_viewer(self, rng: random.Random) -> None:
        self._listen.await_word(b"restored", lambda: self._listen.restart(rng), "output")

    # --- what became of it ---

    def _settle(self, name: str, daemon: Daemon) -> None:
        """Wait until each volume has its fate, in the ledger and at the viewer."""
        with suppress(AssertionError):
            daemon.await_settled()
        fates = daemon.fates()
        self.fates[name] = Counter(fates.values())
        self.problems += [
            f"{name} {key}: {fate}" for key, fate in fates.items() if fate not in GOOD
        ]
        if name in self._received:
            restored = Counter(key for key, fate in fates.items() if fate in RESTORED)
            with suppress(AssertionError):
                wait_for(lambda: restored <= self._received[name], "the viewer", PATIENCE_S)
            if restored != self._received[name]:
                lacking, more = restored - self._received[name], self._received[name] - restored
                self.problems.append(f"a viewer of {name} lacks {lacking}, has besides {more}")

    def _look_at_files(self, name: str, daemon: Daemon) -> set[str]:
        """Each that has its name must be whole; then it is emptied, to make room. The names of all."""
        folder = daemon.disk / "r"
        files = {str(path.relative_to(folder)) for path in folder.rglob("*.tif")}
        for file in files:
            if (folder / file).stat().st_size:
                if tifffile.imread(folder / file).shape != SHAPE:
                    self.problems.append(f"{name}: {file} isn't whole")
                with suppress(OSError):  # where the disk is read-only just now
                    os.truncate(folder / file, 0)
        return files

    def _stop(self, name: str, daemon: Daemon) -> None:
        """End a daemon, and compare its files with its ledger."""
        daemon.process.terminate()
        if code := daemon.process.wait(PATIENCE_S):
            self.problems.append(f"{name} ended with {code}")
        noted = {
            output.rpartition("/out/r/")[2]
            for state, _, output in daemon.ledger().values()
            if state == "written"
        }
        alone = noted ^ self._look_at_files(name, daemon)
        self.problems += [f"{name}: {one}, a file or a note alone" for one in alone]

    def grown(self) -> list[str]:
        """Which programs have grown, in what."""
        return [
            f"{name}: {before:g} {what}, later {after:g}"
            for name, program in self.measured.items()
            for (what, bound), (before, after) in zip(
                _BOUNDS.items(), program.growth(), strict=True
            )
            if after > before + bound + _COME_LATER.get((name, what), 0)
        ]
