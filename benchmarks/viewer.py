"""How well the viewer's page keeps up with a fast microscope, and whether it stays as it is.

python benchmarks/viewer.py [--volumes 500] [--interval 0.5] [--shape 64 512 512] [--view slice]

A publisher of two channels, `live-restore view`, and a page in headless Chromium, each a process. Prints how far the
page lags behind what was published last (in time points), the age at display, and the memory of each process
in the first and the last quarter. Without a GPU Chromium draws on the processor: blocks take it seconds.
"""

import argparse
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from live_restore.client import Announcement, Subscriber
from tests.browser import browsing
from tests.conftest import free_endpoints

KEYS = {"slice": "1", "ortho": "2", "max": "3", "block": "4"}


def main() -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=500, help="of both channels together")
    parser.add_argument("--interval", type=float, default=0.5, help="seconds per volume")
    parser.add_argument("--shape", nargs=3, default=["64", "512", "512"])
    parser.add_argument("--view", choices=KEYS, default="slice")
    options = parser.parse_args()
    endpoints = free_endpoints()
    points = options.volumes // 2
    python = [sys.executable, "-m"]
    timing = ["--interval", str(2 * options.interval), "--volumes", str(points)]
    publisher = subprocess.Popen(
        [*python, "tests.publishing", *endpoints, "--shape", *options.shape, *timing],
        cwd=Path(__file__).parents[1],
    )
    ports = [endpoints[0], "--control", endpoints[1], "--port", "0"]
    viewer = subprocess.Popen(
        [*python, "live_restore", "view", *ports, "--no-browser", "--history-mb", "512"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = viewer.stdout.readline().split()[2]
        with browsing() as browser, Newest(endpoints[0]) as newest:
            watch(browser, address, viewer.pid, newest, points, options.view)
    finally:
        for process in (publisher, viewer):
            process.send_signal(signal.SIGTERM)
            process.wait(20)


class Newest:
    """The time point that was published last, heard by another client."""

    def __init__(self, endpoint: str) -> None:
        self.time = -1
        self._endpoint = endpoint
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._hear)

    def __enter__(self) -> "Newest":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _hear(self) -> None:
        with Subscriber(self._endpoint, family="announce") as subscriber:
            while not self._done.is_set():
                message = subscriber.receive(0.5)
                if isinstance(message, Announcement):
                    self.time = message.header.time


def watch(browser, address: str, viewer_pid: int, newest: Newest, points: int, view: str) -> None:
    """Sample the page until the last time point."""
    started = time.monotonic()
    browser.page.goto(address)
    browser.page.wait_for_selector("body[data-channels='1'], body[data-channels='2']")
    paint = browser.page.evaluate(
        "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? NaN"
    )
    print(
        f"first paint {paint / 1000:.2f} s, first picture {time.monotonic() - started:.2f} s after the page was asked for"
    )
    browser.press(KEYS[view])
    processes = {"viewer": [psutil.Process(viewer_pid)]}
    for one in psutil.Process().children(recursive=True):
        kind = re.search(r"--type=(renderer|gpu-process)", " ".join(one.cmdline()))
        if kind:
            processes.setdefault(kind[1], []).append(one)
    lags, ages, memory, shown = [], [], [], set()
    while not shown or max(shown) < points - 1:
        time.sleep(0.5)
        published = newest.time  # before the page is asked
        at = int(browser.told("time"))
        lags.append(max(published - at, 0))
        shown.add(at)
        age = re.search(r"(\d+) ms when drawn", browser.text("#brief"))
        if age:
            ages.append(int(age[1]))
        memory.append(
            {name: sum(p.memory_info().rss for p in some) for name, some in processes.items()}
        )
    quarter = len(memory) // 4
    print(
        f"{points} time points of two channels, view {view}: {len(shown)} seen when looked twice a second; the page showed "
        f"the newest in {np.mean(np.array(lags) == 0):.0%}, one or none behind in {np.mean(np.array(lags) <= 1):.0%}"
    )
    print(f"age when drawn: median {np.median(ages):.0f} ms, p95 {np.percentile(ages, 95):.0f} ms")
    for name in processes:
        first, last = (
            np.median([one[name] for one in part]) / 2**20
            for part in (memory[quarter : 2 * quarter], memory[-quarter:])
        )
        print(f"memory of {name}: second quarter {first:.0f} MiB, last {last:.0f} MiB")


if __name__ == "__main__":
    main()
