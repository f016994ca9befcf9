"""``live-restore dose``: whether a running daemon may change the light, and what it stands at."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["add_command", "dose_lines"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "dose",
        help="whether a running daemon may change the light",
        description="on: let the daemon change the light as its profile's [dose] says; what you have set by now is "
        "yours. off: your own light comes back with the next volume, and stays. status: what it stands at. on and "
        "off are commands, for which the daemon must have keys ([publish] keys); without, write control = "
        '"off" in its profile and reload it where it was started (SIGHUP).',
    )
    parser.add_argument("do", choices=["on", "off", "status"])
    parser.add_argument("profile", help="the daemon's: a TOML file, or the name of a shipped one")
    parser.add_argument("--keys", type=Path, help="an operator's file (default: the daemon's own)")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.cli.commands import open_control
    from live_restore.cli.profiles import open_profile
    from live_restore.cli.status import ask_daemon
    from live_restore.errors import NoAnswerError

    if options.do != "status":
        with open_control(options.profile, options.keys) as control:
            print(control.dose(on=options.do == "on"))
        return 0
    answer = ask_daemon(open_profile(options.profile))
    if answer is None:
        raise NoAnswerError(f"profile {options.profile}: no daemon answers; is it running?")
    print("\n".join(dose_lines(answer.get("dose") or {})))
    return 0


def dose_lines(told: Mapping[str, Any]) -> list[str]:
    """What a daemon's status says of its dose control, for people."""
    control = told.get("control", "off")
    lines = [f"dose control: {control}"]
    if told.get("frozen"):
        lines[0] += f", frozen: {told['frozen']}"
    for light in told.get("lights", ()):
        name = f"exposure of {light['channel']}" if light["channel"] else told["device_property"]
        share = f", {100 * light['value'] / light['own']:.0f} % of yours" if light["own"] else ""
        remark = f" ({light['remark']})" if light["remark"] else ""
        lines.append(f"{name}: {light['value']:g}{share}{remark}")
    return lines
