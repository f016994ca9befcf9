"""A watched folder: finished TIFF stacks as they appear, Micro-Manager's acquisitions as they grow."""

from __future__ import annotations

import logging
import queue
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserver

from live_restore.errors import SourceError
from live_restore.interfaces import Event, StopSignal
from live_restore.ledger import Ledger, Origin
from live_restore.profile import FolderSource
from live_restore.sources.growing import Growing
from live_restore.sources.incoming import Defaults
from live_restore.sources.layouts import recognise
from live_restore.sources.stacks.tiff import TIFF_SUFFIXES, TiffStack
from live_restore.volume import AcquisitionEnd, SourceState

__all__ = ["Folder", "acquisition_name"]

logger = logging.getLogger(__name__)

_NOT_MEANT_FOR_US = (
    *("thumbs.db", "desktop.ini"),
    *("metadata.txt", "display_settings.txt", "comments.txt", "ndtiff.index"),  # of datasets
)
_TICK_S = 1.0
# What Micro-Manager and pycromanager call the files of a dataset; only of those the bytes are asked.
_OF_A_DATASET = re.compile(r"NDTiff\.index|.*NDTiffStack(_\d+)?\.tif|.*_MMStack.*\.tif|img_.*\.tif")
_OPEN_RETRY_S = 5.0  # a file that doesn't open may still be on its way: warn only after this


@dataclass(frozen=True, slots=True)
class _Look:
    """A file as it was seen."""

    size: int
    mtime_ns: int

    @property
    def version(self) -> str:
        """Tells it from the same file with other content."""
        return f"{self.size}-{self.mtime_ns}"

    @classmethod
    def at(cls, path: Path) -> Self | None:
        try:
            stat = path.stat()
        except OSError:
            return None  # gone, or not to be read: either way not there for us
        return cls(stat.st_size, stat.st_mtime_ns)


@dataclass(slots=True)
class _Waiting:
    """A file that isn't known to stand still yet."""

    look: _Look
    since: float


class Folder:
    """A source that watches a folder and everything in it.

    Acquisitions in one of Micro-Manager's layouts are taken plane by plane while they are written.
    Any other file is taken when its size and time stood still for ``settle_s`` and it opens whole.
    What isn't a z-stack is left alone with one warning; should it change, it is looked at again.

    Parameters
    ----------
    settings : FolderSource
        Which folder and how.
    ignore : pathlib.Path, optional
        A folder inside that is not watched, where results are written.
    ledger : Ledger, optional
        Knows what was restored before this program started.
    """

    is_durable = True

    def __init__(
        self, settings: FolderSource, ignore: Path | None = None, ledger: Ledger | None = None
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._ignore = ignore.resolve() if ignore else None
        self._touched: queue.SimpleQueue[Path | None] = queue.SimpleQueue()
        self._settled: dict[Path, _Look] = {}
        self._waiting: dict[Path, _Waiting] = {}
        self._names: dict[str, Path] = {}
        self._growing: dict[Path, Growing] = {}
        self._old: set[Path] = set()  # datasets that aren't to be taken

    def __enter__(self) -> Self:
        self._root = self._settings.path.resolve()
        if not self._root.is_dir():
            raise SourceError(
                f"folder {self._root}: isn't there or isn't a folder. Make it, or name another one "
                "in [source]"
            )
        self._observer: BaseObserver = PollingObserver() if self._settings.polling else Observer()
        self._observer.schedule(_Touches(self._touched), str(self._root), recursive=True)
        try:
            self._observer.start()
        except OSError as error:
            raise SourceError(
                f"folder {self._root}: can't be watched ({error}). Set polling = true in [source], "
                "or raise the system's limit of watches"
            ) from error
        if self._settings.existing == "ignore":
            files = self._list()
            self._settled = {p: look for p in files if (look := _Look.at(p))}
            self._old = {
                layout.path for p in files if _of_a_dataset(p) and (layout := recognise(p))
            }
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._observer.stop()
        self._observer.join()
        for growing in self._growing.values():
            growing.close()

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`; each file or dataset is an acquisition."""
        stop.call(lambda: self._touched.put(None))
        logger.info("watching %s", self._root)
        next_scan = next_tick = time.monotonic()
        while not stop.is_set():
            if time.monotonic() >= next_scan:
                self._look_again()
                for path in self._list():
                    self._notice(path)
                next_scan = time.monotonic() + self._settings.rescan_s
            now = time.monotonic()
            for growing in [one for one in self._growing.values() if one.next_look_s <= now]:
                yield from growing.poll(stop)
            for path in self._due():
                if stop.is_set():
                    return
                yield from self._take(path, stop)
                if not self._touched.empty():
                    break  # what is new goes before the rest of what was there
            if time.monotonic() >= next_tick:
                yield SourceState(f"watching {self._root}")
                next_tick = time.monotonic() + _TICK_S
            self._wait_for_touches(min(next_tick, self._next_due(next_scan)))

    def _look_again(self) -> None:
        """Forget what the user wants tried again."""
        for name in self._ledger.take_retries() if self._ledger else ():
            self._settled.pop(Path(name), None)
            if (growing := self._growing.pop(Path(name), None)) is not None:
                growing.close()

    def _list(self) -> list[Path]:
        try:
            return [path for path in self._root.rglob("*") if path.is_file()]
        except OSError as error:
            logger.warning("folder %s: can't be listed (%s), trying again", self._root, error)
            return []

    def _notice(self, path: Path) -> None:
        """Start the clock of a file that is new or changed, or look at the dataset it is of."""
        if self._is_of_dataset(path):
            return
        look = _Look.at(path)
        if look is None or self._is_ignored(path):
            self._waiting.pop(path, None)
        elif self._settled.get(path) != look:
            waiting = self._waiting.get(path)
            if waiting is None or waiting.look != look:
                self._waiting[path] = _Waiting(look, time.monotonic())

    def _is_of_dataset(self, path: Path) -> bool:
        """Whether a path belongs to one of Micro-Manager's datasets; then that one is looked at."""
        for folder in (path, *path.parents):
            if folder in self._old:
                return True
            if (growing := self._growing.get(folder)) is not None:
                growing.touch()
                return True
        if not _of_a_dataset(path) or self._is_ignored(path):
            return False
        layout = recognise(path)
        if layout is None:
            return False
        settings, voxel = self._settings, self._settings.voxel_size_um
        self._growing[layout.path] = Growing(
            layout,
            self._name(layout.path),
            Defaults(
                settings.num_slices,
                voxel[2] if voxel else None,
                voxel[0] if voxel else None,
            ),
            settings.idle_s,
            self._ledger.settled(Origin(str(layout.path))) if self._ledger else frozenset(),
        )
        return True

    def _is_ignored(self, path: Path) -> bool:
        if path.name.startswith((".", "~$")) or path.name.lower() in _NOT_MEANT_FOR_US:
            return True
        if ".part" in path.suffixes or not path.is_file():
            return True
        return self._ignore is not None and self._ignore in path.parents

    def _due(self) -> list[Path]:
        """Files that stood still for long enough, the newest first."""
        now = time.monotonic()
        due = []
        for path, waiting in list(self._waiting.items()):
            if now - waiting.since < self._settings.settle_s:
                continue
            if self._is_of_dataset(path):  # what was written later tells
                del self._waiting[path]
                continue
            look = _Look.at(path)
            if look == waiting.look:
                due.append((look.mtime_ns, path))
            elif look is None:
                del self._waiting[path]
            else:
                self._waiting[path] = _Waiting(look, now)
        return [path for _, path in sorted(due, reverse=True)]

    def _next_due(self, next_scan: float) -> float:
        settle = self._settings.settle_s
        return min(
            [
                next_scan,
                *(waiting.since + settle for waiting in self._waiting.values()),
                *(growing.next_look_s for growing in self._growing.values()),
            ]
        )

    def _wait_for_touches(self, until: float) -> None:
        """Wait for the file system to speak, or until a time on the monotonic clock."""
        try:
            path = self._touched.get(timeout=max(0.0, until - time.monotonic()))
            while path is not None:
                self._notice(path)
                path = self._touched.get_nowait()
        except queue.Empty:
            return

    def _take(self, path: Path, stop: StopSignal) -> Iterator[Event]:
        waiting = self._waiting[path]
        if path.suffix.lower() not in TIFF_SUFFIXES:
            logger.warning("%s: not a TIFF file, left alone", path)
            self._settle(path)
            return
        name = self._name(path)
        origin = Origin(str(path), waiting.look.version)
        if self._ledger and self._ledger.is_done(origin):
            logger.debug("%s: restored before", path)
            self._settle(path)
            return
        try:
            stack = TiffStack(path, name, self._settings.voxel_size_um)
        except (SourceError, OSError) as error:
            age = time.time() - waiting.look.mtime_ns / 1e9
            if 0 <= age < _OPEN_RETRY_S:
                # Slow writers pause in mid-file.
                waiting.since = time.monotonic() + _OPEN_RETRY_S - age - self._settings.settle_s
                return
            logger.warning("%s, left alone", error)
            self._settle(path)
            return
        self._settle(path)
        with stack:
            logger.info("%s: %s", path.name, _describe(stack))
            yield replace(stack.info, version=origin.version)
            settled = self._ledger.settled(origin) if self._ledger else frozenset()
            reason = "finished"
            try:
                for plane in stack.planes(settled):
                    if stop.is_set():
                        reason = "stopped"
                        break
                    yield plane
            except (SourceError, OSError) as error:
                logger.warning("%s", error)
                reason = str(error)
            yield AcquisitionEnd(name, reason)

    def _settle(self, path: Path) -> None:
        self._settled[path] = self._waiting.pop(path).look

    def _name(self, path: Path) -> str:
        """A name of its own for each file or dataset."""
        if path == self._root:
            return path.name
        name = acquisition_name(path.relative_to(self._root))
        if self._names.setdefault(name, path) != path:
            name = path.relative_to(self._root).as_posix()
            self._names[name] = path
        return name


class _Touches(FileSystemEventHandler):
    """Hands on the paths of what changed, from watchdog's thread."""

    def __init__(self, touched: queue.SimpleQueue[Path | None]) -> None:
        self._touched = touched

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for each event."""
        if event.event_type in ("created", "modified", "moved", "closed"):
            path = event.dest_path or event.src_path
            self._touched.put(Path(path if isinstance(path, str) else path.decode()))


def _of_a_dataset(path: Path) -> bool:
    return _OF_A_DATASET.fullmatch(path.name) is not None


def acquisition_name(path: PurePath) -> str:
    """A file's name without its suffixes, with the folders before it: ``day1/cell3``."""
    stem = path.name
    for suffix in (*TIFF_SUFFIXES, ".ome"):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
    return path.with_name(stem or path.name).as_posix()


def _describe(stack: TiffStack) -> str:
    info = stack.info
    voxel = info.voxel_size_um
    size = " x ".join(f"{v:.3g}" for v in voxel) + " um" if voxel else "voxel size unknown"
    counts = {
        "positions": len(info.positions),
        "time points": stack.num_times,
        "channels": len(info.channels),
    }
    several = "".join(f"{n} {name}, " for name, n in counts.items() if n > 1)
    return f"{several}{info.shape_zyx} {info.dtype}, {size}"
