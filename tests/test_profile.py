from pathlib import Path

import pytest

from live_restore.cli.profiles import find_profile, shipped_profiles
from live_restore.errors import ProfileError
from live_restore.profile import FolderSource, load_profile, parse_profile

GOOD = """
[source]
kind = "folder"
path = "today"
[model]
path = "default"
device = "auto"
[publish]
endpoint = "tcp://127.0.0.1:5556"
control = "tcp://127.0.0.1:5557"
[write]
folder = "today-restored"
"""


def test_the_profile_of_the_readme_is_valid(tmp_path: Path) -> None:
    profile = parse_profile(GOOD, tmp_path / "p.toml")
    assert isinstance(profile.source, FolderSource)
    assert profile.source.path == tmp_path / "today"
    assert profile.write is not None
    assert profile.write.folder == tmp_path / "today-restored"
    assert str(profile.model.path) == "default"


def test_a_profile_cannot_be_changed() -> None:
    profile = parse_profile(GOOD, Path("p.toml"))
    with pytest.raises(ValueError, match="frozen"):
        profile.model = None  # type: ignore[misc, assignment]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(
            ("path =", "pth ="), ["source.pth = 'today'", "did you mean 'path'"], id="key"
        ),
        pytest.param(('path = "today"', ""), ["source.path: is missing"], id="missing key"),
        pytest.param(("[model]", "[modle]"), ["modle", "did you mean 'model'"], id="table"),
        pytest.param(('"folder"', '"foldr"'), ["'foldr'", "did you mean 'folder'"], id="kind"),
        pytest.param(
            ('kind = "folder"', ""), ["source.kind: is missing", "simulated"], id="no kind"
        ),
        pytest.param(('"auto"', '"gpu"'), ["model.device = 'gpu'", "cuda"], id="device"),
        pytest.param(('"auto"', "7"), ["model.device = 7", "string"], id="type"),
        pytest.param(
            ("127.0.0.1:5556", "0.0.0.0:5556"),
            ["publish.endpoint", "0.0.0.0", "loopback", "ssh -L"],
            id="open endpoint",
        ),
        pytest.param((":5556", ":99999"), ["publish.endpoint", "port"], id="port"),
        pytest.param((":5556", ""), ["publish.endpoint", "port is missing"], id="no port"),
        pytest.param(("tcp://", "http://"), ["publish.endpoint", "tcp://"], id="scheme"),
        pytest.param(("today-restored", "today"), ["write.folder", "watched folder"], id="loop"),
        pytest.param(('"today"', '"D:\\scope"'), ["not valid TOML", "'single quotes'"], id="toml"),
        pytest.param(('"today"', '"D:\\today"'), ["source.path", "'single quotes'"], id="tab"),
    ],
)
def test_an_error_names_key_value_and_remedy(
    change: tuple[str, str], expected: list[str], tmp_path: Path
) -> None:
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, tmp_path / "p.toml")
    for part in ("p.toml", *expected):
        assert part in str(caught.value)


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace('path = "today"', "pth = 1").replace('"auto"', '"gpu"')
    with pytest.raises(ProfileError) as caught:
        parse_profile(text, tmp_path / "p.toml")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_each_shipped_profile_is_valid(name: str) -> None:
    load_profile(find_profile(name))


def test_shipped_profiles_are_found() -> None:
    assert shipped_profiles().keys() == {
        "cpu-only",
        "demo",
        "democam",
        "ingest",
        "micromanager",
        "multi-gpu",
        "own-acquisition",
        "watched-folder",
    }


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_each_shipped_profile_says_in_its_first_line_what_it_is_for(name: str) -> None:
    lines = shipped_profiles()[name].read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines[0]) < 120
    assert sum("# " in line for line in lines) >= 3


def test_an_unknown_profile_names_the_shipped_ones() -> None:
    with pytest.raises(ProfileError, match="watched-folder"):
        find_profile("nonesuch")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="can't be read"):
        load_profile(path)


@pytest.mark.parametrize(
    "encoding",
    [
        pytest.param("utf-16", id="as PowerShell's > writes it"),
        pytest.param("utf-8-sig", id="as Notepad writes it"),
    ],
)
def test_a_profile_is_read_as_windows_writes_it(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "my.toml"
    text = shipped_profiles()["watched-folder"].read_text(encoding="utf-8")
    path.write_bytes(text.replace("\n", "\r\n").encode(encoding))
    assert load_profile(path).source.kind == "folder"


@pytest.mark.parametrize("name", sorted(shipped_profiles()))
def test_each_shipped_profile_survives_any_code_page(name: str) -> None:
    assert shipped_profiles()[name].read_bytes().isascii()
