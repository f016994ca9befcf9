"""Programs of ours that are frozen, killed, started again and measured."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from tests.conftest import wait_for

PATIENCE_S = 120.0
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}
"""Of each program: three daemons share the processor."""


def works(*command: object) -> bool:
    """Whether a program did what it should."""
    try:
        return not subprocess.run([*map(str, command)], capture_output=True, check=False).returncode
    except OSError:  # there is none of this name
        return False


class Program:
    """A command of ours in a process that may be frozen, killed, started again and measured."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.log, self.output = folder, folder / "log", folder / "output"
        self.samples: dict[int, list[tuple[float, ...]]] = {}  # by process
        self._arguments = arguments
        self.log.touch()
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "live_restore", *self._arguments]
        with self.log.open("ab") as log, self.output.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=log, env=os.environ | ENVIRONMENT
            )

    def close(self) -> None:
        self.process.kill()
        self.process.wait()

    def restart(self, rng: random.Random) -> None:
        self.process.kill()
        self.process.wait()
        time.sleep(rng.uniform(0, 3))
        self.start()

    def measure(self) -> None:
        """Note threads, descriptors and MiB."""
        with suppress(psutil.Error):  # it was killed just now
            one = psutil.Process(self.process.pid)
            taken = one.num_threads(), one.num_fds(), one.memory_info().rss / 2**20
            self.samples.setdefault(one.pid, []).append(taken)

    def growth(self) -> list[tuple[float, float]]:
        """What `measure` noted in the second and in the last quarter, for the process that lived longest.

        Medians of threads and descriptors, which come and go with connections; of memory the least, since a second model
        is there while it takes the first one's place.
        """
        samples = max(self.samples.values(), key=len)
        quarter = max(1, len(samples) // 4)
        parts = samples[quarter : 2 * quarter], samples[-quarter:]
        before, after = (
            [
                take(one)
                for take, one in zip((median, median, min), zip(*part, strict=True), strict=True)
            ]
            for part in parts
        )
        return list(zip(before, after, strict=True))

    def await_word(self, word: bytes, act: Callable[[], Any], file: str = "log") -> None:
        """Do something, and wait until the program says after it what it is to say."""
        path = self.folder / file
        begin = path.stat().st_size

        def said() -> Any:
            with path.open("rb") as opened:
                opened.seek(begin)
                return re.search(word, opened.read())

        act()
        wait_for(said, f"{word!r} in {path}", PATIENCE_S)


def freeze(process: subprocess.Popen[Any], rng: random.Random) -> None:
    """Stop a process for some seconds."""
    process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(2, 8))
    process.send_signal(signal.SIGCONT)
