"""``live-restore``: the commands, their common options, errors and exit codes.

Exit codes: 0 done, 1 died running, 2 usage or profile, 3 could not start.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence

from live_restore import __version__
from live_restore.cli import (
    bench,
    calibrate,
    characterize,
    check,
    commands,
    demo,
    doctor,
    dose,
    evaluate,
    export_model,
    import_model,
    keys,
    ladder,
    listen,
    models,
    profiles,
    restore,
    retry,
    run,
    status,
    train,
    view,
)
from live_restore.errors import LiveRestoreError, ProfileError
from live_restore.log_format import LogFormat, choose_format, formatter_for
from live_restore.log_limit import RepeatLimit

__all__ = ["build_parser", "main"]

_COMMANDS = (
    demo,
    profiles,
    check,
    run,
    view,
    listen,
    status,
    doctor,
    retry,
    commands,
    dose,
    keys,
    restore,
    evaluate,
    calibrate,
    characterize,
    ladder,
    train,
    models,
    bench,
    import_model,
    export_model,
)


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="live-restore",
        description="Live restoration of fluorescence z-stacks while they are acquired.",
    )
    parser.add_argument("--version", action="version", version=f"live-restore {__version__}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        module.add_command(subparsers)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = build_parser().parse_args(arguments)
    _configure_logging(getattr(options, "verbose", False), getattr(options, "log", "auto"))
    try:
        return int(options.run(options))
    except ProfileError as error:
        _say(error)
        return 2
    except LiveRestoreError as error:
        _say(error)
        return int(getattr(options, "exit_code", 3))  # 2 where a model is the command's argument
    except KeyboardInterrupt:
        return 130


def _say(error: Exception) -> None:
    print(f"live-restore: {error}", file=sys.stderr)


def _configure_logging(is_verbose: bool, log_format: LogFormat) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit())  # nobody may fill the disk by what is told of his messages
    choose_format(log_format)
    handler.setFormatter(formatter_for(log_format))
    logging.basicConfig(
        handlers=[handler],
        level=logging.DEBUG if is_verbose else logging.INFO,
    )
    logging.captureWarnings(True)
    # watchdog, of a folder that it meets twice while nested folders appear; it goes on.
    warnings.filterwarnings("ignore", "Callback with id .* already exists", RuntimeWarning)
    for name in ("watchdog", "asyncio", "numcodecs", "ndstorage", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # What tifffile has to say of a damaged file becomes one warning of ours.
    logging.getLogger("tifffile").propagate = False
