"""Processes of ours beside this one, for what must not share its fate.

Micro-Manager's bridge may hang for ever, and an acquisition must outlive this program: each has a
process of its own. It is given its orders, a line of JSON, and later words, a line each, on its
standard input; what it finds comes back through the plane port. When its standard input ends, this
program is gone.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from live_restore.light import Adjustment
from live_restore.log_format import chosen_format, formatter_for

__all__ = ["GONE", "LIGHT", "ChildProcess", "Orders", "end_at_once", "read_adjustment"]

logger = logging.getLogger(__name__)

GONE = "gone"
"""The word that a child hears when its parent is gone."""

LIGHT = "light "
"""Begins the word by which a child is asked for other light; JSON follows."""


class ChildProcess:
    """A process that runs one of our modules.

    It doesn't hear the terminal's Ctrl-C: this program ends it in its own time.

    Parameters
    ----------
    module : str
        As in ``python -m``; must call `Orders` first.
    orders : mapping
        JSON values.

    Attributes
    ----------
    is_left : bool
        It goes on without this program.
    """

    def __init__(self, module: str, orders: Mapping[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self.is_left = False
        self._speaking = threading.Lock()
        level = logging.getLogger().getEffectiveLevel()
        self.tell(json.dumps({**orders, "log_level": level}))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tell(self, word: str) -> None:
        """Say a word, from any thread; one that is gone doesn't hear it."""
        pipe = self._process.stdin
        with self._speaking:
            if pipe is None or pipe.closed:
                return
            try:
                pipe.write(word + "\n")
                pipe.flush()
            except OSError as error:
                logger.debug("process %d doesn't hear %r: %s", self.pid, word[:80], error)

    def tell_adjustment(self, adjustment: Adjustment) -> None:
        """Ask for other light."""
        self.tell(LIGHT + json.dumps({"channel": adjustment.channel, "value": adjustment.value}))

    def await_end(self, timeout_s: float) -> bool:
        """Wait for it to end by itself; whether it did."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        self._close()
        return True

    def kill(self) -> None:
        """End it at once, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        self._close()

    def leave(self) -> None:
        """Let it go on without this program, which it is told by the end of its standard input."""
        self.is_left = True
        self._close()
        # It is meant to outlive this object: without a status it isn't warned of as forgotten.
        self._process.returncode = self._process.returncode or 0

    def _close(self) -> None:
        if self._process.stdin is not None:
            try:
                with self._speaking:
                    self._process.stdin.close()
            except OSError as error:
                logger.debug("process %d: %s", self.pid, error)


class Orders:
    """In the child: what it was ordered, and the words that follow.

    Parameters
    ----------
    on_word : callable, optional
        Called with each word, and with `GONE` last, from a thread of its own.

    Attributes
    ----------
    values : dict
        The orders.
    """

    def __init__(self, on_word: Callable[[str], None] | None = None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._words: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._on_word = on_word or self._words.put
        self.values: dict[str, Any] = json.loads(sys.stdin.readline() or "{}")
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(formatter_for(chosen_format()))
        level = self.values.get("log_level", logging.INFO)
        logging.basicConfig(handlers=[handler], level=level)
        for name in ("ndstorage", "asyncio"):
            logging.getLogger(name).setLevel(logging.WARNING)
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def next_word(self, timeout_s: float | None = None) -> str | None:
        """The next word, or None when none came in time; without `on_word` only."""
        try:
            return self._words.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def _listen(self) -> None:
        for line in sys.stdin:
            self._on_word(line.rstrip("\n"))
        self._on_word(GONE)


def read_adjustment(word: str) -> Adjustment:
    """In the child: what a word asks for that begins with `LIGHT`."""
    asked = json.loads(word.removeprefix(LIGHT))
    return Adjustment(str(asked["channel"]), float(asked["value"]))


def end_at_once(code: int) -> None:
    """End this process without waiting for threads or exit handlers, which a dead bridge hangs."""
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
