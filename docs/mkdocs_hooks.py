"""For MkDocs: links that lead out of this folder are plain text on the site, which doesn't hold what they lead to."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:)([^)#]+)[^)]*\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Called by MkDocs with each page's text; on a Git host the link works as it is written."""

    def settled(link: re.Match[str]) -> str:
        folder = posixpath.dirname(page.file.src_uri)
        is_outside = posixpath.normpath(posixpath.join(folder, link[2])).startswith("../")
        return link[1] if is_outside else link[0]

    return _LINK.sub(settled, markdown)
