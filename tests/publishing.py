"""A daemon's publishing end with volumes of its own, in a process that can be stopped and killed.

python -m tests.publishing DATA CONTROL [--shape 12 64 64] [--channels a b] [--interval 0.2] [--volumes N]
"""

import argparse
import itertools
import time

import numpy as np

from live_restore.assessment import Assessment, DoseAdvice
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.volume import (
    AcquisitionInfo,
    ModelUse,
    Restored,
    Skipped,
    Volume,
    VolumeKey,
    utc_now,
)

VOXEL_UM = (0.3, 0.1, 0.1)
GOOD = Assessment(
    "amber",
    reasons=("signal 2.1 photoelectrons per voxel; this model was shown to hold from 3.0",),
    blind_to=("blur",),
    signal=2.1,
    error=0.31,
    error_bound=0.36,
    coverage=0.9,
    num_acquisitions=24,
    dose=DoseAdvice(0.35, 0.5, text="2.0 times less light would do"),
)


def main() -> None:
    """Publish a time point every so often, until killed or done."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("control")
    parser.add_argument("--shape", type=int, nargs=3, default=[12, 64, 64])
    parser.add_argument("--channels", nargs="+", default=["tubulin", "DNA"])
    parser.add_argument("--positions", nargs="+", default=["0"])
    parser.add_argument("--interval", type=float, default=0.2)
    parser.add_argument("--volumes", type=int)
    parser.add_argument("--skip-time", type=int, default=-1)
    options = parser.parse_args()
    info = AcquisitionInfo(
        "run",
        tuple(options.shape),
        np.dtype("u2"),
        VOXEL_UM,
        tuple(options.channels),
        tuple(options.positions),
    )
    use = ModelUse("test-model", "0" * 64, "float32", "cpu", (8, 8, 8))
    pairs = [drawn(info.shape_zyx, phase) for phase in range(4)]
    settings = PublishSettings(endpoint=options.data, control=options.control)
    with Publisher(settings) as publisher:
        print("ready", flush=True)
        publisher.send(info)
        times = itertools.count() if options.volumes is None else range(options.volumes)
        for point in times:
            due = time.monotonic() + options.interval
            for position in options.positions:
                for number, channel in enumerate(options.channels):
                    key = VolumeKey(info.acquisition, position, point, channel)
                    if point == options.skip_time:
                        publisher.send(Skipped(key, "the disk was full"))
                        continue
                    raw, data = pairs[(point + number) % len(pairs)]
                    volume = Volume(key, info, raw, utc_now(), utc_now(), time.monotonic())
                    timing = {"restoring": 0.1}
                    publisher.send(
                        Restored(key, info, data, volume, use, (0.0, 1.0), timing, assessment=GOOD)
                    )
            time.sleep(max(0.0, due - time.monotonic()))
        time.sleep(3600 if options.volumes is None else options.interval)


def drawn(shape: tuple[int, int, int], phase: int) -> tuple[np.ndarray, np.ndarray]:
    """A ball beside the middle, noisy and clean."""
    z, y, x = np.ogrid[tuple(slice(-1, 1, n * 1j) for n in shape)]
    angle = phase * np.pi / 2
    ball = np.exp(
        -((z - 0.2) ** 2 + (y - 0.4 * np.sin(angle)) ** 2 + (x - 0.4 * np.cos(angle)) ** 2) / 0.08
    )
    clean = 100 + 400 * ball
    noisy = np.random.default_rng(phase).poisson(clean)
    return noisy.astype("u2"), clean.astype("u2")


if __name__ == "__main__":
    main()
