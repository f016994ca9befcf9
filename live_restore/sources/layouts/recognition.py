"""Tells how an acquisition is laid out on disk."""

from __future__ import annotations

import logging
from pathlib import Path

from live_restore.errors import SourceError
from live_restore.sources.layouts.layout import Layout
from live_restore.sources.layouts.mm_separate import MMSeparate
from live_restore.sources.layouts.mm_stack import MMStack
from live_restore.sources.layouts.ndtiff import NDTiff

__all__ = ["recognise"]

logger = logging.getLogger(__name__)


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
