"""What files and datasets of a watched folder are called as acquisitions."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path, PurePath

from live_restore.sources.stacks import stack_suffix

__all__ = ["Naming", "acquisition_name", "is_text"]

logger = logging.getLogger(__name__)


class Naming:
    """Names for what lies in a folder.

    Parameters
    ----------
    root : pathlib.Path
        The folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        # What follows each name in its path; by hashes, since all are remembered, also of files that are gone:
        # what was restored of those isn't to be overwritten.
        self._names: dict[int, str] = {}
        self._told: set[str] = set()

    def name(self, path: Path) -> str:
        """A name of its own for each file or dataset."""
        if path == self._root or not path.is_relative_to(self._root):
            return path.name
        below = path.relative_to(self._root)
        name, whole = acquisition_name(below), below.as_posix()
        rest = sys.intern(whole.removeprefix(name))
        if self._names.setdefault(hash(name), rest) != rest:
            name = whole
            self._names[hash(name)] = ""
        return name

    def is_fit(self, path: Path) -> bool:
        """Whether a path is text, which names on the wire and in the ledger have to be.

        Of a file or folder whose name isn't, that is warned of once; all in such a folder is unfit too.
        """
        if is_text(str(path)):
            return True
        whole = (*reversed(path.parents), path)
        unfit = next(str(part) for part in whole if not is_text(str(part)))
        if unfit not in self._told:
            self._told.add(unfit)
            logger.warning(
                "%s: the name isn't Unicode (UTF-8), left alone. Rename it, then it is taken",
                os.fsencode(unfit).decode(errors="backslashreplace"),
            )
        return False


def acquisition_name(path: PurePath) -> str:
    """A file's name without its suffixes, with the folders before it: ``day1/cell3``."""
    stem = path.name.removesuffix(stack_suffix(path.name) or "")
    return path.with_name(stem or path.name).as_posix()


def is_text(path: str) -> bool:
    """Whether a path can be said to others.

    Names in other encodings than the system's are read with stand-ins for their bytes, which can't be
    written.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True
