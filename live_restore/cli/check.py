"""``live-restore check``: tries everything that a profile needs."""

from __future__ import annotations

import argparse
import logging
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="try everything that a profile needs",
        description="Reads a profile, loads its model, opens its source, endpoints and folders, "
        "closes them again, and says what fails and what to do.",
    )
    parser.add_argument("profile", help="a TOML file, or the name of a shipped profile")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from live_restore.checks import check_profile
    from live_restore.cli.profiles import open_profile

    profile = open_profile(options.profile)
    logging.getLogger().setLevel(logging.WARNING)
    table = Table(
        "", "what", "found, or what to do", title=escape(options.profile), title_justify="left"
    )
    failed = 0
    for finding in check_profile(profile):
        failed += not finding.is_good
        mark = "[green]ok[/green]" if finding.is_good else "[red]FAILED[/red]"
        table.add_row(mark, finding.what, escape(finding.found))
    Console().print(table)
    return 2 if failed else 0
