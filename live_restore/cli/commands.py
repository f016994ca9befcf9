"""``live-restore reload`` and ``live-restore drain``: commands to a running daemon that has keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.client import Control

__all__ = ["add_command", "open_control"]


def add_command(commands: Any) -> None:
    """Add both commands to the parser's."""
    for name, text in (
        ("reload", "have a running daemon read its profile again and use its model"),
        ("drain", "have a running daemon take no more, restore what waits, and end"),
    ):
        parser: argparse.ArgumentParser = commands.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}. The daemon must have keys ([publish] keys), since it "
            "takes commands only from operators: of those who can read its keys on its own PC, and of "
            "those with the file of an operator.",
        )
        parser.add_argument(
            "profile", help="the daemon's: a TOML file, or the name of a shipped one"
        )
        parser.add_argument(
            "--keys", type=Path, help="an operator's file (default: the daemon's own)"
        )
        parser.set_defaults(run=_run, command=name)


def _run(options: argparse.Namespace) -> int:
    with open_control(options.profile, options.keys) as control:
        print(control.reload() if options.command == "reload" else control.drain())
    return 0


def open_control(name: str, keys_file: Path | None = None) -> Control:
    """The control port of a profile's daemon, with an operator's keys; enter it to use it.

    Parameters
    ----------
    name : str
        The profile: a TOML file, or the name of a shipped one.
    keys_file : pathlib.Path, optional
        An operator's; without it, the daemon's own.

    Raises
    ------
    ProfileError
        It has no control port, or takes no commands.
    KeyFileError
        The keys can't be read.
    """
    from live_restore.cli.profiles import open_profile
    from live_restore.client import Control
    from live_restore.errors import ProfileError
    from live_restore.keys import ClientKeys, open_key_folder

    publish = open_profile(name).publish
    if publish is None or publish.control is None:
        raise ProfileError(f"profile {name}: its daemon has no control port")
    folder = open_key_folder(publish.keys)
    if folder is None:
        raise ProfileError(
            f"profile {name}: its daemon has no keys ([publish] keys), and takes no commands "
            "without; stop or reload it where it was started"
        )
    keys = ClientKeys.load(keys_file) if keys_file else folder.own_client()
    return Control(publish.control, keys=keys)
