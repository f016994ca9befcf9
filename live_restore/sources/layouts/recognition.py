"""Tells how an acquisition is laid out on disk."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.profile import FolderLayout
from live_restore.profile.pattern import NamePattern
from live_restore.sources.layouts.layout import Layout
from live_restore.sources.layouts.mm_separate import MMSeparate
from live_restore.sources.layouts.mm_stack import MMStack
from live_restore.sources.layouts.ndtiff import NDTiff
from live_restore.sources.layouts.plane_files import PlaneFiles

__all__ = ["Recognition", "recognise"]

logger = logging.getLogger(__name__)

# What each layout's files are called; only of those the bytes are asked.
_NAMES: Mapping[str, re.Pattern[str]] = {
    "ndtiff": re.compile(r"NDTiff\.index|.*NDTiffStack(_\d+)?\.tif"),
    "image-stack": re.compile(r".*MMStack.*\.tif"),
    "separate-images": re.compile(r"img_.*\.tif"),
}
_LAYOUTS: Mapping[str, Callable[[Path], Layout | None]] = {
    "ndtiff": NDTiff.at,
    "image-stack": MMStack.at,
    "separate-images": MMSeparate.at,
}


class Recognition:
    """Recognises the layouts that a profile asks for.

    Parameters
    ----------
    layout : str
        "auto", or the only one that is looked for; "whole-files" for none.
    pattern : str, optional
        Of the names of acquisitions of one file per plane. With "auto", what fits it is taken for one
        before anything else.
    is_finished : bool
        Nobody writes the acquisitions any more: those of one file per plane then give all that is there
        with a single `Layout.poll`, where they otherwise wait to see whether their files stand still.

    Raises
    ------
    ValueError
        `pattern` isn't one; see `NamePattern.parse`.
    """

    def __init__(
        self,
        layout: FolderLayout = "auto",
        pattern: str | None = None,
        *,
        is_finished: bool = False,
    ) -> None:
        self._is_finished = is_finished
        is_wanted = pattern is not None and layout in ("auto", "plane-files")
        self._pattern = NamePattern.parse(pattern) if pattern and is_wanted else None
        self._wanted = [name for name in _LAYOUTS if layout in ("auto", name)]

    def may_belong(self, path: Path) -> bool:
        """Whether a file may be of an acquisition in a layout, by its name alone."""
        if self._pattern is not None and self._pattern.fit(path.parts) is not None:
            return True
        return any(_NAMES[name].fullmatch(path.name) for name in self._wanted)

    def recognise(self, path: Path) -> Layout | None:
        """The acquisition that a folder or a file belongs to, finished or still growing.

        Parameters
        ----------
        path : pathlib.Path
            A dataset's folder, or a folder or file in it. All lead to the same `Layout.path`, which may
            lie above the folder that is watched.

        Returns
        -------
        Layout or None
            None when it isn't one that is looked for, when it can't be read, or when nothing that tells
            is there yet: ask again when something changed.
        """
        try:
            if self._pattern is not None:
                layout = PlaneFiles.at(path, self._pattern, self._is_finished)
                if layout is not None:
                    return layout
            return next((found for name in self._wanted if (found := _LAYOUTS[name](path))), None)
        except (OSError, SourceError) as error:
            logger.debug("%s: not recognised (%s)", path, error)
            return None


def recognise(path: Path) -> Layout | None:
    """The acquisition that Micro-Manager or pycromanager wrote; see `Recognition.recognise`."""
    return Recognition().recognise(path)
