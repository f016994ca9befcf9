"""Whether a daemon grows that restores one small volume after the other, with no trouble and never reloaded.

python benchmarks/steady.py [--volumes 1000] [--every-s 0.15]

On the processor, where what is computed lies in the C library's heap. Prints the daemon's memory after each hundred
volumes, 8 x 96 x 96, sent as a script sends them, in acquisitions of 40.
"""

import argparse
import itertools
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.plane_sender import PlaneSender
from tests.conftest import wait_for
from tests.ingesting import free_endpoint
from tests.soaking import CHANNELS, NUM_SLICES, POSITIONS, SHAPE, Daemon


def main() -> None:
    """Acquire a time-lapse, and look at the daemon now and then."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--volumes", type=int, default=1000)
    parser.add_argument("--every-s", type=float, default=0.15)
    options = parser.parse_args()
    number, every_s = options.volumes, options.every_s
    port, rng, count = free_endpoint(), np.random.default_rng(0), itertools.count()
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Daemon(Path(folder) / "ingest", f"kind = 'ingest'\nendpoint = '{port}'")) as daemon,
        closing(PlaneSender(port, 2**26)) as sender,
    ):
        process = psutil.Process(daemon.process.pid)
        print("volumes   MiB")
        streams = itertools.product(range(number), range(10), POSITIONS, CHANNELS)
        for volume, (run, t, position, channel) in zip(range(1, number + 1), streams, strict=False):
            about = {
                "acquisition": f"run{run}",
                "time": t,
                "position": position,
                "channel": channel,
            }
            about |= {"num_slices": NUM_SLICES, "channels": CHANNELS, "positions": POSITIONS}
            for z, plane in enumerate(rng.poisson(100, SHAPE).astype("u2")):
                about |= {"type": "uint16", "shape": plane.shape, "number": next(count)}
                sender.send(PlaneHeader(sender="s", z=z, **about), plane)
            if (t, position, channel) == (9, POSITIONS[-1], CHANNELS[-1]):
                sender.say(PlanesEnd(sender="s", acquisition=f"run{run}"))
            time.sleep(every_s)
            if volume % 100 == 0:
                wait_for(lambda: is_written(daemon, volume), f"{volume} volumes", 600)  # noqa: B023
                print(f"{volume:7} {process.memory_info().rss / 2**20:5.0f}", flush=True)


def is_written(daemon: Daemon, number: int) -> bool:
    """Whether so many volumes lie on disk."""
    return sum(state == "written" for state, *_ in daemon.ledger().values()) >= number


if __name__ == "__main__":
    main()
