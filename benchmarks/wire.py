"""Volumes per second from the publisher to viewers, beside bare ZeroMQ, bare TCP and memcpy in the same run.

python benchmarks/wire.py [--sizes 32,400] [--viewers 1,3] [--repeats 5] [--volumes 20]

Sender and viewers are processes of their own, on loopback; each viewer has the volume in an array of its own in
the end. Two volumes are on their way at a time for GB/s (of each viewer), one for latency: from the call that
sends to the moment when the last viewer has it. Repeats are interleaved; figures are medians, ratios are of the
runs beside each other. What the publisher measures in each volume (statistics) is in its figures.

Then one of three viewers is stopped (SIGSTOP): how long the longest `Publisher.send` took, how many volumes the
daemon holds because of it, and whether the two others got all.
"""

import argparse
import multiprocessing
import os
import signal
import socket
import statistics
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))

from live_restore.client import ReusedArrays, Subscriber, VolumeMessage
from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from live_restore.volume import (
    AcquisitionInfo,
    ModelUse,
    Restored,
    Volume,
    VolumeKey,
    utc_now,
)

MIB = 2**20
SLICES = 64
OURS, PLANES, ONE, TCP = "publisher", "bare PUB, plane frames", "bare PUB, one frame", "bare TCP"
MARK = 4  # the publisher's, in messages
ALLOWED = MARK + 2

Shape = tuple[int, int, int]


def shape_of(mib: int) -> Shape:
    """A volume of uint16 of about this size."""
    return SLICES, 512, mib * MIB // (SLICES * 512 * 2)


def restored(data: np.ndarray, time_point: int) -> Restored:
    """A restored volume; the raw one beside it is the same, to save memory."""
    info = AcquisitionInfo("run", data.shape, data.dtype, (0.3, 0.1, 0.1), ("c",))
    key = VolumeKey("run", "0", time_point, "c")
    raw = Volume(key, info, data, None, utc_now(), time.monotonic())
    use = ModelUse("none", "0" * 64, "float32", "cpu", data.shape)
    return Restored(key, info, data, raw, use, (0.0, 1.0), {"restoring": 0.0})


# --- viewers, in processes of their own ---


def view_published(endpoint: str, _shape: Shape, line: Connection) -> None:
    """Through the client."""
    with Subscriber(endpoint, into=ReusedArrays(1)) as viewer:
        line.send("here")
        while True:
            message = viewer.receive(600)
            if isinstance(message, VolumeMessage):
                line.send((message.header.time, time.monotonic()))


def view_bare(endpoint: str, shape: Shape, line: Connection) -> None:
    """ZeroMQ alone; as many frames as come."""
    out = np.zeros(shape, "u2").reshape(-1).view("u1")
    with zmq.Context() as context, context.socket(zmq.SUB) as sub:
        sub.rcvhwm = 2
        sub.subscribe(b"")
        sub.connect(endpoint)
        line.send("here")
        while True:
            number, *frames = sub.recv_multipart(copy=False)
            at = 0
            for frame in frames:
                piece = np.frombuffer(frame.buffer, "u1")
                out[at : at + piece.size] = piece
                at += piece.size
            line.send((struct.unpack("<q", number.bytes)[0], time.monotonic()))


def view_tcp(endpoint: str, shape: Shape, line: Connection) -> None:
    """A socket alone."""
    out = memoryview(np.zeros(shape, "u2").reshape(-1).view("u1"))
    host, port = endpoint.removeprefix("tcp://").split(":")
    with socket.create_connection((host, int(port))) as one:
        line.send("here")
        number = 0
        while True:
            at = 0
            while at < len(out):
                at += one.recv_into(out[at:])
            line.send((number, time.monotonic()))
            number += 1


@dataclass
class Viewers:
    """Processes that tell what they got."""

    processes: list[Any]
    lines: list[Connection]
    got: list[int] = field(default_factory=list)  # volumes, of each viewer
    last_at: float = 0.0

    def await_number(self, number: int, whose: list[int] | None = None) -> float:
        """Wait until all of them, or some, have got so many; when the last one had."""
        wanted = list(range(len(self.lines))) if whose is None else whose
        while min(self.got[i] for i in wanted) < number:
            lines = [self.lines[i] for i in wanted]
            for line in wait(lines, timeout=120) or _fail("viewers don't get their volumes"):
                told = line.recv()
                i = self.lines.index(line)
                if told[0] != self.got[i]:
                    raise SystemExit(f"viewer {i} got volume {told[0]} instead of {self.got[i]}")
                self.got[i] += 1
                self.last_at = max(self.last_at, told[1])
        return self.last_at


def _fail(text: str) -> list[Any]:
    raise SystemExit(text)


@contextmanager
def viewing(
    target: Callable[..., None], endpoint: str, shape: Shape, count: int
) -> Iterator[Viewers]:
    """So many viewers; killed at the end."""
    context = multiprocessing.get_context("spawn")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=target, args=(endpoint, shape, theirs), daemon=True)
        for _, theirs in pipes
    ]
    for process in processes:
        process.start()
    viewers = Viewers(processes, [ours for ours, _ in pipes], [0] * count)
    try:
        for line in viewers.lines:
            line.recv()
        yield viewers
    finally:
        for process in processes:
            process.kill()
            process.join()
        for ours, theirs in pipes:
            ours.close()
            theirs.close()


# --- senders ---


def free_endpoint() -> str:
    """On a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return f"tcp://127.0.0.1:{one.getsockname()[1]}"


Send = Callable[[np.ndarray, int], None]


@contextmanager
def sending_published(shape: Shape, count: int) -> Iterator[tuple[Viewers, Send]]:
    """The publisher, as the daemon has it."""
    endpoint = free_endpoint()
    settings = PublishSettings(endpoint=endpoint, control=None, history_mb=1)
    with (
        Publisher(settings) as publisher,
        viewing(view_published, endpoint, shape, count) as viewers,
    ):
        while publisher.viewers < count:
            time.sleep(0.01)
        yield viewers, lambda data, number: publisher.send(restored(data, number))


@contextmanager
def sending_bare(shape: Shape, count: int, num_frames: int) -> Iterator[tuple[Viewers, Send]]:
    """ZeroMQ alone."""
    endpoint = free_endpoint()
    with zmq.Context() as context, context.socket(zmq.XPUB) as pub:
        pub.linger, pub.sndhwm, pub.xpub_verbose = 0, MARK, True
        pub.copy_threshold = 0
        pub.bind(endpoint)
        with viewing(view_bare, endpoint, shape, count) as viewers:
            for _ in range(count):
                pub.recv()

            def send(data: np.ndarray, number: int) -> None:
                frames = np.array_split(data.reshape(-1), num_frames)
                pub.send_multipart(
                    [struct.pack("<q", number), *map(memoryview, frames)], copy=False
                )

            yield viewers, send


@contextmanager
def sending_tcp(shape: Shape, count: int) -> Iterator[tuple[Viewers, Send]]:
    """A socket per viewer, one after the other."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        with viewing(view_tcp, endpoint, shape, count) as viewers:
            sockets = [server.accept()[0] for _ in range(count)]

            def send(data: np.ndarray, _number: int) -> None:
                for one in sockets:
                    one.sendall(memoryview(data.reshape(-1).view("u1")))

            yield viewers, send
            for one in sockets:
                one.close()


WAYS: dict[str, Callable[[Shape, int], Any]] = {
    OURS: sending_published,
    PLANES: lambda shape, count: sending_bare(shape, count, SLICES),
    ONE: lambda shape, count: sending_bare(shape, count, 1),
    TCP: sending_tcp,
}


def measure(way: str, data: np.ndarray, count: int, num_volumes: int) -> tuple[float, float]:
    """GB/s of each viewer, and latency in seconds."""
    with WAYS[way](data.shape, count) as (viewers, send):
        send(data, 0)  # buffers and pages
        viewers.await_number(1)
        latencies_s = []
        for number in range(1, 1 + max(2, num_volumes // 3)):
            started = time.monotonic()
            send(data, number)
            latencies_s.append(viewers.await_number(number + 1) - started)
        first = viewers.got[0]
        started = time.monotonic()
        for number in range(first, first + num_volumes):
            viewers.await_number(max(first, number - 1))
            send(data, number)
        seconds = viewers.await_number(first + num_volumes) - started
    return num_volumes * data.nbytes / seconds / 1e9, statistics.median(latencies_s)


def memcpy_rate(data: np.ndarray) -> float:
    """GB/s of a copy into an array that was written to before."""
    out = np.zeros_like(data)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        np.copyto(out, data)
        seconds.append(time.perf_counter() - started)
    return data.nbytes / statistics.median(seconds) / 1e9


def compare(mib: int, count: int, repeats: int, num_volumes: int) -> None:
    """Print a row per way."""
    data = np.random.default_rng(0).integers(0, 4000, shape_of(mib), dtype="u2")
    data.flags.writeable = False
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    latencies_s: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(repeats):
        for way in WAYS:
            rate, latency_s = measure(way, data, count, num_volumes)
            rates[way].append(rate)
            latencies_s[way].append(latency_s)
    print(
        f"\n{data.nbytes / MIB:.0f} MiB, {count} viewers, {repeats} times {num_volumes} volumes; "
        f"memcpy {memcpy_rate(data):.1f} GB/s"
    )
    print(f"{'':24} GB/s each   of one frame   latency ms   of one frame")
    for way in WAYS:
        gain = statistics.median(a / b for a, b in zip(rates[way], rates[ONE], strict=True))
        slower = statistics.median(
            a / b for a, b in zip(latencies_s[way], latencies_s[ONE], strict=True)
        )
        print(
            f"{way:24} {statistics.median(rates[way]):9.3f} {gain:12.2f} x "
            f"{1000 * statistics.median(latencies_s[way]):11.1f} {slower:12.2f} x",
            flush=True,
        )


def stall(mib: int, num_volumes: int) -> None:
    """Print what a viewer that is stopped costs the daemon and the others."""
    shape = shape_of(mib)
    arrays: list[weakref.ref[np.ndarray]] = []
    took_s: list[float] = []
    most_held = 0
    with sending_published(shape, 3) as (viewers, send):
        for number in range(num_volumes):
            if number == 2:
                os.kill(viewers.processes[0].pid, signal.SIGSTOP)
            data = np.full(shape, number, "u2")
            data.flags.writeable = False
            arrays.append(weakref.ref(data))
            started = time.perf_counter()
            send(data, number)
            took_s.append(time.perf_counter() - started)
            del data
            viewers.await_number(number + 1, None if number < 2 else [1, 2])
            most_held = max(most_held, sum(one() is not None for one in arrays))
        living = [viewers.got[i] for i in (1, 2)]
    held = most_held - 1  # the newest is the history's
    print(f"\n{mib} MiB, 3 viewers, one of them stopped, {num_volumes} volumes")
    print(
        f"longest Publisher.send       {1000 * max(took_s):8.1f} ms, median {1000 * statistics.median(took_s):.1f} ms"
    )
    print(
        f"volumes held because of it   {held:8d} (at most {ALLOWED} are allowed: {'good' if held <= ALLOWED else 'BAD'})"
    )
    print(f"the two others got           {living[0]:8d} and {living[1]} of {num_volumes}")


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="32,400", help="MiB")
    parser.add_argument("--viewers", default="1,3")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--volumes", type=int, default=20, help="of 32 MiB; fewer of larger ones")
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",")]
    for mib in sizes:
        num_volumes = max(4, min(options.volumes, options.volumes * 32 // mib))
        for count in (int(number) for number in options.viewers.split(",")):
            compare(mib, count, options.repeats, num_volumes)
    for mib in sizes:
        stall(mib, max(12, options.volumes) if mib <= 64 else 12)


if __name__ == "__main__":
    main()
