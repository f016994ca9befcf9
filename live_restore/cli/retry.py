"""``live-restore retry``: failed and skipped volumes are restored again."""

from __future__ import annotations

import argparse
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "retry",
        help="have failed and skipped volumes restored again",
        description="Marks the failed and skipped volumes of a watched folder as waiting. A daemon that "
        "runs takes them with its next look at the folder, another one when it starts.",
    )
    parser.add_argument("profile", help="a TOML file, or the name of a shipped profile")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.cli.profiles import open_profile
    from live_restore.errors import ProfileError
    from live_restore.profile import FolderSource
    from live_restore.record import ledger_file, open_ledger

    profile = open_profile(options.profile)
    if not isinstance(profile.source, FolderSource):
        raise ProfileError(
            f"{options.profile}: only volumes of a watched folder can be had again; this source is "
            f"{profile.source.kind!r}"
        )
    file, ledger = ledger_file(profile), open_ledger(profile)
    if ledger is None or file is None or not file.is_file():
        print(f"nothing was restored by {options.profile} yet")
        return 0
    with ledger:
        print(f"{ledger.retry()} volumes are restored again")
    return 0
