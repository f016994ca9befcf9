"""Asking a person to do something, at the terminal."""

from __future__ import annotations

import sys

from live_restore.errors import SourceError

__all__ = ["wait_for_return"]


def wait_for_return(command: str, is_answered: bool, text: str) -> None:
    """Wait for the return key.

    Parameters
    ----------
    command : str
        Which asks.
    is_answered : bool
        Beforehand, by ``--yes``: nothing is asked.
    text : str
        What to do first.

    Raises
    ------
    SourceError
        Nobody can answer.
    """
    if is_answered:
        return
    print(f"{text} Then press Return (Ctrl-C ends): ", end="", file=sys.stderr, flush=True)
    if not sys.stdin.readline():
        raise SourceError(
            f"{command}: nobody is there to see to the light (standard input is at its end); with --yes "
            "nothing is asked"
        )
