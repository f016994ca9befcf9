"""Folder sources at work: watching in a thread, or going on as a test pulls; and what they watch."""

import ctypes
import logging
import os
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile

from live_restore.interfaces import StopSignal
from live_restore.ledger import Ledger
from live_restore.profile import FolderSource
from live_restore.sources.assembler import Assembler
from live_restore.sources.folder import Folder
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, SourceState
from tests.conftest import wait_for

STACK = np.arange(4 * 5 * 6, dtype="u2").reshape(4, 5, 6)


def save(path, data=STACK, axes="ZYX"):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes})


def volumes_of(events):
    """What becomes of planes."""
    assembler, volumes = Assembler(), []
    for event in events:
        match event:
            case AcquisitionInfo():
                volumes += assembler.start(event)
            case Plane():
                volumes += assembler.add(event)
            case AcquisitionEnd():
                volumes += assembler.end(event.acquisition)
    return volumes


@contextmanager
def readable_by_all():
    """A folder on whose permissions the tests may rely, for another user where they run as root."""
    if sys.platform == "win32":
        pytest.skip("permissions are otherwise there")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name).resolve()


def become_nobody():
    """Have this thread alone touch files as a user without rights, should it be root's."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).setfsuid(65534)


def resident_bytes():
    """Memory of this process."""
    if sys.platform != "linux":
        pytest.skip("told by Linux alone")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def warnings_of(caplog):
    """What this program warned of; tifffile's own log is silent on the command line."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("live_restore")
    ]


class Watching:
    """A folder source that runs in a thread and remembers what it tells."""

    def __init__(
        self,
        root: Path,
        ignore: Path | None = None,
        ledger: Ledger | None = None,
        is_nobody: bool = False,
        **settings,
    ):
        settings = {"settle_s": 0.1, "rescan_s": 0.5} | settings
        self.source = Folder(FolderSource(kind="folder", path=root, **settings), ignore, ledger)
        self.stop = StopSignal()
        self.events = []
        self.states = []
        self.error = None
        self.is_nobody = is_nobody

    def __enter__(self):
        self.source.__enter__()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.source.__exit__(None, None, None)
        if self.error:
            raise self.error

    def _run(self):
        try:
            if self.is_nobody:
                become_nobody()
            for event in self.source.events(self.stop):
                if isinstance(event, SourceState):
                    self.states.append(event.text)
                else:
                    self.events.append(event)
        except Exception as error:  # noqa: BLE001 - raised again by the test's thread
            self.error = error

    def ended(self):
        return [e.acquisition for e in list(self.events) if isinstance(e, AcquisitionEnd)]

    def wait_for(self, *acquisitions):
        wait_for(lambda: set(acquisitions) <= set(self.ended()), f"{acquisitions} in {self.events}")


class Pulling:
    """A folder source that goes on only when the test asks for what it tells."""

    def __init__(self, root: Path, keeps: bool = True, **settings):
        settings = {"settle_s": 0.0, "rescan_s": 1000.0} | settings
        self.source = Folder(FolderSource(kind="folder", path=root, **settings))
        self.stop = StopSignal()
        self.events = []
        self.keeps = keeps

    def __enter__(self):
        self.source.__enter__()
        self._iterator = self.source.events(self.stop)
        return self

    def __exit__(self, *error):
        self.stop.set()
        self._iterator.close()
        self.source.__exit__(None, None, None)

    def until(self, kind):
        """The next event of a kind."""
        deadline = time.monotonic() + 60
        while True:
            event = next(self._iterator)
            assert time.monotonic() < deadline, f"waited in vain for {kind} in {self.events}"
            if self.keeps and not isinstance(event, SourceState):
                self.events.append(event)
            if isinstance(event, kind):
                return event

    def until_ended(self, number):
        while len(self.ended) < number:
            self.until(AcquisitionEnd)

    def wait_for_touches(self, name):
        """Until the file system has told of a file."""
        touched = self.source._watched._touched
        wait_for(lambda: any(path.endswith(name) for path in list(touched)), f"word of {name}")

    @property
    def ended(self):
        return [event.acquisition for event in self.events if isinstance(event, AcquisitionEnd)]

    @property
    def live(self):
        return {e.key.acquisition for e in self.events if isinstance(e, Plane) and e.is_live}
