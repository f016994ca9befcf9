"""``live-restore doctor``: all that a bug report needs, in one block to paste."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "doctor",
        help="what a bug report needs: versions, GPU, ports, disk, the last problems",
        description="Prints one block of text to paste. Looks only: a daemon that runs isn't disturbed. With a "
        "profile, its source, ports, folders and last problems too.",
    )
    parser.add_argument("profile", nargs="?", help="a TOML file, or the name of a shipped profile")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.cli.profiles import open_profile
    from live_restore.doctor import examine
    from live_restore.errors import ProfileError

    profile, problem = None, ""
    if options.profile is not None:
        try:
            profile = open_profile(options.profile)
        except ProfileError as error:
            problem = str(error)
    print("```")
    for heading, rows in examine(profile):
        print(f"[{heading}]", flush=True)
        for name, found in rows:
            print(f"  {name}: {found}")
    if problem:
        print(f"[profile]\n  ? {problem}")
    print("```")
    return 0
