"""The names of files of one plane each, as a pattern in the profile tells them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self, get_args

__all__ = ["NamePattern", "PlaneField", "check_pattern"]

PlaneField = Literal["position", "channel", "time", "z"]
"""What a file's name may tell of its plane."""

_FIELDS: tuple[str, ...] = get_args(PlaneField)
_NUMBERS = ("time", "z")
_SUFFIXES = (".tif", ".tiff")
_PIECE = re.compile(r"\{([^{}]*)\}|(\*)|([^{}*]+)|([{}])")
_EXAMPLE = '"{channel}_{time}_{z}.tif"'


@dataclass(frozen=True)
class NamePattern:
    """A pattern of names, taken apart.

    Digits are always taken to the last one of them. ``{channel}`` and ``{position}`` are the shortest
    text that fits, the first field's before the second's; ``*`` is the longest: of ``run_1_GFP_3.tif``,
    ``*_{channel}_{z}.tif`` takes channel GFP, and ``{channel}_{z}.tif`` channel run_1_GFP. Upper and
    lower case differ. Names that begin with a dot only fit a pattern that does.

    Attributes
    ----------
    text : str
        The pattern as the profile has it.
    folders : tuple of re.Pattern
        What the names of the folders above a file must match, the uppermost first.
    file : re.Pattern
        What the name of the file must match.
    """

    text: str
    folders: tuple[re.Pattern[str], ...]
    file: re.Pattern[str]

    @classmethod
    def parse(cls, text: str) -> Self:
        """A pattern from its text.

        Raises
        ------
        ValueError
            It isn't one; the message says what was expected, what came and what to do.
        """
        if not text.isprintable():
            raise ValueError(
                "a backslash in double quotes became an invisible character: write / between folders"
            )
        if "\\" in text:
            raise ValueError("holds a backslash: write / between folders")
        names = text.split("/")
        if any(name in ("", ".", "..") for name in names):
            raise ValueError(
                f"holds a folder without a name: it begins in the dataset's own folder, as {_EXAMPLE} "
                'or "{position}/{channel}_{z}.tif"'
            )
        if "**" in text:
            raise ValueError(
                "holds **: * is any text within one name; write */ for each folder between"
            )
        if not text.lower().endswith(_SUFFIXES):
            raise ValueError(
                f"must end with .tif or .tiff, the only files that are read plane by plane, as {_EXAMPLE}"
            )
        _check_fields([piece for name in names for piece in _pieces(name)])
        *folders, file = (re.compile(_expression(name)) for name in names)
        return cls(text, tuple(folders), file)

    def fit(self, names: Sequence[str]) -> Mapping[str, str] | None:
        """What a path's last names say by field, or None where they don't fit.

        Parameters
        ----------
        names : sequence of str
            Of folders and the file; those before what the pattern tells don't matter.
        """
        expressions = (*self.folders, self.file)
        if len(names) < len(expressions):
            return None
        said: dict[str, str] = {}
        # The file's own name first: of most files that is enough to see that they don't fit.
        for name, expression in zip(reversed(names), reversed(expressions), strict=False):
            match = expression.fullmatch(name)
            if match is None:
                return None
            said |= match.groupdict()
        return said


def check_pattern(text: str) -> str:
    """The text of a pattern, unchanged.

    Raises
    ------
    ValueError
        See `NamePattern.parse`.
    """
    return NamePattern.parse(text).text


def _pieces(name: str) -> Iterator[tuple[str | None, str]]:
    """Fields, stars and text between, in order: a field's name or "*" or None, and what was written."""
    for match in _PIECE.finditer(name):
        field, star, literal, brace = match.groups()
        if brace:
            raise ValueError(f"holds a single {brace}: a field has both braces, as {_EXAMPLE}")
        if field is not None and field not in _FIELDS:
            close = difflib.get_close_matches(field.split(":")[0].lower(), _FIELDS, 1, 0.5)
            known = ", ".join(f"{{{one}}}" for one in _FIELDS)
            hint = (
                f"did you mean {{{close[0]}}}?" if close else f"known: {known}, and * for the rest"
            )
            raise ValueError(f"there is no field {{{field}}}; {hint}")
        yield field or star, match.group() if literal is None else literal


def _check_fields(pieces: Sequence[tuple[str | None, str]]) -> None:
    fields = [field for field, _ in pieces if field in _FIELDS]
    for field in fields:
        if fields.count(field) > 1:
            raise ValueError(
                f"holds {{{field}}} {fields.count(field)} times: write * for all but one"
            )
    if "z" not in fields:
        raise ValueError(f"lacks {{z}}, the plane's number in its stack, as in {_EXAMPLE}")


def _expression(name: str) -> str:
    """The regular expression of a pattern of one name."""
    pieces = list(_pieces(name))
    kinds = [None, *(kind for kind, _ in pieces), None]
    # As a shell does: what programs hide isn't meant.
    parts = [] if name.startswith(".") else [r"(?!\.)"]
    for (kind, literal), before, after in zip(pieces, kinds, kinds[2:], strict=False):
        if kind is not None and after is not None:
            _check_neighbours(kind, after)
        if kind is None:
            parts.append(re.escape(literal))
        elif kind == "*":
            parts.append(r"[^/]*")
        elif kind in _NUMBERS:
            first = r"(?<![0-9])" if before else ""
            last = r"(?![0-9])" if after else ""
            parts.append(rf"{first}(?P<{kind}>[0-9]+){last}")
        else:
            parts.append(rf"(?P<{kind}>[^/]+?)")
    return "".join(parts)


def _check_neighbours(first: str, second: str) -> None:
    """Between two digits, or between two texts, nothing tells where one ends."""
    if (first in _NUMBERS) == (second in _NUMBERS):
        one, other = (kind if kind == "*" else f"{{{kind}}}" for kind in (first, second))
        raise ValueError(
            f"nothing tells where {one} ends and {other} begins: put the text that stands between "
            f"them in the names there, as in {_EXAMPLE}"
        )
