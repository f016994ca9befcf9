"""``live-restore run``: the daemon."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.profile import Profile
    from live_restore.service import Service

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "run",
        help="restore and publish what a microscope acquires",
        description="Runs until its source ends or it is told to stop. The first Ctrl-C or SIGTERM "
        "restores what waits; the second drops it. SIGHUP reads the profile's [model], [guard] and [dose] again.",
    )
    parser.add_argument("profile", help="a TOML file, or the name of a shipped profile")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line per volume")
    parser.add_argument(
        "--log",
        choices=("auto", "human", "journal", "json"),
        default="auto",
        help="how lines of the log look: for people, with journald's priorities, or as JSON (default: journal "
        "under systemd, else human)",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.cli.profiles import open_profile
    from live_restore.errors import LiveRestoreError
    from live_restore.notifier import Notifier
    from live_restore.service import Service

    def read() -> Profile:
        return open_profile(options.profile)

    notifier = Notifier.from_environment()
    try:
        service = Service(read(), notifier, read)
        return _run_service(service)
    except LiveRestoreError as error:
        notifier.status(f"could not start: {error}")
        raise


def _run_service(service: Service) -> int:
    handlers = dict.fromkeys((signal.SIGINT, signal.SIGTERM), service.stop)
    if hasattr(signal, "SIGHUP"):  # not on Windows: live-restore reload
        handlers[signal.SIGHUP] = service.reload
    before = {
        number: signal.signal(number, lambda *_, handler=handler: handler())
        for number, handler in handlers.items()
    }
    try:
        return 0 if service.run() else 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
