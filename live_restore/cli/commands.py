"""``live-restore reload`` and ``live-restore drain``: commands to a running daemon that has keys."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_command"]


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
    from live_restore.cli.profiles import open_profile
    from live_restore.client import Control
    from live_restore.errors import ProfileError
    from live_restore.keys import ClientKeys, open_key_folder

    publish = open_profile(options.profile).publish
    if publish is None or publish.control is None:
        raise ProfileError(f"profile {options.profile}: its daemon has no control port")
    folder = open_key_folder(publish.keys)
    if folder is None:
        raise ProfileError(
            f"profile {options.profile}: its daemon has no keys ([publish] keys), and takes no commands "
            "without; stop or reload it where it was started"
        )
    keys = ClientKeys.load(options.keys) if options.keys else folder.own_client()
    with Control(publish.control, keys=keys) as control:
        print(control.reload() if options.command == "reload" else control.drain())
    return 0
