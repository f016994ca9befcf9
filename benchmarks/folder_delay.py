"""How long after a stack's last plane is on disk the watched folder gives its volume, and whether any plane was torn.

python benchmarks/folder_delay.py [--planes 2000] [--size 256] [--every-ms 12]

A process writes stacks of 10 planes as each program does, pixels in pieces of 64 KiB; the folder source and
the assembler of a daemon run in this one. DemoCamera acquires for real, through pycromanager. Delays are from
the writer's last byte (DemoCamera: from pycromanager's word that the image is saved) to the volume.
"""

import argparse
import multiprocessing
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parent))

from layouts import SLICES, WRITERS, acquisition

from live_restore.interfaces import StopSignal
from live_restore.profile import FolderSource
from live_restore.sources.assembler import Assembler
from live_restore.sources.folder import Folder
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Volume
from tests import growing_layouts as growing
from tests.plane_file_writers import write_plane_files

DEMO_CAMERA = "DemoCamera, NDTiff"
PATTERN = "{channel}_{time}_{z}.tif"  # of what write_plane_files calls its files


ALL = WRITERS | {"plane files": write_plane_files}


def pixels(place: tuple[int, str, int], shape: tuple[int, ...]) -> np.ndarray:
    """What DemoCamera's planes are made to hold."""
    seed = [place[0], growing.CHANNELS.index(place[1]), place[2]]
    return np.random.default_rng(seed).integers(1, 65_535, shape).astype("u2")


def write(name: str, folder: Path, options: argparse.Namespace, line: Connection) -> None:
    """Write at the camera's pace and tell when each plane was whole."""
    if name == DEMO_CAMERA:
        acquire(folder, options, line)
    else:
        acquired = acquisition(options.planes, options.size)
        next_at = None
        for whole in ALL[name](folder, acquired, growing.Pieces(2**16)):
            now = time.monotonic()
            if whole is not None:
                line.send((whole.place[1:], now, None))
                next_at = (next_at or now) + options.every_ms / 1000
                time.sleep(max(0.0, next_at - now))
    line.send(None)


def acquire(folder: Path, options: argparse.Namespace, line: Connection) -> None:
    """Acquire on the demonstration camera."""
    import mm_test_adapters
    from pycromanager import (
        Acquisition,
        Core,
        multi_d_acquisition_events,
        start_headless,
        stop_headless,
    )

    start_headless(
        mm_app_path=mm_test_adapters.device_adapter_path(),
        config_file="MMConfig_demo.cfg",
        python_backend=True,
        buffer_size_mb=256,
    )
    core = Core()
    core.set_property("Camera", "PixelType", "16bit")
    core.set_property("Camera", "OnCameraCCDXSize", str(options.size))
    core.set_property("Camera", "OnCameraCCDYSize", str(options.size))
    core.set_exposure(options.every_ms)

    def place(axes: dict) -> tuple[int, str, int]:
        return axes["time"], axes["channel"], axes["z"]

    def stamped(image: np.ndarray, metadata: dict) -> tuple[np.ndarray, dict]:
        return pixels(place(metadata["Axes"]), image.shape), metadata

    def saved(axes: dict, dataset: object) -> None:
        del dataset
        line.send((place(axes), time.monotonic(), options.size))

    with Acquisition(str(folder), "run", image_process_fn=stamped, image_saved_fn=saved) as run:
        run.acquire(
            multi_d_acquisition_events(
                num_time_points=-(-options.planes // (2 * SLICES)),
                channel_group="Channel",
                channels=list(growing.CHANNELS),
                z_start=0,
                z_end=(SLICES - 1) * 0.25,
                z_step=0.25,
                order="tcz",
            )
        )
    run.get_dataset().close()
    stop_headless()


def listen(line: Connection, whole_at: dict, stop: StopSignal) -> None:
    """Take what the writer tells until it is over and everything has come."""
    while (told := line.recv()) is not None:
        whole_at[told[0]] = told[1]
    time.sleep(1.0)
    stop.set()


def follow(name: str, options: argparse.Namespace) -> None:
    """Print a row."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    whole_at: dict[tuple[int, str, int], float] = {}
    volumes: list[tuple[float, Volume]] = []
    stop, assembler = StopSignal(), Assembler()
    with tempfile.TemporaryDirectory() as folder:
        settings = FolderSource(
            kind="folder",
            path=Path(folder),
            num_slices=SLICES,
            pattern=PATTERN if name == "plane files" else None,
        )
        with Folder(settings) as source:
            writer = context.Process(target=write, args=(name, Path(folder), options, theirs))
            writer.start()
            listener = threading.Thread(target=listen, args=(ours, whole_at, stop))
            listener.start()
            for event in source.events(stop):
                match event:
                    case AcquisitionInfo():
                        settled = assembler.start(event)
                    case Plane():
                        settled = assembler.add(event)
                    case AcquisitionEnd():
                        settled = assembler.end(event.acquisition)
                    case _:
                        settled = []
                now = time.monotonic()
                volumes += [(now, one) for one in settled if isinstance(one, Volume)]
            listener.join()
            writer.join()
    expected = {}
    if name != DEMO_CAMERA:
        expected = {i.place[1:]: i.data for i in acquisition(options.planes, options.size)}
    num_torn, delays_ms = 0, []
    for given_at, volume in volumes:
        places = [(volume.key.time, volume.key.channel, z) for z in range(SLICES)]
        for place, data in zip(places, volume.data, strict=True):
            wanted = expected[place] if expected else pixels(place, data.shape)
            num_torn += not np.array_equal(data, wanted)
        delays_ms.append(1000 * (given_at - max(whole_at[place] for place in places)))
    median, p95 = np.percentile(delays_ms, [50, 95])
    print(
        f"{name:22} {len(whole_at):6} {len(volumes):7} {median:9.1f} {p95:7.1f} "
        f"{max(delays_ms):7.1f} {num_torn:5}",
        flush=True,
    )


def main() -> None:
    """Print a row per layout."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planes", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="pixels along each side")
    parser.add_argument("--every-ms", type=float, default=12)
    parser.add_argument("--only", choices=[*ALL, DEMO_CAMERA])
    options = parser.parse_args()
    print(f"{'':22} planes volumes median ms  p95 ms  max ms  torn")
    for name in [options.only] if options.only else [*ALL, DEMO_CAMERA]:
        follow(name, options)


if __name__ == "__main__":
    main()
