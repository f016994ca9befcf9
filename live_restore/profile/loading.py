"""Profiles read from TOML, and each mistake in them told with its remedy."""

from __future__ import annotations

import codecs
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from live_restore.errors import ProfileError
from live_restore.profile.sources import SourceSettings
from live_restore.profile.tables import Profile

__all__ = ["load_profile", "parse_profile"]


def load_profile(path: Path, folder: Path | None = None) -> Profile:
    """Read and check a profile.

    Parameters
    ----------
    path : pathlib.Path
        A TOML file.
    folder : pathlib.Path, optional
        Where relative paths in it count from; the profile's own folder otherwise.

    Raises
    ------
    ProfileError
        Unreadable or wrong; the message names each key, its value and a remedy, a line each.
    """
    try:
        text = _decode(path.read_bytes())
    except FileNotFoundError as error:
        raise ProfileError(f"profile {path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path}: can't be read: {error}") from error
    return parse_profile(text, path, folder)


def _decode(written: bytes) -> str:
    """TOML is UTF-8; PowerShell 5 writes UTF-16 into a file, and Notepad a mark before UTF-8."""
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return written.decode("utf-16" if written.startswith(marks) else "utf-8-sig")


def parse_profile(text: str, path: Path, folder: Path | None = None) -> Profile:
    """A profile from TOML text; `path` names it in messages. See `load_profile`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(
            f"profile {path}: not valid TOML: {error}. In Windows paths write / or use 'single quotes'"
        ) from error
    try:
        context = {"folder": folder or path.resolve().parent}
        return Profile.model_validate(tables, context=context)
    except ValidationError as error:
        lines = [
            _explain(one["loc"], one["type"], one["msg"], one["input"]) for one in error.errors()
        ]
        raise ProfileError("\n".join(f"profile {path}: {line}" for line in lines)) from error


def _explain(loc: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    """One validation error in the words of the profile's author."""
    tables = _tables_at(loc[:-1])
    names = [str(part) for part in loc if part not in _SOURCE_KINDS]
    key = ".".join(names)
    if kind == "extra_forbidden":
        known = sorted({name for table in tables for name in table.model_fields})
        close = difflib.get_close_matches(names[-1], known, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{key} = {value!r}: there is no such key; {hint}"
    if kind == "missing":
        return f"{key}: is missing; {_help(loc)}"
    if kind == "union_tag_not_found":
        return f"{key}.kind: is missing; one of {', '.join(_SOURCE_KINDS)}"
    if kind == "union_tag_invalid":
        given = value.get("kind") if isinstance(value, Mapping) else value
        close = difflib.get_close_matches(str(given), _SOURCE_KINDS, 1, 0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{key}.kind = {given!r}: must be one of {', '.join(_SOURCE_KINDS)}{hint}"
    message = message.removeprefix("Value error, ")
    if not names:
        return message
    return f"{key} = {value!r}: {message[:1].lower()}{message[1:]}. {_help(loc)}".rstrip()


_SOURCE_KINDS = tuple(
    str(get_args(table.model_fields["kind"].annotation)[0])
    for table in get_args(get_args(SourceSettings)[0])
)


def _tables_at(loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The tables that a place in the profile may belong to."""
    tables: list[type[BaseModel]] = [Profile]
    for part in loc:
        if isinstance(part, int):
            continue  # an item of a list: its table is the list's
        if part in _SOURCE_KINDS:
            tables = [t for t in tables if part in get_args(t.model_fields["kind"].annotation)]
        else:
            fields = [t.model_fields[str(part)] for t in tables if str(part) in t.model_fields]
            tables = [member for field in fields for member in _members(field.annotation)]
    return tables


def _members(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) in (Union, UnionType, Annotated, tuple):
        return [member for part in get_args(annotation) for member in _members(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _help(loc: tuple[int | str, ...]) -> str:
    """The docstring of the field at a place, on one line."""
    for end in range(len(loc), 0, -1):
        for table in _tables_at(loc[: end - 1]):
            field = table.model_fields.get(str(loc[end - 1]))
            if field is not None and field.description:
                return " ".join(field.description.split())
    return ""
