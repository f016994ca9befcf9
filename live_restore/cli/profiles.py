"""``live-restore profiles``: the profiles that come with the program, to start one's own from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from live_restore.errors import ProfileError

if TYPE_CHECKING:
    from live_restore.profile import Profile

__all__ = ["add_command", "find_profile", "open_profile", "shipped_profiles"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "profiles",
        help="list the shipped profiles, or print one to start your own from",
        description="Without a name, lists the shipped profiles; with one, prints it: "
        "live-restore profiles watched-folder > mine.toml",
    )
    parser.add_argument("name", nargs="?", help="a shipped profile")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    shipped = shipped_profiles()
    if options.name is None:
        for name, path in shipped.items():
            first_line = path.read_text(encoding="utf-8").splitlines()[0]
            print(f"{name:16} {first_line.lstrip('# ')}")
        return 0
    if options.name not in shipped:
        raise ProfileError(f"profile {options.name}: not shipped; there are {', '.join(shipped)}")
    print(shipped[options.name].read_text(encoding="utf-8"), end="")
    return 0


def shipped_profiles() -> dict[str, Path]:
    """Names and files of the profiles that come with the program."""
    package = Path(__file__).resolve().parents[1]
    # In an installed package they lie inside it, in a source tree beside it.
    folders = (package / "profiles", package.parent / "profiles")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_profile(name: str) -> Path:
    """The file of a profile, by its path or by the name of a shipped one.

    Raises
    ------
    ProfileError
        Neither a file nor a shipped name.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = shipped_profiles()
    if name in shipped:
        return shipped[name]
    raise ProfileError(
        f"profile {name}: no such file, and none of the shipped profiles ({', '.join(shipped)})"
    )


def open_profile(name: str) -> Profile:
    """A checked profile; relative paths of a shipped one count from the current folder.

    Raises
    ------
    ProfileError
        Not found, or wrong.
    """
    from live_restore.profile import load_profile

    path = find_profile(name)
    is_shipped = path in shipped_profiles().values()
    return load_profile(path, Path.cwd() if is_shipped else None)
