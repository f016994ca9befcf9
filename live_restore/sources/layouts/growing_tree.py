"""A folder, with folders in it, that files are added to."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.profile.pattern import NamePattern
from live_restore.sources.layouts.growing_folder import GrowingFolder

__all__ = ["Found", "GrowingTree"]

# Acquisitions with a folder per time point have thousands: those that grew lately are looked into each
# time, the others in turn for as long as a look may take.
_LATELY_S = 10.0
_LOOK_S = 0.02


@dataclass(frozen=True, slots=True)
class Found:
    """A file whose path fits a pattern.

    Attributes
    ----------
    name : str
        Its path in the tree, with ``/``.
    said : mapping
        What that says, by field.
    """

    name: str
    said: Mapping[str, str]


@dataclass(slots=True)
class _Branch:
    """One of the folders."""

    folder: GrowingFolder
    prefix: str  # of the names in it
    depth: int
    said: Mapping[str, str]
    grew_s: float
    looked_s: float = 0.0


class GrowingTree:
    """Gives the files that were added since it was last looked at.

    Parameters
    ----------
    path : pathlib.Path
        The uppermost folder.
    pattern : NamePattern
        What paths in it must be like.
    """

    def __init__(self, path: Path, pattern: NamePattern) -> None:
        self.path = path
        self._expressions = (*pattern.folders, pattern.file)
        self._branches: dict[str, _Branch] = {}
        self._add("", {}, 0, time.monotonic())

    def new(self) -> tuple[list[Found], SourceError | None]:
        """Files that are new, in no order, and the first reason why a folder couldn't be listed.

        Nothing of such a folder is forgotten.
        """
        now = time.monotonic()
        found: list[Found] = []
        problem = None
        waiting = deque(self._in_turn(now))
        until_s = None
        while waiting:
            branch = waiting.popleft()
            if not self._is_pressing(branch, now):
                if until_s is None:
                    until_s = time.monotonic() + _LOOK_S
                elif time.monotonic() > until_s:
                    break
            branch.looked_s = now
            try:
                matches = branch.folder.new()
            except SourceError as error:  # the other folders go on
                problem = problem or error
                continue
            for match in matches:
                branch.grew_s = now
                name, said = branch.prefix + match.string, {**branch.said, **match.groupdict()}
                if branch.depth == len(self._expressions) - 1:
                    found.append(Found(name, said))
                elif (self.path / name).is_dir():
                    waiting.appendleft(self._add(name + "/", said, branch.depth + 1, now))
        return found, problem

    def forget(self, name: str) -> None:
        """Have a file given as new again when it comes back."""
        folder, slash, last = name.rpartition("/")
        self._branches[folder + slash].folder.forget(last)

    def _add(self, prefix: str, said: Mapping[str, str], depth: int, now: float) -> _Branch:
        folder = GrowingFolder(self.path / prefix, self._expressions[depth])
        return self._branches.setdefault(prefix, _Branch(folder, prefix, depth, said, now))

    def _in_turn(self, now: float) -> list[_Branch]:
        """The pressing ones, then those that weren't looked into for longest."""
        branches = self._branches.values()
        return sorted(branches, key=lambda one: (not self._is_pressing(one, now), one.looked_s))

    def _is_pressing(self, branch: _Branch, now: float) -> bool:
        return branch.depth < len(self._expressions) - 1 or now - branch.grew_s < _LATELY_S
