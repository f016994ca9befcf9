"""Which files of a watched folder were taken up, as long as they lie in it."""

from __future__ import annotations

import heapq
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

__all__ = ["Taken", "is_gone"]

_FIRST_ASK_S = 60.0
_LONGEST_WAIT_S = 86_400.0
_WAITS_LONGER = 4  # times, after each ask in vain: a file of many stacks takes long to ask for


class Taken:
    """Remembers files, and forgets those that are gone and of which the ledger knows all.

    Should such a one come back, the ledger tells that it is done. Those of which it doesn't know all are
    remembered whether they are gone or not, so that nothing which still waits is taken twice.

    Parameters
    ----------
    is_done : callable
        Whether all stacks of a file, in one version, were restored or refused for good.
    is_there : callable
        Whether the folder that holds them all is there: what vanished with it isn't gone.
    """

    def __init__(self, is_done: Callable[[Path, str], bool], is_there: Callable[[], bool]) -> None:
        self._is_done = is_done
        self._is_there = is_there
        self._versions: dict[str, str] = {}
        self._kept: set[str] = set()  # that can't be forgotten, or not yet
        self._asks: list[tuple[float, float, str]] = []  # when, how long it waited, of which
        self._unlisted: set[str] = set()  # by the listing that goes on

    def __len__(self) -> int:
        return len(self._versions)

    def holds(self, path: Path, version: str) -> bool:
        """Whether a file that was seen just now is known in this version."""
        self._unlisted.discard(str(path))
        return self._versions.get(str(path)) == version

    def note(self, path: Path, version: str) -> None:
        """It was taken up: the ledger will know of its stacks."""
        self.keep(path, version)
        self._ask_in(_FIRST_ASK_S, str(path))

    def note_done(self, path: Path, version: str) -> None:
        """Nothing of it is wanted, now or if it comes back."""
        self._versions[str(path)] = version
        self._kept.discard(str(path))

    def keep(self, path: Path, version: str) -> None:
        """It is passed over, and is when it comes back."""
        self._versions[str(path)] = version
        self._kept.add(str(path))

    def forget(self, path: Path) -> None:
        """It is wanted when it is seen."""
        self._versions.pop(str(path), None)
        self._kept.discard(str(path))

    def begin_listing(self) -> None:
        """All files in the folder will be seen from now on."""
        self._unlisted = set(self._versions)

    def end_listing(self) -> Iterator[None]:
        """All were seen: forget those that are gone, a bit at each step."""
        now = time.monotonic()
        while self._asks and self._asks[0][0] < now:
            _, waited_s, path = heapq.heappop(self._asks)
            version = self._versions.get(path)
            if version is not None and path in self._kept:
                if self._is_done(Path(path), version):
                    self._kept.discard(path)
                else:
                    self._ask_in(min(waited_s * _WAITS_LONGER, _LONGEST_WAIT_S), path)
            yield
        gone = []
        for path in self._unlisted - self._kept:
            if is_gone(path):  # else its folder couldn't be listed, or something led elsewhere
                gone.append(path)
            yield
        self._unlisted = set()
        if gone and self._is_there():
            for path in gone:
                self.forget(Path(path))

    def _ask_in(self, wait_s: float, path: str) -> None:
        heapq.heappush(self._asks, (time.monotonic() + wait_s, wait_s, path))


def is_gone(path: str) -> bool:
    """Whether nothing lies there; not of what can't be reached just now."""
    try:
        os.stat(path)  # noqa: PTH116 - there may be many
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False  # not to be reached now
    return False
