"""A Micro-Manager for tests in a process of its own, and what the source that follows it gives."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np

from live_restore.interfaces import StopSignal
from live_restore.profile import DoseSettings, MicroManagerSource
from live_restore.sources.assembler import Assembler
from live_restore.sources.micromanager import MicroManager
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, SourceState, Volume
from tests.conftest import ROOT, wait_for
from tests.micro_manager_objects import Acquisition, Place, pixels


class MicroManagerProcess:
    """Our stand-in for Micro-Manager, in a process of its own."""

    def __init__(self, port: int | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.micro_manager_server", *([str(port)] if port else [])],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def tell(self, what: str, **more: Any) -> None:
        self.process.stdin.write(json.dumps({"do": what} | more) + "\n")
        self.process.stdin.flush()

    def start(self, **changes: Any) -> Acquisition:
        """Start an acquisition, now if it isn't said when."""
        now = f"{datetime.now(UTC) + timedelta(seconds=1):%Y-%m-%d %H:%M:%S.%f}"[:-3] + " +0000"
        acquisition = Acquisition(**({"start_time": now} | changes))
        names = set(asdict(acquisition))
        self.tell("start", **{n: v for n, v in vars(acquisition).items() if n in names})
        return acquisition

    def says(self) -> dict[str, Any]:
        """The next thing that it prints."""
        return json.loads(self.process.stdout.readline())

    def calls(self) -> Counter[str]:
        self.tell("tell")
        return Counter(self.says()["calls"])

    def light(self) -> float:
        """What its laser stands at."""
        self.tell("tell")
        return float(self.says()["light"])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class Followed:
    """What the source gave so far."""

    def __init__(self, source: MicroManager) -> None:
        self.source = source
        self.events: list[Any] = []
        self.settled: list[Any] = []
        self.stop = StopSignal()
        self._assembler = Assembler()
        self._thread = threading.Thread(target=self._run, name="followed")
        self.error: BaseException | None = None

    def _run(self) -> None:
        try:
            for event in self.source.events(self.stop):
                self.events.append(event)
                match event:
                    case AcquisitionInfo():
                        self.settled += self._assembler.start(event)
                    case Plane():
                        self.settled += self._assembler.add(event)
                    case AcquisitionEnd():
                        self.settled += self._assembler.end(event.acquisition)
        except BaseException as error:  # noqa: BLE001 - seen by the test
            self.error = error

    def start(self) -> None:
        self._thread.start()

    def finish(self) -> None:
        self.stop.set()
        self._thread.join()
        assert self.error is None

    @property
    def child(self) -> int:
        """The process that follows."""
        return wait_for(lambda: self.source._child, "the process that follows").pid

    def of(self, kind: type[Any]) -> list[Any]:
        assert self.error is None
        return [event for event in self.events if isinstance(event, kind)]

    def states(self) -> list[str]:
        return [event.text for event in self.of(SourceState)]

    def volumes(self) -> list[Volume]:
        return [one for one in self.settled if isinstance(one, Volume)]

    def await_planes(self, number: int) -> None:
        wait_for(lambda: len(self.of(Plane)) >= number, f"{number} planes")

    def await_ends(self, number: int = 1) -> list[AcquisitionEnd]:
        return wait_for(
            lambda: len(self.of(AcquisitionEnd)) >= number and self.of(AcquisitionEnd), "the end"
        )

    def await_state(self, part: str) -> None:
        wait_for(lambda: any(part in state for state in self.states()), part)


@contextmanager
def following(port: int, dose: DoseSettings | None = None, **changes: Any) -> Iterator[Followed]:
    fields = {"kind": "micromanager", "port": port, "poll_ms": 10, "silence_s": 5.0}
    with MicroManager(MicroManagerSource.model_validate(fields | changes), dose) as source:
        followed = Followed(source)
        followed.start()
        try:
            yield followed
        finally:
            followed.finish()


def places(acquisition: Acquisition, volume: Volume) -> list[Place]:
    positions = acquisition.positions or ["0"]
    p, c = positions.index(volume.key.position), acquisition.channels.index(volume.key.channel)
    return [(volume.key.time, p, c, z) for z in range(acquisition.num_slices)]


def assert_identical(acquisition: Acquisition, volumes: list[Volume]) -> None:
    """All volumes of it, each once, bit for bit."""
    assert len({v.key for v in volumes}) == len(volumes)
    number = acquisition.num_times * len(acquisition.positions or "0") * len(acquisition.channels)
    assert len(volumes) == number
    for volume in volumes:
        expected = [
            pixels(p, acquisition.shape, acquisition.dtype) for p in places(acquisition, volume)
        ]
        np.testing.assert_array_equal(volume.data, expected)
