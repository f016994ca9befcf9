"""``live-restore status``: what became of a profile's volumes."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from live_restore.ledger import Counts, Problem
    from live_restore.profile import Profile

__all__ = ["add_command", "ask_daemon"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "status",
        help="how many volumes were seen, restored, skipped, and what waits",
        description="Reads a profile's ledger, whether its daemon runs or not, and asks the daemon "
        "what it is doing if it does.",
    )
    parser.add_argument("profile", help="a TOML file, or the name of a shipped profile")
    parser.add_argument("--json", action="store_true", help="as one line of JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.cli.dose import dose_lines
    from live_restore.cli.profiles import open_profile
    from live_restore.ledger import Counts, Problem
    from live_restore.record import ledger_file, open_ledger

    profile = open_profile(options.profile)
    file = ledger_file(profile)
    ledger = open_ledger(profile)
    counts, problems = Counts(), list[Problem]()
    if ledger is not None and file is not None and file.is_file():
        with ledger:
            counts, problems = ledger.counts(), ledger.problems()
    answer = ask_daemon(profile)
    source = None if answer is None else str(answer.get("source") or "running")
    model = answer.get("model") if answer else None
    if options.json:
        body = dataclasses.asdict(counts) | {
            "eta_s": _eta_s(counts),
            "source": source,
            "model": model,
            "dose": answer.get("dose") if answer else None,
            "ledger": None if file is None else str(file),
            "problems": [dataclasses.asdict(one) for one in problems],
        }
        print(json.dumps(body))
    else:
        _print(counts, problems, source, model)
        _print_place(file)
        if answer and (dose := answer.get("dose")) and dose.get("control") != "off":
            print("\n".join(dose_lines(dose)))
    return 0


def _print_place(ledger: Path | None) -> None:
    """Where the numbers come from: another user's daemon, or a service, may keep its ledger elsewhere."""
    if ledger is None:
        print("no ledger: a simulated microscope keeps none")
    else:
        print(f"ledger: {ledger}{'' if ledger.is_file() else ' (not there yet)'}")


def ask_daemon(profile: Profile) -> Mapping[str, Any] | None:
    """What the daemon says of itself; None when none answers."""
    from live_restore.client import Control
    from live_restore.errors import KeyFileError, ProtocolError
    from live_restore.keys import open_key_folder

    if profile.publish is None or profile.publish.control is None:
        return None
    folder = open_key_folder(profile.publish.keys)
    try:
        keys = folder.own_client() if folder is not None else None
    except KeyFileError:
        return None  # nor can a daemon run with them
    with Control(profile.publish.control, timeout_s=1.0, keys=keys) as control:
        try:
            return control.status()
        except ProtocolError:
            return None


def _eta_s(counts: Counts) -> float | None:
    """When what waits will be restored at the present rate."""
    if not counts.waiting or not counts.restored_lately:
        return None
    return counts.waiting * counts.lately_s / counts.restored_lately


def _print(
    counts: Counts,
    problems: list[Problem],
    source: str | None,
    model: Mapping[str, Any] | None,
) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "seen", "restored", "written", "waiting", "skipped", "failed", "per minute", "ETA"
    )
    eta_s = _eta_s(counts)
    table.add_row(
        str(counts.seen),
        str(counts.restored + counts.written),
        str(counts.written),
        str(counts.waiting),
        str(counts.skipped),
        str(counts.failed),
        f"{60 * counts.restored_lately / counts.lately_s:.1f}",
        "" if eta_s is None else f"{eta_s / 60:.0f} min",
    )
    console = Console()
    console.print("daemon: " + escape(source or "doesn't answer"))
    if model:
        difference = model.get("difference")
        exact = "" if difference is None else f", within {difference:.1e} of float32"
        console.print(
            f"model: {model['name']} on {model['device']} in {model['precision']}{exact}",
            markup=False,
        )
    console.print(table)
    for problem in problems:
        console.print(f"{problem.state}: {problem.key}: {problem.reason}", markup=False)
    if problems:
        console.print("live-restore retry has skipped and failed ones restored again")
