"""A folder that files are added to."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.sources.naming import is_text

__all__ = ["GrowingFolder"]

# File systems stamp a folder's changes in steps of up to 2 s (FAT): as long as the stamp may stand
# for a change after the listing, the folder is listed again.
_STAMP_STEP_S = 2.5
# Some (exFAT, some network shares) don't stamp a folder at all when a file is added.
_RELIST_S = 1.0


class GrowingFolder:
    """Gives the names that were added since it was last looked at.

    A folder of 100,000 images takes some 50 ms to list, so that one that stands still isn't listed at
    each look.

    Parameters
    ----------
    path : pathlib.Path
        The folder.
    wanted : re.Pattern
        What the whole of a name must match.
    """

    def __init__(self, path: Path, wanted: re.Pattern[str]) -> None:
        self.path = path
        self._wanted = wanted
        self._seen: set[str] = set()
        self._stamp: int | None = None
        self._changed_s = self._listed_s = 0.0

    def new(self) -> list[re.Match[str]]:
        """Names that are new, in no order; those that aren't text are left out.

        Raises
        ------
        SourceError
            The folder is gone or can't be listed. Look again: nothing is forgotten.
        """
        now = time.monotonic()
        try:
            stamp = self.path.stat().st_mtime_ns
            if stamp != self._stamp:
                self._stamp, self._changed_s = stamp, now
            elif now - self._changed_s > _STAMP_STEP_S and now - self._listed_s < _RELIST_S:
                return []
            names = os.listdir(self.path)  # noqa: PTH208 - a Path for each takes 20 times as long
        except OSError as error:
            raise SourceError(
                f"folder {self.path}: holds an acquisition that is being followed and can't be listed "
                f"any more ({error.strerror or error}). If it lies on a network share, see whether that "
                "is connected; else put it back"
            ) from error
        self._listed_s = now
        unseen = set(names) - self._seen
        self._seen |= unseen
        named = filter(is_text, unseen)
        return [match for name in named if (match := self._wanted.fullmatch(name))]

    def forget(self, name: str) -> None:
        """Have a name given as new again when it comes back."""
        self._seen.discard(name)
