"""Finds a profile by its path, or a shipped one by its name."""

from __future__ import annotations

from pathlib import Path

from live_restore.errors import ProfileError

__all__ = ["find_profile", "shipped_profiles"]


def shipped_profiles() -> dict[str, Path]:
    """Names and files of the profiles that come with the program."""
    package = Path(__file__).resolve().parents[1]
    # In an installed package they lie inside it, in a source tree beside it.
    folders = (package / "profiles", package.parent / "profiles")
    folder = next((folder for folder in folders if folder.is_dir()), folders[0])
    return {file.stem: file for file in sorted(folder.glob("*.toml"))}


def find_profile(name: str) -> Path:
    """The file of a profile.

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
