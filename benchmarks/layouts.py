"""How long after a plane is whole on disk it is read, and whether any was torn.

python benchmarks/layouts.py [--planes 200] [--size 512] [--every-ms 12] [--poll-ms 3]

A process writes as Micro-Manager does, pixels in pieces of 64 KiB; this one follows it. Delays are
from the moment that the writer has written a plane's last byte to the moment that `poll` gives it.
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_restore.sources.layouts import recognise
from tests import growing_layouts as growing

SLICES = 10


def ndstorage_writer(
    folder: Path, acquired: list[growing.Image], pieces: growing.Pieces
) -> Iterator[growing.Image]:
    """NDTiff as pycromanager's Python backend writes it."""
    del pieces  # it has its own
    from ndstorage import NDTiffDataset

    dataset = NDTiffDataset(str(folder), name="run", summary_metadata={}, writable=True)
    for image in acquired:
        _, time_index, channel, z = image.place
        axes = {"time": time_index, "channel": channel, "z": z}
        dataset.put_image(axes, image.data, image.metadata | {"Axes": axes})
        yield image
    dataset.finish()
    dataset.close()


WRITERS = {
    "NDTiff, pycromanager": ndstorage_writer,
    "NDTiff, Java": growing.write_ndtiff,
    "image stack file": growing.write_mm_stack,
    "separate image files": growing.write_separate,
}


def acquisition(num_planes: int, size: int) -> list[growing.Image]:
    """The same in both processes."""
    times = -(-num_planes // (2 * SLICES))
    return growing.images(times=times, slices=SLICES, shape=(size, size))[:num_planes]


def write(name: str, folder: Path, options: argparse.Namespace, line: Connection) -> None:
    """Write at the camera's pace and tell when each plane was whole."""
    acquired = acquisition(options.planes, options.size)
    next_at = None
    for whole in WRITERS[name](folder, acquired, growing.Pieces(2**16)):
        now = time.monotonic()
        if whole is not None:
            line.send((whole.place[1:], now))
            next_at = (next_at or now) + options.every_ms / 1000
            time.sleep(max(0.0, next_at - now))
    line.send(None)


def follow(name: str, options: argparse.Namespace) -> None:
    """Print a row."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    expected = {image.place[1:]: image.data for image in acquisition(options.planes, options.size)}
    whole_at: dict[tuple[int, str, int], float] = {}
    given_at: dict[tuple[int, str, int], float] = {}
    polls, num_torn, layout, is_over = [], 0, None, False
    with tempfile.TemporaryDirectory() as folder:
        process = context.Process(target=write, args=(name, Path(folder), options, theirs))
        process.start()
        while not is_over:
            while ours.poll():
                told = ours.recv()
                is_over = told is None
                if told:
                    whole_at[told[0]] = told[1]
            started = time.monotonic()
            if layout is None:
                found = next(iter(Path(folder).rglob("*.tif")), None)
                layout = recognise(found) if found else None
            for plane in layout.poll() if layout else ():
                place = plane.time, plane.channel, plane.z
                given_at[place] = time.monotonic()
                num_torn += not np.array_equal(plane.read(), expected[place])
            polls.append(started)
            time.sleep(max(0.0, started + options.poll_ms / 1000 - time.monotonic()))
        process.join()
        assert layout is not None
        is_ended = layout.is_ended()
    delays_ms = [1000 * (given_at[place] - at) for place, at in whole_at.items()]
    median, p95 = np.percentile(delays_ms, [50, 95])
    between_ms = 1000 * float(np.median(np.diff(polls)))
    print(
        f"{name:22} {len(given_at):6} {median:9.1f} {p95:7.1f} {between_ms:12.1f} {num_torn:6} "
        f"{is_ended!s:>6}"
    )


def main() -> None:
    """Print a row per layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, default=200)
    parser.add_argument("--size", type=int, default=512, help="pixels along each side")
    parser.add_argument("--every-ms", type=float, default=12)
    parser.add_argument("--poll-ms", type=float, default=3)
    options = parser.parse_args()
    print(
        f"{'':22} {'planes':>6} {'median ms':>9} {'p95 ms':>7} {'polled every':>12} {'torn':>6} {'ended':>6}"
    )
    for name in WRITERS:
        follow(name, options)


if __name__ == "__main__":
    main()
