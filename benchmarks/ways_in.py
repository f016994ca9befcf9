"""Planes per second and delay of each way in, beside the same acquisition without this program.

python benchmarks/ways_in.py [--quick] [--repeats 5] [--sizes 512,1024,2048]

Needs the extras "demo" and "test". The camera is Micro-Manager's demonstration camera on a real
core, at 1 ms exposure, software z, images kept in memory: as fast as pycromanager goes. Repeats are
interleaved; figures are medians, ratios are of the runs beside each other. Nothing is restored.

Planes per second are from the first to the last plane. Delays are from the moment that the hook is
given a plane to the moment that the daemon's source gives it; for the followed Micro-Manager, from
the moment that the image exists there, one at a time. "in hook" is how long pycromanager's
processing thread is in the hook, most of it waiting for Python's lock; "empty function" is
pycromanager with an ``image_process_fn`` that does nothing, which by itself costs a thread.
"""

import argparse
import gc
import multiprocessing
import os
import signal
import sys
import time
from collections import defaultdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_restore.hook import publish_planes
from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource, IngestSource
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.sources.ingest import Ingest
from live_restore.volume import AcquisitionEnd, Plane

SLICES, Z_STEP_UM = 10, 0.5
BARE, EMPTY, READ, STOPPED, NONE, OWN, FOLLOWED = (
    "bare pycromanager",
    "empty function",
    "hook, daemon reads",
    "hook, daemon stopped",
    "hook, no daemon",
    "own acquisition",
    "followed (*)",
)
NOTE = (
    "(*) against the test suite's stand-in for Micro-Manager, which makes its images up and is "
    "otherwise faster than the real one: this is our side's rate, not Micro-Manager's. Its planes "
    "aren't acquired, so there is no ratio. Delays include poll_ms = 100."
)
PLANES = {512: 100, 1024: 40, 2048: 20}


def planes_per_second(times_s: list[float]) -> float:
    """From the first to the last."""
    return (len(times_s) - 1) / (max(times_s) - min(times_s))


class Timed:
    """pycromanager's functions for one acquisition, and when they were called."""

    def __init__(self, hook: Any) -> None:
        self._hook = hook
        self.in_hook_ms: list[float] = []
        self.saved_s: list[float] = []

    def process(self, image: Any, metadata: Any) -> Any:
        """The hook, and how long it took."""
        started = time.perf_counter()
        result = self._hook(image, metadata) if self._hook else (image, metadata)
        self.in_hook_ms.append(1000 * (time.perf_counter() - started))
        return result

    def saved(self, _axes: Any, _dataset: Any) -> None:
        """Called for each plane that pycromanager has stored, with and without a hook."""
        self.saved_s.append(time.monotonic())


def microscope(line: Connection) -> None:
    """In a process of its own: a script that acquires, as somebody else's."""
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
    core.set_exposure(1)
    while order := line.recv():
        size, planes, way, endpoint = order
        for axis in "XY":
            core.set_property("Camera", f"OnCameraCCD{axis}Size", str(size))
        hook = publish_planes(endpoint, num_slices=SLICES) if endpoint else None
        timed = Timed(hook)
        line.send("connected")
        line.recv()
        acquisition = Acquisition(
            name="run",
            image_process_fn=None if way == BARE else timed.process,
            image_saved_fn=timed.saved,
        )
        events = multi_d_acquisition_events(
            num_time_points=planes // SLICES,
            z_start=0,
            z_end=(SLICES - 1) * Z_STEP_UM,
            z_step=Z_STEP_UM,
            order="tcz",
        )
        acquisition.acquire(events)
        acquisition.mark_finished()
        acquisition.await_completion()
        acquisition.get_dataset().close()
        assert len(timed.saved_s) == planes
        line.send((planes_per_second(timed.saved_s), timed.in_hook_ms))
        line.recv()
        del acquisition, hook, timed
        gc.collect()
    stop_headless()


def daemon(endpoint: str, line: Connection) -> None:
    """In a process of its own: the source that takes planes; tells their delays at the end."""
    settings = IngestSource(kind="ingest", endpoint=endpoint)
    with Ingest(settings) as source:
        line.send("ready")
        delays_ms: list[float] = []
        for event in source.events(StopSignal()):
            if isinstance(event, Plane):
                delays_ms.append(delay_ms(event))
            elif isinstance(event, AcquisitionEnd):
                line.send(delays_ms)
                delays_ms = []


def delay_ms(plane: Plane) -> float:
    """Between hook and source, which share a clock."""
    assert plane.acquired_at is not None
    return (plane.received_at - plane.acquired_at).total_seconds() * 1000


class Runs:
    """What the runs gave: per size and way, planes per second, delays and times in the hook."""

    def __init__(self) -> None:
        self.rates: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.delays_ms: dict[tuple[int, str], list[float]] = defaultdict(list)
        self.in_hook_ms: dict[tuple[int, str], list[float]] = defaultdict(list)

    def row(self, size: int, way: str) -> str:
        """A line of the table."""
        rates = self.rates[size, way]
        text = f"{size:5} {way:21} {np.median(rates):8.1f} {min(rates):7.1f}-{max(rates):<7.1f}"
        for other in (BARE, EMPTY):
            if way == FOLLOWED:
                text += f" {'':>8}"
            else:
                beside = self.rates[size, other][: len(rates)]
                text += f" {np.median(np.divide(rates, beside)):8.2f}"
        for values, points in (
            (self.delays_ms[size, way], (50, 95)),
            (self.in_hook_ms[size, way], (50, 95)),
        ):
            for point in points:
                text += f" {np.percentile(values, point):8.2f}" if values else f" {'':8}"
        return text.rstrip()


class Beside:
    """A microscope, a daemon that reads and one that is stopped, each in its own process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.processes = []
        self.line, theirs = context.Pipe()
        self._start(context.Process(target=microscope, args=(theirs,), daemon=True))
        self.endpoint = free_endpoint()
        self.delays, theirs = context.Pipe()
        self.daemon = self._start(
            context.Process(target=daemon, args=(self.endpoint, theirs), daemon=True)
        )
        self.delays.recv()

    def _start(self, process: Any) -> Any:
        process.start()
        self.processes.append(process)
        return process

    def run(self, runs: Runs, way: str, size: int, planes: int) -> None:
        """One acquisition."""
        endpoint = {BARE: None, EMPTY: None, NONE: free_endpoint()}.get(way, self.endpoint)
        self.line.send((size, planes, way, endpoint))
        self.line.recv()
        if way == STOPPED:
            os.kill(self.daemon.pid, signal.SIGSTOP)
        self.line.send("go")
        rate, in_hook_ms = self.line.recv()
        if way == STOPPED:
            os.kill(self.daemon.pid, signal.SIGCONT)
        if way in (READ, STOPPED):
            delays_ms = self.delays.recv()
            if way == READ:
                runs.delays_ms[size, way] += delays_ms
        self.line.send("next")
        runs.rates[size, way].append(rate)
        if way in (READ, STOPPED, NONE):
            runs.in_hook_ms[size, way] += in_hook_ms

    def end(self) -> None:
        """End the processes."""
        self.line.send(None)
        self.processes[0].join()
        self.daemon.kill()
        self.daemon.join()


def free_endpoint() -> str:
    """On a port that nobody listens at."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


def own(runs: Runs, size: int, planes: int) -> None:
    """The acquisition that this program runs itself."""
    settings = AcquisitionSource(
        kind="acquisition",
        num_slices=SLICES,
        num_times=planes // SLICES,
        z_step_um=Z_STEP_UM,
        exposure_ms=1,
        properties={
            "Camera-PixelType": "16bit",
            "Camera-OnCameraCCDXSize": str(size),
            "Camera-OnCameraCCDYSize": str(size),
        },
    )
    acquired_s, delays_ms = [], []
    with OwnAcquisition(settings) as source:
        for event in source.events(StopSignal()):
            if isinstance(event, Plane):
                acquired_s.append(event.acquired_at.timestamp())
                delays_ms.append(delay_ms(event))
    assert len(acquired_s) == planes
    runs.rates[size, OWN].append(planes_per_second(acquired_s))
    runs.delays_ms[size, OWN] += delays_ms


def followed(runs: Runs, size: int, planes: int) -> None:
    """An acquisition in Micro-Manager's window: all planes at once, then one by one."""
    from tests.followed import MicroManagerProcess, following

    with MicroManagerProcess() as micro_manager, following(micro_manager.port, poll_ms=100) as ours:
        shape = {"channels": ["c"], "num_slices": SLICES, "shape": (size, size)}
        micro_manager.start(num_times=planes // SLICES, prefix="rate", **shape)
        ours.await_ends(1)
        received_s = [plane.received_at.timestamp() for plane in ours.of(Plane)]
        assert len(received_s) == planes
        runs.rates[size, FOLLOWED].append(planes_per_second(received_s))
        micro_manager.start(num_times=2, prefix="delay", images=1, **shape)
        ours.await_planes(planes + 1)
        for number in range(2, 2 * SLICES + 1):
            told_at = time.time()
            micro_manager.tell("images", up_to=number)
            ours.await_planes(planes + number)
            plane = ours.of(Plane)[-1]
            runs.delays_ms[size, FOLLOWED].append((plane.received_at.timestamp() - told_at) * 1000)
            time.sleep(0.013 * (number % 8))  # not in step with the polling
        ours.await_ends(2)


def main() -> None:
    """Print a row per size and way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small run of each")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sizes", default="512,1024,2048", help="default: %(default)s")
    options = parser.parse_args()
    sizes = [512] if options.quick else [int(size) for size in options.sizes.split(",")]
    repeats = 1 if options.quick else options.repeats
    started = time.monotonic()
    runs = Runs()
    beside = Beside()
    for repeat in range(repeats):
        for size in sizes:
            planes = 20 if options.quick else PLANES.get(size, 40)
            ways = (BARE, EMPTY, READ, STOPPED, NONE)
            for way in ways if repeat % 2 else reversed(ways):  # drifts cancel out
                beside.run(runs, way, size, planes)
            if repeat < 2:
                own(runs, size, planes)
            if repeat == 0:
                followed(runs, size, planes)
    beside.end()
    print(f"{os.cpu_count()} cores, {repeats} repeats, {time.monotonic() - started:.0f} s in all")
    print(
        f"{'':27} {'planes/s':>8} {'of all runs':^15} {'to bare':>8} {'to empty':>8} "
        f"{'delay ms':>8} {'95 %':>8} {'in hook':>8} {'95 %':>8}"
    )
    for size in sizes:
        for way in (BARE, EMPTY, READ, STOPPED, NONE, OWN, FOLLOWED):
            print(runs.row(size, way))
    print(NOTE)


if __name__ == "__main__":
    main()
