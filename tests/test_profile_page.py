"""The page of the profile names each key that there is, with its default, and no other."""

import re
import tomllib
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from live_restore.profile import Profile, SourceSettings
from live_restore.profile.sources import StagePosition

PAGE = Path(__file__).parents[1] / "docs" / "profile.md"
NEEDED, NONE = "needed", "none"
_ROW = re.compile(r"^\| `(\w+)` \| (.*?) \|", re.MULTILINE)


def documented() -> dict[str, dict[str, str]]:
    """Keys and defaults of each table, by its heading; a position's by its column's."""
    text = PAGE.read_text(encoding="utf-8")
    text = text.replace("| key of a position |", "## position\n")
    sections = re.split(r"^##+ ", text, flags=re.MULTILINE)[1:]
    found = {section.partition("\n")[0]: _ROW.findall(section) for section in sections}
    for heading, rows in found.items():
        assert len(rows) == len(dict(rows)), f"{heading}: a key stands there twice"
    return {heading: dict(rows) for heading, rows in found.items() if rows}


def tables() -> dict[str, type[BaseModel]]:
    """All tables of a profile, by their headings on the page."""
    found: dict[str, type[BaseModel]] = {"position": StagePosition}
    for source in get_args(get_args(SourceSettings)[0]):
        (kind,) = get_args(source.model_fields["kind"].annotation)
        found[f'kind = "{kind}"'] = source
    for name, field in Profile.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        table = [one for one in kinds if isinstance(one, type) and issubclass(one, BaseModel)]
        if name != "source":
            (found[f"[{name}]"],) = table
    return found


def default(told: str) -> Any:
    """What a cell says, in TOML's values."""
    return None if told == NONE else tomllib.loads(f"it = {told.strip('`')}")["it"]


def in_toml(value: Any) -> Any:
    """A default of the code, in TOML's values."""
    if isinstance(value, tuple):
        return [in_toml(one) for one in value]
    return value.as_posix() if isinstance(value, Path) else value


def test_each_table_of_a_profile_has_its_place_and_no_other() -> None:
    assert documented().keys() == tables().keys()


@pytest.mark.parametrize("heading", tables())
def test_a_table_has_the_keys_that_the_page_says(heading: str) -> None:
    assert list(documented()[heading]) == list(tables()[heading].model_fields)


@pytest.mark.parametrize(
    ("heading", "key"), [(name, key) for name, one in tables().items() for key in one.model_fields]
)
def test_a_key_has_the_default_that_the_page_says(heading: str, key: str) -> None:
    field, told = tables()[heading].model_fields[key], documented()[heading][key]
    if field.is_required():
        assert told == NEEDED
    else:
        assert told != NEEDED
        assert default(told) == in_toml(field.default)
