"""Tells how an acquisition is laid out on disk."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.profile import FolderLayout
from live_restore.sources.layouts.layout import Layout
from live_restore.sources.layouts.mm_separate import MMSeparate
from live_restore.sources.layouts.mm_stack import MMStack
from live_restore.sources.layouts.ndtiff import NDTiff

__all__ = ["Recognition", "recognise"]

logger = logging.getLogger(__name__)

# What Micro-Manager and pycromanager call the files of a dataset; only of those the bytes are asked.
_OF_A_DATASET = re.compile(r"NDTiff\.index|.*NDTiffStack(_\d+)?\.tif|.*_MMStack.*\.tif|img_.*\.tif")


class Recognition:
    """Recognises the layouts that a profile asks for.

    Parameters
    ----------
    layout : str
        "auto", or the only one that is looked for; "whole-files" for none.
    pattern : str, optional
        Of the names of acquisitions of one file per plane.
    """

    def __init__(self, layout: FolderLayout = "auto", pattern: str | None = None) -> None:
        self._layout = layout
        self._pattern = pattern

    def may_belong(self, path: Path) -> bool:
        """Whether a file may be of an acquisition in a layout, by its name alone."""
        return self._layout != "whole-files" and _OF_A_DATASET.fullmatch(path.name) is not None

    def recognise(self, path: Path) -> Layout | None:
        """See `recognise`."""
        return recognise(path)


def recognise(path: Path) -> Layout | None:
    """The acquisition that a folder or a file belongs to, finished or still growing.

    Parameters
    ----------
    path : pathlib.Path
        A dataset's folder, or a folder or file in it. All lead to the same `Layout.path`.

    Returns
    -------
    Layout or None
        None when it isn't one that Micro-Manager or pycromanager writes, when it can't be read, or
        when nothing that tells is there yet: ask again when something changed.
    """
    try:
        return NDTiff.at(path) or MMStack.at(path) or MMSeparate.at(path)
    except (OSError, SourceError) as error:
        logger.debug("%s: not recognised (%s)", path, error)
        return None
