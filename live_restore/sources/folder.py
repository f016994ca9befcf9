"""A watched folder: finished stacks as they appear, acquisitions as they grow.

What is new goes first: after each stack that is given, the folder is looked at again. ::

    WatchedFolder: touched, listed
        -> Arrivals (files that may still be written) -> OpenFiles -> Finished: a stack
        -> Growing (acquisitions of many files): a stack
"""

from __future__ import annotations

import heapq
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from itertools import count, islice
from pathlib import Path, PurePath
from types import TracebackType
from typing import Self

from live_restore.interfaces import Event, StopSignal
from live_restore.ledger import Ledger, Origin
from live_restore.profile import FolderSource
from live_restore.sources.arrivals import Arrivals
from live_restore.sources.finished import Finished
from live_restore.sources.growing import Growing
from live_restore.sources.incoming import Defaults
from live_restore.sources.known import Known
from live_restore.sources.layouts import Layout, Recognition
from live_restore.sources.layouts.plane_files import PlaneFiles
from live_restore.sources.naming import Naming, acquisition_name
from live_restore.sources.open_files import OpenFiles
from live_restore.sources.stacks import stack_suffix
from live_restore.sources.taken import is_gone
from live_restore.sources.watched import WatchedFolder
from live_restore.volume import SourceState

__all__ = ["Folder", "acquisition_name"]

logger = logging.getLogger(__name__)

_NOT_MEANT_FOR_US = (
    *("thumbs.db", "desktop.ini"),
    *("metadata.txt", "display_settings.txt", "comments.txt", "ndtiff.index"),  # of datasets
)
_TICK_S = 1.0
_LISTED_AT_ONCE = 200  # files of a listing between two looks at what is new
_ASKED_LATELY_S = 600.0
_ASK_AGAIN_S = 0.2  # whether files that look like an acquisition's are of one
_DIGITS = re.compile(r"\d+")
_WITH_DIGITS = re.compile(r"[^\W_]*\d[^\W_]*")


class Folder:
    """A source that watches a folder and everything in it.

    Acquisitions of many files are taken plane by plane while they are written. Any other file is
    taken when its size and time stood still for ``settle_s`` and it opens whole. What isn't a z-stack
    is left alone with one warning; should it change, it is looked at again. What is new goes before
    what was there at the start, which goes by age.

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
        self._root = settings.path.resolve()
        self._watched = WatchedFolder(
            self._root, ignore.resolve() if ignore else None, settings.polling
        )
        self._naming = Naming(self._root)
        self._recognition = Recognition(settings.layout, settings.pattern)
        self._arrivals = Arrivals(settings.settle_s, self._watched.look, self._is_done)
        self._listing: Iterator[Path | None] | None = None
        self._next_scan_s = 0.0
        self._old_from_s = math.inf  # what was there at the start is all known from then on
        self._open = OpenFiles(settings, self._arrivals, self._naming.name, ledger)
        self._growing: dict[Path, Growing] = {}
        self._old_growing: list[tuple[int, int, Path]] = []  # when it was written, a number
        self._left_alone: set[Path] = set()  # datasets that aren't to be taken
        self._plane_files: set[Path] = set()  # datasets that share their folders with other things
        self._datasets: dict[
            tuple[Path, str], Path | None
        ] = {}  # of such files, and those like them
        self._asked_s: dict[tuple[Path, str], float] = {}  # what wasn't of a dataset, and when
        self._opened_s = 0.0
        self._retries: set[Path] = set()
        self._vanished: list[Growing] = []  # whose ends are still to be given
        self._num_named: Counter[Path] = Counter()  # acquisitions that lay in the places of these
        self._numbers = count()

    def __enter__(self) -> Self:
        self._watched.open()
        self._opened_s = time.monotonic()
        if self._settings.existing == "ignore":
            for path in self._watched.files():
                self._leave_alone(path)
            self._old_from_s = 0.0
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._watched.close()
        self._open.close()
        for growing in self._growing.values():
            growing.close()

    def events(self, stop: StopSignal) -> Generator[Event, None, None]:
        """See `Source.events`; each file or dataset is an acquisition."""
        stop.call(self._watched.wake)
        next_tick_s = time.monotonic()
        while not stop.is_set():
            self._look_around()
            one = self._next()
            if one is not None:
                one.turn = next(self._numbers)
                yield from one.give(stop)
                if isinstance(one, Finished) and one.is_over:
                    self._put_away(one)
                elif one in self._vanished:
                    self._vanished.remove(one)
            if time.monotonic() >= next_tick_s:
                yield SourceState(self._watched.state)
                next_tick_s = time.monotonic() + _TICK_S
            if one is None:
                self._watched.wait(min(next_tick_s, self._next_look_s()))
        yield from self._open.end("stopped")

    # --- what is there ---

    def _look_around(self) -> None:
        """See what was touched, what the folder holds, and what became of what was seen before."""
        if self._watched.check():
            self._listing, self._next_scan_s = None, 0.0
            for growing in self._growing.values():
                growing.resume()
        touched = self._watched.touched()
        if self._watched.removed:
            self._let_go(self._is_removed)
        for path in touched:
            self._see(path, is_live=True, is_touched=True)
        if not self._watched.is_there:
            return
        self._list()
        for arrival in self._arrivals.due():
            path, since_s = arrival.path, arrival.since_s
            if self._known_growing(path) or self._new_growing(path, since_s):
                self._arrivals.drop(path)  # what was written later told
            else:
                self._arrivals.ready(arrival)
        now = time.monotonic()
        for growing in self._growing.values():
            if growing.next_look_s <= now:
                growing.look()

    def _list(self) -> None:
        """Go on with listing the folder, when it is time."""
        if self._listing is None:
            if time.monotonic() < self._next_scan_s:
                return
            self._look_again()
            self._listing = self._listed()
        is_first = self._old_from_s == math.inf
        num_listed = 0
        for path in islice(self._listing, _LISTED_AT_ONCE):
            num_listed += 1
            if path is not None:
                self._see(path, is_live=not is_first)
        if num_listed < _LISTED_AT_ONCE:
            self._listing = None
            self._next_scan_s = time.monotonic() + self._settings.rescan_s
            if is_first and self._watched.look():
                self._old_from_s = time.monotonic() + self._settings.settle_s

    def _listed(self) -> Iterator[Path | None]:
        """All that lies in the folder; then what is gone from it is forgotten, step by step."""
        self._arrivals.taken.begin_listing()
        yield from self._watched.files()
        yield from self._arrivals.taken.end_listing()
        gone = {path for path in (*self._growing, *self._left_alone) if is_gone(str(path))}
        if gone and self._watched.look():
            self._let_go(gone.__contains__)
        asked_lately_s = time.monotonic() - _ASKED_LATELY_S
        self._asked_s = {one: at for one, at in self._asked_s.items() if at > asked_lately_s}

    def _is_removed(self, dataset: Path) -> bool:
        is_told = not self._watched.removed.isdisjoint((dataset, *dataset.parents))
        return is_told and (not self._watched.is_polled or is_gone(str(dataset)))

    def _let_go(self, has_gone: Callable[[Path], bool]) -> None:
        """Forget datasets that were deleted or moved away: what appears in their places is new."""
        for path in [path for path in self._growing if has_gone(path)]:
            growing = self._growing.pop(path)
            logger.info("%s: was deleted or moved away", path)
            if growing.vanish():
                self._vanished.append(growing)
            self._num_named[path] += growing.num_acquisitions
            if self._ledger:
                self._ledger.disown(str(path))
        self._left_alone = {path for path in self._left_alone if not has_gone(path)}
        self._plane_files = {path for path in self._plane_files if not has_gone(path)}
        self._datasets = {
            like_it: path for like_it, path in self._datasets.items() if path in self._growing
        }
        self._asked_s.clear()

    def _is_done(self, path: Path, version: str) -> bool:
        return self._ledger is not None and self._ledger.is_done(Origin(str(path), version))

    def _look_again(self) -> None:
        """Forget what the user wants tried again."""
        if self._ledger:
            self._retries |= {Path(name) for name in self._ledger.take_retries()}
        for path in self._retries - self._open.paths:
            if (growing := self._growing.pop(path, None)) is not None:
                growing.close()
                layout = self._recognition.recognise(path)
                if layout is not None:
                    self._follow(layout, is_old=True).begin()
            else:
                self._arrivals.forget(path)
                self._open.forget(path)
                self._see(path, is_live=False)
            self._retries.discard(path)

    def _see(self, path: Path, *, is_live: bool, is_touched: bool = False) -> None:
        """Start the clock of a file that is new or changed, or look at the dataset it is of."""
        if not self._naming.is_fit(path):
            return
        is_unwanted = _is_unwanted(path.name)
        # What grows while the folder is listed for the first time was there before, for the most part.
        is_old = not is_live or self._old_from_s == math.inf
        growing = self._known_growing(path) or (
            not is_unwanted
            and self._new_growing(path, time.monotonic() - _ASK_AGAIN_S, is_old=is_old)
        )
        if isinstance(growing, Growing):
            if not is_live and self._plane_files.intersection(path.parents):
                growing.know_as_old(path)
            if is_touched:
                growing.touch()
            elif is_live or growing.has_begun:
                growing.look_soon()
            elif time.time() - _written_ns(path) / 1e9 < self._settings.idle_s:
                growing.begin(is_urgent=True)
        elif growing or is_unwanted:
            self._arrivals.drop(path)
        elif stack_suffix(path.name) is not None or path.is_file():
            self._arrivals.see(path, is_live=is_live, is_touched=is_touched)

    def _known_growing(self, path: Path) -> Growing | bool:
        """The dataset that a file is of; True when that isn't to be taken, False without one."""
        for folder in (path, *path.parents) if self._growing or self._left_alone else ():
            growing = folder in self._left_alone or self._growing.get(folder)
            if growing and (folder not in self._plane_files or self._is_plane(path, folder)):
                return growing
        return False

    def _is_plane(self, path: Path, dataset: Path) -> bool:
        """Whether a file is of a dataset in whose folder other things may lie."""
        like_it = path.parent, _DIGITS.sub("0", path.name)
        if like_it not in self._datasets:
            if not self._recognition.may_belong(path):
                return False
            layout = self._recognition.recognise(path)
            if layout is None:  # it just vanished
                return False
            self._datasets[like_it] = layout.path
        return self._datasets[like_it] == dataset

    def _new_growing(self, path: Path, since_s: float, *, is_old: bool = False) -> Growing | bool:
        """The dataset that a file is found to be of; False without one."""
        layout = self._recognise(path, since_s)
        return False if layout is None else self._follow(layout, is_old=is_old)

    def _recognise(self, path: Path, since_s: float) -> Layout | None:
        """Ask for a file's dataset, unless it was asked for one named like it since then."""
        if not self._recognition.may_belong(path):
            return None
        like_it = path.parent, _WITH_DIGITS.sub("0", path.name)
        if self._asked_s.get(like_it, -math.inf) >= since_s:
            return None
        layout = self._recognition.recognise(path)
        if layout is None:
            self._asked_s[like_it] = time.monotonic()
        elif isinstance(layout, PlaneFiles):
            if not layout.path.is_relative_to(self._root):
                return None  # a stray file that lies too high for the pattern's folders
            self._plane_files.add(layout.path)
        return layout

    def _follow(self, layout: Layout, *, is_old: bool) -> Growing:
        settings, voxel = self._settings, self._settings.voxel_size_um
        growing = self._growing[layout.path] = Growing(
            layout,
            self._name(layout.path),
            Defaults(settings.num_slices, voxel[2] if voxel else None, voxel[0] if voxel else None),
            settings.idle_s,
            Known(layout.path, self._ledger),
            is_old=is_old,
        )
        if is_old:
            place = _written_ns(layout.path), next(self._numbers), layout.path
            heapq.heappush(self._old_growing, place)
        return growing

    def _name(self, dataset: Path) -> str:
        name, num_before = self._naming.name(dataset), self._num_named[dataset]
        return f"{name}~{num_before + 1}" if num_before else name

    def _leave_alone(self, path: Path) -> None:
        """Pass over what was there at the start."""
        if self._naming.is_fit(path) and not self._known_growing(path):
            layout = self._recognise(path, self._opened_s)
            if layout is not None:
                self._left_alone.add(layout.path)
            else:
                self._arrivals.settle_unseen(path)

    # --- whose turn it is ---

    def _next(self) -> Finished | Growing | None:
        """Who gives the next stack: who has a new one, who was interrupted, then the oldest."""
        if not self._watched.is_there:
            return None
        if not self._open.is_full and (arrival := self._arrivals.next_new()) is not None:
            self._open.take_up(arrival)
        candidates: list[Finished | Growing] = [
            *self._open.latest,
            *self._vanished,
            *self._growing.values(),
        ]
        for having in (
            [one for one in candidates if one.has_new],
            [one for one in candidates if one.has_old],
        ):
            if having:
                return min(having, key=lambda one: one.turn)
        if time.monotonic() >= self._old_from_s:
            if self._old_growing and self._old_growing[0][0] <= self._arrivals.oldest_ns:
                path = heapq.heappop(self._old_growing)[-1]
                if (growing := self._growing.get(path)) is not None:
                    growing.begin()
            elif (arrival := self._arrivals.next_old()) is not None:
                self._open.take_up(arrival)
        return None

    def _put_away(self, finished: Finished) -> None:
        if self._open.put_away(finished):
            self._arrivals.forget(finished.path)
            self._see(finished.path, is_live=True)

    def _next_look_s(self) -> float:
        """When something is to be done, should nothing be touched."""
        if not self._watched.is_there:
            return math.inf
        if self._listing is not None or self._open.paths or self._arrivals.has_new:
            return 0.0
        has_old = bool(self._old_growing) or self._arrivals.oldest_ns < math.inf
        return min(
            self._old_from_s if has_old else math.inf,
            self._next_scan_s,
            self._arrivals.next_due_s,
            *(growing.next_look_s for growing in self._growing.values()),
        )


def _is_unwanted(name: str) -> bool:
    """Whether a file's name says that it is no stack, or a half one."""
    is_half = ".part" in name and ".part" in PurePath(name).suffixes
    return is_half or name.startswith((".", "~$")) or name.lower() in _NOT_MEANT_FOR_US


def _written_ns(path: Path) -> int:
    """When something was written to a file, by its file system's clock."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0  # it just vanished
