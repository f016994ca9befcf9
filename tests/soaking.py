"""A service in trouble for as long as wanted: simulated acquisitions, faults at random, and what came of it.

Three daemons, each a ``live-restore run``: ``ingest`` gets planes that a script sends, ``folder`` watches where stacks
are saved, ``bridge`` follows a stand-in for Micro-Manager. What is to become of each volume is known before it is
acquired, and compared in the end with ledger and files. One daemon's faults come one after another, those of several
at the same time; each kind comes once before any comes again.
"""

from __future__ import annotations

import io
import itertools
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import zmq

from live_restore.plane_protocol import PlaneHeader, PlanesEnd
from live_restore.plane_sender import PlaneSender
from tests import hostile_frames as hostile
from tests.conftest import free_endpoints, wait_for
from tests.followed import MicroManagerProcess
from tests.measured import PATIENCE_S, Program, freeze, works

SHAPE = NUM_SLICES, *SHAPE_YX = 8, 96, 96
CHANNELS, POSITIONS = ("DAPI", "FITC"), ("A", "B")
MOST_WAITING = 40
"""Volumes, before more are acquired: for a computer that has much else to do, whose daemons would fall behind."""
WRITTEN, CUT = "", "planes are missing"
GOOD = {"written", "told", "unwritten"}
"""See `Daemon.fates`."""
SENT = {  # what the reason says for which such a stack isn't restored
    "a plane of another shape": "camera's ROI",
    "a plane of another type": "bit depth",
    "a colour plane": "a colour image",
    "planes doubled, out of order": WRITTEN,
    "sender dies in mid-stack": CUT,
}
SAVED = {
    "half a file, later the rest": WRITTEN,
    "another name, then its own": WRITTEN,
    "not a number": "NaN",
    "no TIFF at all": None,
}
STARTED = {"acquisition aborted in mid-stack": CUT, "Micro-Manager killed and started": WRITTEN}

Key = tuple[str, str, int, str]
"""Acquisition, position, time, channel."""
Fault = Callable[[random.Random], Any]
Note = Callable[[str], None]
"""Takes a fault that comes now."""


def deck(rng: random.Random, *cards: Any) -> Iterator[Any]:
    """Cards as they are drawn: all of them before any comes again."""
    while True:
        yield from rng.sample(cards, len(cards))


class Daemon(Program):
    """A daemon with profile, ledger and disk of its own, and what is to become of its volumes."""

    def __init__(self, folder: Path, source: str, model: object = "default") -> None:
        self.expected: dict[Key, str] = {}  # `WRITTEN`, or what the reason says of one that isn't
        self._comes_again = folder.name == "folder"  # what couldn't be written is read once more
        self.disk, self._nowhere, self._out = folder / "disk", folder / "nowhere", folder / "out"
        self.disk.mkdir(parents=True)
        self._nowhere.touch()
        self.is_mounted = works("mount", "-t", "tmpfs", "-o", "size=256m", "tmpfs", self.disk)
        self._lead(self.disk)
        self.data, self.control = free_endpoints()
        self._profile = folder / "p.toml"
        self._text = (
            f"[source]\n{source}\n[ledger]\nfolder = '{folder}'\n[write]\nfolder = '{self._out}/r'\n"
            f"[publish]\nendpoint = '{self.data}'\ncontrol = '{self.control}'\nhistory_mb = 4\n"
            "[queue]\nmemory_mb = 1\n"  # so that bursts wait on disk
            f"[model]\npath = '{model}'\n"
        )
        self._profile.write_text(self._text, encoding="utf-8")
        super().__init__(folder, "run", str(self._profile))

    def start(self) -> None:
        self.await_word(rb"INFO +ready", super().start)

    def close(self) -> None:
        super().close()
        if self.is_mounted:
            works("umount", "-l", self.disk)

    def faults(self) -> dict[str, Fault]:
        some: dict[str, Fault] = {
            "output folder gone": self._lose_folder,
            "broken profile, then a good one": self._reload,
            "garbage at its ports": self._throw_garbage,
        }
        if self.is_mounted:
            some["disk full"] = lambda rng: self._remount(rng, None, "size=256m")
            some["disk read-only"] = lambda rng: self._remount(rng, "ro", "rw")
        return some

    def _lead(self, to: Path) -> None:
        """Have the output folder lie elsewhere from this moment on."""
        link = self._out.with_suffix(".new")
        link.symlink_to(to)
        link.replace(self._out)

    def _lose_folder(self, rng: random.Random) -> None:
        self._lead(self._nowhere)
        time.sleep(rng.uniform(1, 5))
        self._lead(self.disk)

    def _remount(self, rng: random.Random, fault: str | None, healed: str) -> None:
        def remount(option: str | None) -> bool:
            full = f"size={max(4096, psutil.disk_usage(str(self.disk)).used)}"  # 0 is no limit
            return works("mount", "-o", f"remount,{option or full}", self.disk)

        # Refused at times: while a file is written, and while another thread mounts.
        wait_for(lambda: remount(fault), "the fault", PATIENCE_S)
        time.sleep(rng.uniform(1, 5))
        wait_for(lambda: remount(healed), "its end", PATIENCE_S)

    def _hang_up(self, text: str, answer: bytes) -> None:
        self._profile.write_text(text, encoding="utf-8")
        self.await_word(answer, lambda: self.process.send_signal(signal.SIGHUP))

    def _reload(self, rng: random.Random) -> None:
        no_toml, other_queue = f"{self._text}[guard", self._text.replace("_mb = 1\n", "_mb = 2\n")
        no_model = re.sub(r"(?<=\[model\]\npath = ').*(?=')", str(self._nowhere), self._text)
        self._hang_up(rng.choice([no_toml, other_queue, no_model]), b"not reloaded|isn't reloaded")
        time.sleep(rng.uniform(1, 3))
        precision, budget = rng.choice(["auto", "float32"]), rng.choice([0.05, 0.1])
        tables = f"precision = '{precision}'\n[guard]\nbudget = {budget}\n"
        self._hang_up(self._text + tables, b"model reloaded")

    def _throw_garbage(self, rng: random.Random) -> None:
        for port in rng.choices(re.findall(r"tcp://127.0.0.1:(\d+)", self._text), k=5):
            with zmq.Context() as context, context.socket(zmq.DEALER) as sender:
                sender.linger = sender.sndtimeo = 1000
                sender.connect(f"tcp://127.0.0.1:{port}")
                with suppress(zmq.Again):  # it has refused a peer of this kind already
                    sender.send_multipart(hostile.garbage(rng))
            with socket.create_connection(("127.0.0.1", int(port)), PATIENCE_S) as raw:
                raw.sendall(hostile.raw_bytes(rng, rng.choice([b"PUSH", b"SUB", b"DEALER"])))

    def kill_child(self, _: random.Random) -> None:
        parent = psutil.Process(self.process.pid)
        child = wait_for(parent.children, "a child", PATIENCE_S)[0]
        child.kill()
        wait_for(lambda: {*parent.children()} - {child}, "another child", PATIENCE_S)

    def ledger(self) -> dict[Key, tuple[str, str, str]]:
        """State, reason and output of each volume."""
        (file,) = self.folder.glob("*.sqlite")
        what = "acquisition, position, time, channel, state, ifnull(reason, ''), ifnull(output, '')"
        with closing(sqlite3.connect(file, timeout=30)) as database:
            rows = database.execute(f"SELECT {what} FROM volumes").fetchall()
        # Micro-Manager's are called by their prefix and when they began.
        noted = {(row[0].partition("_")[0], *row[1:4]): row[4:] for row in rows}
        assert len(noted) == len(rows), f"{self.folder.name}: a volume stands twice in the ledger"
        return noted

    def fates(self, keys: Collection[Key] = ()) -> dict[Key, str]:
        """``written``; ``told``, as skipped for its fault; ``unwritten``, since it came once and just then the disk was
        in trouble; or what is wrong. Of these volumes, or of all."""
        noted, fates = self.ledger(), {}
        for key in keys or {*self.expected, *noted}:
            state, reason, _ = noted.get(key, ("unknown", "", ""))
            wanted = self.expected.get(key, "nobody acquired it")
            fates[key] = f"{state} {reason}"
            if state == "written" and wanted == WRITTEN:
                fates[key] = "written"
            elif state in ("skipped", "failed") and wanted and wanted in reason:
                fates[key] = "told"
            elif "can't be written" in reason and wanted == WRITTEN and not self._comes_again:
                fates[key] = "unwritten"
        return fates

    def await_settled(self, keys: Collection[Key] = (), most: int = 0) -> None:
        """Until no more than so many of these, or of all, wait; for as long as their number changes."""
        before, since_s = -1, time.monotonic()
        while (left := sum(fate not in GOOD for fate in self.fates(keys).values())) > most:
            if left != before:
                before, since_s = left, time.monotonic()
            waited_s = time.monotonic() - since_s
            assert waited_s < PATIENCE_S, f"{self.folder.name}: {left} volumes wait in vain"
            time.sleep(0.1)


def send_planes(
    rng: random.Random, daemon: Daemon, endpoint: str, note: Note, ending: threading.Event
) -> None:
    """Acquisitions of a script that sends its planes, some without a pause."""
    plan = {"num_slices": NUM_SLICES, "channels": CHANNELS, "positions": POSITIONS}
    cards, pauses_s = deck(rng, *SENT, *[""] * 20), deck(rng, 0.0, 0.4, 0.5, 0.6)
    for name in (f"run{number}" for number in itertools.count()):
        count, pause_s, num_times = itertools.count(), next(pauses_s), rng.randrange(4, 12)
        places = itertools.product(range(num_times), POSITIONS, CHANNELS)
        daemon.await_settled(most=MOST_WAITING)
        with closing(PlaneSender(endpoint, 2**26)) as sender:
            for t, position, channel in places:
                if card := next(cards):
                    note(f"ingest: {card}")
                daemon.expected[name, position, t, channel] = SENT.get(card, WRITTEN)
                for z, plane in _planes(rng, card):
                    about = {"position": position, "time": t, "channel": channel, "z": z}
                    about |= {"type": plane.dtype.name, "shape": plane.shape} | plan
                    header = PlaneHeader(sender=name, acquisition=name, number=next(count), **about)
                    assert sender.send(header, plane, _patience()), "the daemon takes no planes"
                if "dies" in card:
                    break
                ending.wait(pause_s)
            else:
                sender.say(PlanesEnd(sender=name, acquisition=name))
            assert sender.await_sent(_patience()), "the daemon takes no planes"
        if ending.is_set():
            return


def _patience() -> Callable[[], bool]:
    """Says, asked again and again, whether to go on waiting."""
    end_s = time.monotonic() + PATIENCE_S
    return lambda: time.monotonic() < end_s


def _planes(rng: random.Random, card: str) -> list[tuple[int, np.ndarray]]:
    """A stack's planes with their numbers, as they are sent."""
    planes = list(enumerate(_stack(rng)))
    z = rng.randrange(1, NUM_SLICES)
    match card:
        case "a plane of another shape":
            planes[z] = z, planes[z][1][1:]
        case "a plane of another type":
            planes[z] = z, planes[z][1].astype("u1")
        case "a colour plane":
            planes[z] = z, np.zeros((*SHAPE_YX, 3), "u1")
        case "planes doubled, out of order":
            rng.shuffle(planes)
            planes.insert(z, planes[0])
        case "sender dies in mid-stack":
            del planes[z:]
    return planes


def _stack(rng: random.Random, *more: int) -> np.ndarray:
    return np.random.default_rng(rng.getrandbits(32)).poisson(100, (*more, *SHAPE)).astype("u2")


def save_stacks(
    rng: random.Random, daemon: Daemon, folder: Path, note: Note, ending: threading.Event
) -> None:
    """Files of two volumes each as a microscope's program saves them, some in a strange way."""
    cards, unfinished = deck(rng, *SAVED, *[""] * 6), list[tuple[Path, bytes]]()
    for number in itertools.count():
        name, card, file = f"s{number}", next(cards), io.BytesIO()
        if card:
            note(f"folder: {card}")
        data = np.full((2, *SHAPE), np.nan, "f4") if "number" in card else _stack(rng, 2)
        names = {"axes": "CZYX", "Channel": {"Name": CHANNELS}}
        tifffile.imwrite(file, data, ome=True, metadata=names)
        path, content = folder / f"{name}.tif", file.getvalue()
        wanted = SAVED.get(card, WRITTEN)
        if wanted is None:
            content = rng.randbytes(5000)
        else:
            daemon.expected |= {(name, "0", 0, channel): wanted for channel in CHANNELS}
        if "half" in card:
            half = len(content) // 2
            path.write_bytes(content[:half])
            unfinished.append((path, content[half:]))
        elif "another name" in card:
            other = path.with_suffix(".part")
            other.write_bytes(content)
            other.rename(path)
        else:
            path.write_bytes(content)
        is_last = ending.wait(rng.uniform(0.5, 1.5))
        daemon.await_settled(most=MOST_WAITING)
        while unfinished and (is_last or rng.random() < 0.2):
            path, rest = unfinished.pop(0)
            with path.open("ab") as opened:
                opened.write(rest)
        if is_last:
            return


class Microscope:
    """The stand-in for Micro-Manager, which may hang and die."""

    def __init__(self) -> None:
        self.one = MicroManagerProcess()

    def close(self) -> None:
        self.one.kill()

    def hang(self, rng: random.Random) -> None:
        freeze(self.one.process, rng)

    def restart(self) -> None:
        self.one.kill()
        self.one = MicroManagerProcess(self.one.port)

    def acquire(
        self, rng: random.Random, daemon: Daemon, note: Note, ending: threading.Event
    ) -> None:
        """Acquisitions that are started in its window."""
        cards, plan = deck(rng, *STARTED, *[""] * 3), {"num_slices": NUM_SLICES, "shape": SHAPE_YX}
        plan |= {"channels": list(CHANNELS), "positions": list(POSITIONS)}
        for name in (f"mm{number}" for number in itertools.count()):
            if "killed" in (card := next(cards)):
                self.restart()
            if card:
                note(f"bridge: {card}")
            acquired = self.one.start(prefix=name, num_times=rng.randrange(2, 5), images=0, **plan)
            total = len(acquired.places)
            last = rng.randrange(2, total) if "aborted" in card else total
            numbers = Counter(place[:3] for place in acquired.places[:last])
            wanted = {
                (name, POSITIONS[p], t, CHANNELS[c]): WRITTEN if number == NUM_SLICES else CUT
                for (t, p, c), number in numbers.items()
            }
            daemon.expected |= wanted
            for images in (*range(0, last, 4), last):
                self.one.tell("images", up_to=images)
                ending.wait(0.25)
            if last < total:
                self.one.tell("abort")
            daemon.await_settled(wanted)
            if ending.is_set():
                return
