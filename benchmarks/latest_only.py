"""How old volumes are when a slow viewer has drawn them: every volume, and the newest only.

python benchmarks/latest_only.py [--seconds 30] [--mib 32] [--per-second 4]

A process publishes volumes at a steady rate; two viewers, processes of their own, take a second to draw each.
Age: from publishing to the moment at which the drawing is begun.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_restore.client import Latest, ReusedArrays, Subscriber
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.volume import utc_now
from tests.conftest import free_endpoints, make_restored, make_volume

SHAPE_YX = (512, 512)
VIEWERS = ("every volume", "newest only")


def view(name, endpoints, seconds, results):
    """Draw one volume per second; the age of each at its drawing, and how many it could not have."""
    ages, last = [], -1
    passed_over = 0
    viewer = (
        Subscriber(endpoints[0], into=ReusedArrays(1))
        if name == VIEWERS[0]
        else Latest(*endpoints, into=ReusedArrays(1))
    )
    end = time.monotonic() + seconds
    with viewer:
        for message in viewer.volumes(10):
            ages.append((datetime.now(UTC) - message.header.received_at).total_seconds())
            passed_over += message.header.sequence - last - 1
            last = message.header.sequence
            if time.monotonic() > end:
                break
            time.sleep(1.0)
    results.put((name, ages, passed_over))


def main():
    """Publish, view, compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--per-second", type=float, default=4)
    options = parser.parse_args()
    slices = options.mib * 2**20 // (2 * SHAPE_YX[0] * SHAPE_YX[1])
    data = np.random.default_rng(0).poisson(100, (slices, *SHAPE_YX)).astype("u2")
    endpoints = free_endpoints()
    results = multiprocessing.Queue()
    settings = PublishSettings(endpoint=endpoints[0], control=endpoints[1], history_mb=512)
    with Publisher(settings) as publisher:
        viewers = [
            multiprocessing.Process(target=view, args=(name, endpoints, options.seconds, results))
            for name in VIEWERS
        ]
        for viewer in viewers:
            viewer.start()
        while publisher.viewers < len(viewers):
            time.sleep(0.01)
        next_at, sent = time.monotonic(), 0
        while any(viewer.is_alive() for viewer in viewers) and results.qsize() < len(viewers):
            restored = make_restored(make_volume(data, time=sent))
            publisher.send(
                replace(restored, data=data, raw=replace(restored.raw, received_at=utc_now()))
            )
            sent += 1
            next_at += 1 / options.per_second
            time.sleep(max(0.0, next_at - time.monotonic()))
        found = sorted(results.get() for _ in viewers)
        for viewer in viewers:
            viewer.join()
    print(f"{sent} volumes of {options.mib} MiB published, {options.per_second:g} per second")
    medians = {}
    for name, ages, passed_over in found:
        medians[name] = statistics.median(ages)
        print(
            f"{name}: {len(ages)} drawn, {passed_over} passed over; age at drawing: median "
            f"{medians[name]:.2f} s, longest {max(ages):.2f} s"
        )
    print(f"ratio of the medians: {medians[VIEWERS[0]] / medians[VIEWERS[1]]:.1f}")


if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    main()
