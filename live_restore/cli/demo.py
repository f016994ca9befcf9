"""``live-restore demo``: a simulated low-dose microscope, restored live, against its own truth.

The daemon runs in a process of its own, as it does on a microscope PC; this process is a viewer.
"""

from __future__ import annotations

import argparse
import json
import math
import queue
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from live_restore.cli.demo_ladder import Rung
    from live_restore.client import VolumeMessage
    from live_restore.simulation import SimulatedMicroscope

__all__ = ["add_command"]

_START_TIMEOUT_S = 120.0
_VOLUME_TIMEOUT_S = 120.0

_NEXT = """What next:
  live-restore restore FILE --output DIR           restore stacks that you already have
  live-restore profiles watched-folder > my.toml   a profile for a folder, to name yours in
  live-restore check my.toml                       would it run?
  live-restore run my.toml                         restore what is saved there
  live-restore view                                watch it in the browser, raw beside restored"""


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "demo",
        help="a simulated microscope, restored live and scored against its truth",
        description="Needs nothing but this program: a simulated two-channel time lapse at low "
        "light is acquired, restored, published and received in another process.",
    )
    parser.add_argument("--volumes", type=int, default=8, help="how many volumes (default 8)")
    parser.add_argument(
        "--rungs",
        type=int,
        default=8,
        help="then so many time points with less and less light, until restoration breaks (default 8)",
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.set_defaults(run=_run)


@dataclass(frozen=True, slots=True)
class _Row:
    """One volume, scored."""

    time: int
    channel: str
    psnr_raw_db: float
    psnr_restored_db: float
    ssim_raw: float
    ssim_restored: float
    latency_s: float


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    if options.volumes < 1 or options.rungs < 0:
        print("live-restore: --volumes must be at least 1, --rungs at least 0", file=sys.stderr)
        return 2
    from live_restore.cli.demo_ladder import show_ladder
    from live_restore.quality import CONVENTION

    console = Console(stderr=options.json)
    rows: list[_Row] = []
    ladder: list[Rung] = []
    console.print("Starting the daemon and its simulated low-dose microscope …")
    with _Live(console, rows) as show:
        for row in _scored_volumes(options.volumes, options.rungs, ladder):
            rows.append(row)
            show()
    if len(rows) < options.volumes:
        print(f"live-restore: only {len(rows)} of {options.volumes} volumes came", file=sys.stderr)
        return 1
    summary = _summary(rows)
    latency = summary["latency_s"]
    console.print(
        f"{len(rows)} volumes received. Restoration gains "
        f"{summary['psnr_restored_db'] - summary['psnr_raw_db']:.1f} dB PSNR, and SSIM "
        f"{summary['ssim_raw']:.3f} -> {summary['ssim_restored']:.3f}. From last plane to viewer: "
        f"median {latency['median']:.2f} s, p95 {latency['p95']:.2f} s."
    )
    console.print(f"({CONVENTION})", style="dim")
    if ladder:
        show_ladder(console, ladder)
    console.print(_NEXT, highlight=False)
    if options.json:
        rungs = [asdict(one) for one in ladder]
        print(json.dumps(summary | {"volumes": [asdict(row) for row in rows], "ladder": rungs}))
    return 0


class _Live:
    """The growing table: redrawn in place on a terminal, printed at the end elsewhere."""

    def __init__(self, console: Any, rows: list[_Row]) -> None:
        from rich.live import Live

        self._rows = rows
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    def __enter__(self) -> Any:
        if self._live:
            self._live.start()
        return self._show

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()
        else:
            self._console.print(_table(self._rows))

    def _show(self) -> None:
        if self._live:
            self._live.update(_table(self._rows), refresh=True)


def _table(rows: list[_Row]) -> Table:
    from rich.table import Table

    table = Table(
        title="restored live, scored against the simulation's truth", title_justify="left"
    )
    for name in ("time", "channel"):
        table.add_column(name)
    for name in ("PSNR raw", "restored", "SSIM raw", "restored", "latency"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.time),
            row.channel,
            f"{row.psnr_raw_db:.1f} dB",
            f"[bold]{row.psnr_restored_db:.1f} dB[/bold]",
            f"{row.ssim_raw:.3f}",
            f"[bold]{row.ssim_restored:.3f}[/bold]",
            f"{row.latency_s:.2f} s",
        )
    return table


def _summary(rows: list[_Row]) -> dict[str, Any]:
    import numpy as np

    def mean(name: str) -> float:
        return round(float(np.mean([getattr(row, name) for row in rows])), 4)

    scores = ("psnr_raw_db", "psnr_restored_db", "ssim_raw", "ssim_restored")
    median, p95 = np.percentile([row.latency_s for row in rows], [50, 95])
    return {
        "volumes_received": len(rows),
        **{name: mean(name) for name in scores},
        "latency_s": {"median": round(float(median), 4), "p95": round(float(p95), 4)},
    }


def _scored_volumes(count: int, rungs: int, ladder: list[Rung]) -> Iterator[_Row]:
    """Run the daemon, receive raw and restored volumes, score each pair.

    The volumes of the ladder come last and go into `ladder`.
    """
    from live_restore.cli.demo_ladder import Rung
    from live_restore.cli.profiles import find_profile
    from live_restore.errors import SourceError
    from live_restore.profile import SimulatedSource, load_profile
    from live_restore.sources.simulated import relative_dose, simulated_microscope

    with tempfile.TemporaryDirectory(prefix="live-restore-demo-") as folder:
        shipped = find_profile("demo")
        text = shipped.read_text(encoding="utf-8")
        data, control = (f"tcp://127.0.0.1:{port}" for port in _free_ports(2))
        text = text.replace("tcp://127.0.0.1:5556", data).replace("tcp://127.0.0.1:5557", control)
        profile = Path(folder) / "demo.toml"
        source = load_profile(shipped).source
        assert isinstance(source, SimulatedSource)  # noqa: S101
        times = math.ceil(count / len(source.channels))
        planned = f"num_times = {times + rungs}\nladder_from = {times}"
        profile.write_text(
            text.replace('kind = "simulated"', f'kind = "simulated"\n{planned}'), encoding="utf-8"
        )
        source = load_profile(profile).source
        assert isinstance(source, SimulatedSource)  # noqa: S101
        microscope = simulated_microscope(source)
        log = Path(folder) / "daemon.log"
        raw: dict[tuple[int, str], VolumeMessage] = {}
        restored: dict[tuple[int, str], tuple[VolumeMessage, datetime]] = {}
        received, wanted = 0, count + rungs * len(source.channels)
        with _receiving(data, control) as arrivals, _daemon(profile, log):
            while received < wanted:
                try:
                    timeout_s = _VOLUME_TIMEOUT_S if received else _START_TIMEOUT_S
                    message, at = arrivals.get(timeout=timeout_s)
                except queue.Empty:
                    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
                    raise SourceError(f"the demo's daemon published nothing:\n{tail}") from None
                key = (message.header.time, message.header.channel)
                number = key[0] * len(source.channels) + source.channels.index(key[1])
                if key[0] < times and number >= count:
                    continue  # of a last time point of which fewer channels were asked for
                if message.header.kind == "raw":
                    raw[key] = message
                else:
                    restored[key] = (message, at)
                if key not in raw or key not in restored:
                    continue
                received += 1
                dose = relative_dose(source, key[0])
                if key[0] < times:
                    yield _score(microscope, raw.pop(key), *restored.pop(key))
                else:
                    raw.pop(key)
                    photons = dose * source.peak_photons
                    truth = microscope.truth(*key, dose)
                    ladder.append(Rung.of(restored.pop(key)[0], truth, photons))


def _score(
    microscope: SimulatedMicroscope, raw: VolumeMessage, restored: VolumeMessage, at: datetime
) -> _Row:
    from live_restore.quality import psnr, ssim

    header = restored.header
    truth = microscope.truth(header.time, header.channel)
    return _Row(
        header.time,
        header.channel,
        psnr(raw.data, truth),
        psnr(restored.data, truth),
        ssim(raw.data, truth),
        ssim(restored.data, truth),
        (at - header.received_at).total_seconds(),
    )


@contextmanager
def _receiving(
    data: str, control: str
) -> Iterator[queue.SimpleQueue[tuple[VolumeMessage, datetime]]]:
    """A thread that notes when each volume arrives, while this one is busy scoring."""
    from live_restore.client import Subscriber, VolumeMessage

    arrivals: queue.SimpleQueue[tuple[VolumeMessage, datetime]] = queue.SimpleQueue()
    done = threading.Event()

    def receive() -> None:
        with Subscriber(data, ("restored", "raw"), control=control, from_start=True) as subscriber:
            while not done.is_set():
                message = subscriber.receive(timeout_s=0.5)
                if isinstance(message, VolumeMessage):
                    arrivals.put((message, datetime.now(UTC)))

    thread = threading.Thread(target=receive, name="demo-viewer")
    thread.start()
    try:
        yield arrivals
    finally:
        done.set()
        thread.join()


@contextmanager
def _daemon(profile: Path, log: Path) -> Iterator[None]:
    """``live-restore run`` in a process of its own, ended in order."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "live_restore", "run", str(profile)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports
