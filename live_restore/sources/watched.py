"""A folder that is watched: what is touched in it, what lies in it, and whether it is there."""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver
from watchdog.observers.polling import PollingObserverVFS

from live_restore.errors import SourceError
from live_restore.sources.shares import share_of
from live_restore.sources.stacks import FOLDER_SUFFIXES, is_folder_stack

__all__ = ["WatchedFolder"]

logger = logging.getLogger(__name__)

_CHECK_S = 0.25  # between looks whether the folder is there
_POLL_S = 1.0  # between the polling observer's listings

_Identity = tuple[int, int]


class WatchedFolder:
    """Watches a folder and everything in it, as long as it is there, and again when it comes back.

    Symbolic links to folders are followed, but each folder counts once: by its own path where that
    lies in the watched one, else by the first link's. Folders that are stacks by their names count as
    single files. Used from one thread, but for `wake`.

    Parameters
    ----------
    path : pathlib.Path
        The folder, without symbolic links.
    ignore : pathlib.Path, optional
        A folder inside that is left out.
    polling : bool, optional
        Look for changes by listing, or don't; without it, done on network shares.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    is_there : bool
        As of the last `check`.
    removed : set of Path
        What had been deleted or moved away by the last call of `touched`; something else may lie in its place. Where
        `is_polled`, a share may just have looked empty for a moment.
    is_polled : bool
        Changes are found by listing.
    """

    def __init__(self, path: Path, ignore: Path | None = None, polling: bool | None = None) -> None:
        self.path = path
        self.is_there = self.is_polled = False
        self.removed: set[Path] = set()
        self._root = str(path)
        self._ignore = str(ignore) if ignore else None
        self._polling = polling
        self._observer: BaseObserver | None = None
        self._identity: _Identity | None = None
        self._mount: Path | None = None
        self._next_check_s = 0.0
        self._has_told_unwatched = False
        self._unreadable: set[str] = set()
        self._aliases: dict[str, str] = {}  # of links to folders: the paths by which those count
        self._touched: dict[str, bool] = {}  # whether it is a folder
        self._removed: set[str] = set()
        self._polled: set[_Identity] = set()  # folders of the polling observer's present listing
        self._is_woken = False
        self._changed = threading.Condition()

    @property
    def state(self) -> str:
        """What is being done, for people."""
        if self.is_there:
            return f"watching {self.path}"
        return f"folder {self.path} isn't there; waiting for it"

    def open(self) -> None:
        """Watch from now on.

        Raises
        ------
        SourceError
            The folder isn't there or can't be watched.
        """
        self._identity = self._look()
        if self._identity is None:
            raise SourceError(
                f"folder {self.path}: isn't there or isn't a folder. Make it, or name another one "
                "in [source]"
            )
        try:
            self._watch()
        except OSError as error:
            raise SourceError(
                f"folder {self.path}: can't be watched ({error}). Set polling = true in [source], "
                "or raise the system's limit of watches"
            ) from error
        self.is_there = True

    def close(self) -> None:
        """Watch no more."""
        observer, self._observer = self._observer, None
        if observer is not None:
            observer.stop()
            observer.join()

    def look(self) -> bool:
        """Whether the folder is there now; says nothing of it, and `check` goes on from where it was."""
        return self._look() is not None

    def check(self) -> bool:
        """See whether the folder is still there, and watch it anew when it came back.

        Returns
        -------
        bool
            What happened in it wasn't heard of: list its files.
        """
        now = time.monotonic()
        if now < self._next_check_s:
            return False
        self._next_check_s = now + _CHECK_S
        identity = self._look()
        if identity is None:
            if self.is_there:
                logger.warning(
                    "folder %s: isn't there any more (moved, deleted, or its share is disconnected); "
                    "waiting until it is back",
                    self.path,
                )
                self.is_there = False
                self.close()
            return False
        if self.is_there and identity == self._identity and self._is_watching():
            return False
        is_back = not self.is_there or identity != self._identity
        if not self.is_there:
            logger.info("folder %s: is back, listed anew", self.path)
        elif identity != self._identity:
            logger.warning("folder %s: is another one now, listed anew", self.path)
        self.is_there, self._identity = True, identity
        return self._watch_again() or is_back

    def touched(self) -> list[Path]:
        """Files that were written, made or moved here since the last call; some may be gone again."""
        with self._changed:
            touched, self._touched, self._is_woken = self._touched, {}, False
            removed, self._removed = self._removed, set()
        is_there = bool(removed) and self._look() is not None
        places = {self._place(path) for path in removed} - {None, self._root} if is_there else ()
        self.removed = {Path(place) for place in places if place}
        files: dict[Path, None] = {}
        for path, is_folder in touched.items():
            place = self._place(path)
            if place is None:
                continue
            if not is_folder or is_folder_stack(Path(place).name):
                files[Path(place)] = None
            elif not os.path.islink(place):  # noqa: PTH114 - links are followed by whole listings
                files |= dict.fromkeys(self._walk(place))
        return list(files)

    def wait(self, until_s: float) -> None:
        """Wait until something is touched, `wake`, or a time on the monotonic clock."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._touched or self._removed or self._is_woken,
                max(0.0, until_s - time.monotonic()),
            )

    def wake(self) -> None:
        """End a `wait`; from any thread."""
        with self._changed:
            self._is_woken = True
            self._changed.notify_all()

    def files(self) -> Iterator[Path]:
        """All files in the folder and the folders in it, listed while they are asked for.

        A folder that can't be listed is warned of once.
        """
        return self._walk(self._root)

    # --- what lies in it ---

    def _walk(self, start: str) -> Iterator[Path]:
        """Files below a folder; what links lead to comes last."""
        seen: dict[_Identity, str] = {}
        folders, links = deque([start]), deque[str]()
        while folders or links:
            folder = folders.popleft() if folders else links.popleft()
            try:
                status = _stat_inside(folder)
                known = seen.setdefault((status.st_dev, status.st_ino), folder)
                if known != folder:
                    self._aliases[folder] = known
                    continue
                entries = _list(folder)
            except OSError as error:
                self._tell_unreadable(folder, error)
                continue
            self._unreadable.discard(folder)
            for entry in entries:
                kind = _kind(entry)
                if entry.path == self._ignore or kind is None:
                    continue
                if kind == "file" or is_folder_stack(entry.name):
                    yield Path(entry.path)
                elif not entry.is_symlink():
                    self._aliases.pop(entry.path, None)
                    folders.append(entry.path)
                elif self._is_to_be_followed(entry.path):
                    links.append(entry.path)

    def _is_to_be_followed(self, link: str) -> bool:
        """Whether a link leads out of the folder; otherwise what it leads to is met in its own place."""
        real = os.path.realpath(link)
        if _is_in(real, self._root):
            self._aliases[link] = real
            return False
        self._aliases.pop(link, None)
        return not _is_in(self._root, real)

    def _tell_unreadable(self, folder: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError | NotADirectoryError) or folder in self._unreadable:
            return
        self._unreadable.add(folder)
        logger.warning(
            "folder %s: can't be listed (%s). See to its permissions; it is tried again at each "
            "re-scan",
            folder,
            error.strerror or error,
        )

    def _place(self, path: str) -> str | None:
        """The path by which a touched one counts, None when it doesn't."""
        for _ in self._aliases:  # links may lead through links, each of them once
            link = next((one for one in self._aliases if _is_in(path, one)), None)
            if link is None:
                break
            path = self._aliases[link] + path[len(link) :]
        if not _is_in(path, self._root) or (self._ignore and _is_in(path, self._ignore)):
            return None
        if not any(suffix in path.lower() for suffix in FOLDER_SUFFIXES):
            return path
        below = Path(path[len(self._root) :].lstrip(os.sep))
        for folder in (*reversed(below.parents[:-1]), below):
            if is_folder_stack(folder.name):
                return str(self.path / folder)
        return path

    # --- whether it is there ---

    def _look(self) -> _Identity | None:
        """Tells the folder from another one in its place; None where there is none."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        # Where a share was mounted, an empty folder stays.
        is_unmounted = self._mount is not None and not os.path.ismount(self._mount)
        if is_unmounted or not stat.S_ISDIR(status.st_mode):
            return None
        return status.st_dev, status.st_ino

    # --- what is touched in it ---

    def _is_watching(self) -> bool:
        observer = self._observer
        return observer is not None and all(one.is_alive() for one in observer.emitters)

    def _watch(self) -> None:
        share = share_of(self.path)
        is_polled = share is not None if self._polling is None else self._polling
        self.is_polled = is_polled
        observer: BaseObserver = (
            PollingObserverVFS(os.stat, self._list_for_polling, polling_interval=_POLL_S)
            if is_polled
            else Observer()
        )
        observer.schedule(_Touches(self._touch, self._remove), self._root, recursive=True)
        self._observer = observer
        try:
            observer.start()
        except BaseException:
            self._observer = None
            observer.stop()  # what it has opened so far, even though its thread never began
            raise
        points = (point for point in (self.path, *self.path.parents) if os.path.ismount(point))
        self._mount = next(points, None)
        logger.info(
            "watching %s %s (%s)",
            self.path,
            "by listing it every second" if is_polled else "by the system's events",
            "as the profile says" if self._polling is not None else share or "on no network share",
        )

    def _watch_again(self) -> bool:
        """Watch anew; whether that went well. Else it is tried again at the next check."""
        self.close()
        try:
            self._watch()
        except OSError as error:
            if not self._has_told_unwatched:
                logger.warning(
                    "folder %s: can't be watched (%s), only re-scanned until it can. Set polling = true "
                    "in [source], or raise the system's limit of watches",
                    self.path,
                    error,
                )
            self._has_told_unwatched = True
            self._next_check_s += _POLL_S
            return False
        self._has_told_unwatched = False
        return True

    def _touch(self, path: str, is_folder: bool) -> None:
        """Called from watchdog's thread."""
        with self._changed:
            self._touched[path] = is_folder
            self._changed.notify_all()

    def _remove(self, path: str) -> None:
        """Called from watchdog's thread."""
        with self._changed:
            self._removed.add(path)
            self._changed.notify_all()

    def _list_for_polling(self, folder: str | None) -> Iterator[os.DirEntry[str]]:
        """As the polling observer wants it: what loops back is listed once. From watchdog's thread."""
        folder = folder or self._root
        if folder == self._root:
            self._polled.clear()
        try:
            status = _stat_inside(folder)
            identity = status.st_dev, status.st_ino
            if identity in self._polled or self._observer is None:  # it loops, or is being closed
                return iter(())
            self._polled.add(identity)
            return iter([entry for entry in _list(folder) if entry.path != self._ignore])
        except OSError:
            if folder == self._root:
                raise
            return iter(())


class _Touches(FileSystemEventHandler):
    """Hands on the paths of what changed, from watchdog's thread."""

    def __init__(self, touch: Callable[[str, bool], None], remove: Callable[[str], None]) -> None:
        self._touch = touch
        self._remove = remove

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called by watchdog for each event."""
        if event.is_directory and event.event_type == "modified":
            return  # something in it was, which is told by itself
        if event.event_type in ("deleted", "moved"):
            self._remove(os.fsdecode(event.src_path))
        if event.event_type in ("created", "modified", "moved", "closed"):
            self._touch(os.fsdecode(event.dest_path or event.src_path), event.is_directory)


def _stat_inside(folder: str) -> os.stat_result:
    """Tells one folder from another; raises `PermissionError` where its files can't be reached."""
    return os.stat(os.path.join(folder, os.curdir))  # noqa: PTH116, PTH118 - without a Path for each


def _list(folder: str) -> list[os.DirEntry[str]]:
    """What lies in a folder; nothing is kept open, so that shares can be disconnected."""
    with os.scandir(folder) as entries:
        return list(entries)


def _kind(entry: os.DirEntry[str]) -> Literal["folder", "file"] | None:
    """None of what is neither, nowhere, or not to be reached."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else None
    except OSError:
        return None


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)
