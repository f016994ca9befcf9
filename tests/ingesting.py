"""A daemon's ingest port for tests: in this process, or in one of its own."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from live_restore.interfaces import StopSignal
from live_restore.profile import IngestSource
from live_restore.sources.ingest import Ingest
from live_restore.volume import AcquisitionEnd, Plane
from tests.conftest import ROOT, wait_for


class Ingesting:
    """What the source gave so far."""

    def __init__(self, source: Ingest) -> None:
        self.source = source
        self.events: list[Any] = []
        self.error: BaseException | None = None
        self.stop = StopSignal()
        self.thread = threading.Thread(target=self._run, name="ingesting")

    @property
    def endpoint(self) -> str:
        return self.source._port.endpoint

    def _run(self) -> None:
        try:
            for event in self.source.events(self.stop):
                self.events.append(event)
        except BaseException as error:  # noqa: BLE001 - seen by the test
            self.error = error

    def of(self, kind: type[Any]) -> list[Any]:
        assert self.error is None
        return [event for event in self.events if isinstance(event, kind)]

    def await_planes(self, number: int) -> list[Plane]:
        return wait_for(
            lambda: len(self.of(Plane)) >= number and self.of(Plane), f"{number} planes"
        )

    def await_ends(self, number: int = 1) -> list[AcquisitionEnd]:
        return wait_for(
            lambda: len(self.of(AcquisitionEnd)) >= number and self.of(AcquisitionEnd), "the end"
        )


def free_endpoint() -> str:
    """On a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


@contextmanager
def ingesting(endpoint: str | None = None, **changes: Any) -> Iterator[Ingesting]:
    """A source that takes planes, in a thread of this process; on a free port if none is said."""
    fields = {"kind": "ingest", "endpoint": endpoint or free_endpoint()}
    with Ingest(IngestSource.model_validate(fields | changes)) as source:
        taken = Ingesting(source)
        taken.thread.start()
        try:
            yield taken
        finally:
            taken.stop.set()
            taken.thread.join()
            assert taken.error is None


class IngestingProcess:
    """The same in a process of its own, to be stopped and killed."""

    def __init__(self, endpoint: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.ingest_reader", endpoint],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[dict[str, Any]] = []
        self.log: list[str] = []
        self._threads = [
            threading.Thread(target=self._hear, name="heard"),
            threading.Thread(target=self._read_log, name="log"),
        ]
        for thread in self._threads:
            thread.start()
        wait_for(lambda: self.said, "the port")

    def _hear(self) -> None:
        for line in self.process.stdout:
            self.said.append(json.loads(line))

    def _read_log(self) -> None:
        self.log.extend(self.process.stderr)

    def planes(self) -> list[dict[str, Any]]:
        return [one for one in self.said if one["event"] == "Plane"]

    def ends(self) -> list[dict[str, Any]]:
        return [one for one in self.said if one["event"] == "AcquisitionEnd"]

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> IngestingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        self.process.stdout.close()
        self.process.stderr.close()
