"""What is done around each documented command: where it runs, what it finds there, what runs beside it, how it ends."""

from __future__ import annotations

import gzip
import io
import logging
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import tifffile

from live_restore.cli.main import main
from live_restore.cli.status import ask_daemon
from live_restore.guard.camera import find_camera
from live_restore.keys import KeyFolder, default_key_folder
from live_restore.ledger import Origin
from live_restore.profile import Profile, load_profile
from live_restore.record import open_ledger
from live_restore.restore.model import Model
from live_restore.restore.model_folder import find_model
from live_restore.service import Service
from live_restore.simulation.microscope import SimulatedMicroscope
from live_restore.sinks.writer import write_ome_tiff
from live_restore.volume import VolumeKey
from tests.conftest import DATA, free_endpoints, wait_for
from tests.followed import MicroManagerProcess
from tests.test_archive import cluster
from tests.test_calibrate import save as save_frames
from tests.test_characterize import CAMERA, VOXEL, expose, light, write
from tests.test_exposure_ladder import ladder
from tests.test_ladder import save as save_ladder
from tests.test_readme import ROOT, commands
from tests.test_viewer_napari import napari

PATIENCE_S = 120.0  # with what takes seconds where nothing else runs


def documented() -> dict[str, list[str]]:
    """Our commands in the shell blocks of README and docs, and the documents that name each."""
    found: dict[str, list[str]] = {}
    for file in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        name = file.relative_to(ROOT).as_posix()
        if not name.startswith("docs/decisions/"):
            for command in commands(file.read_text(encoding="utf-8")):
                found.setdefault(command, []).append(name)
    return found


@dataclass
class Workspace:
    """The folder that a command runs in, as its current one.

    Attributes
    ----------
    names : dict
        What differs between machines, for ``{data}`` and its like in `Story.instead` and `Story.more`.
    daemon : threading.Thread or None
        The service beside the command.
    """

    folder: Path
    model: Model
    names: dict[str, str] = field(default_factory=dict)
    daemon: threading.Thread | None = None

    def __post_init__(self) -> None:
        data, control = free_endpoints()
        bridge = free_endpoints()[0].rpartition(":")[2]
        self.names |= {"data": data, "control": control, "bridge": bridge}

    def settings(self, profile: str) -> Profile:
        return load_profile(self.folder / profile)


Step = Callable[[Workspace], object]
Runs = Callable[[Workspace, list[str]], tuple[int, str]]  # gives exit code and what was printed


def step(function: Callable[..., object]) -> Callable[..., Step]:
    """Makes a step of a function of the workspace and more, once it is given what is more."""
    return lambda *more, **named: lambda at: function(at, *more, **named)


@dataclass(frozen=True)
class Story:
    """How a documented command is executed, and what is expected of it."""

    finds: tuple[Step, ...] = ()  # they put into the workspace what the command needs
    instead: Mapping[str, str] = field(default_factory=dict)  # of what no test machine has
    more: str = ""  # options appended, mostly to make it short: the last one counts
    beside: Callable[[Workspace], Any] | None = None  # a context manager: what runs meanwhile
    runs: Runs | None = None  # without it, it is called in this process, and ends by itself
    ends: int = 0  # exit code
    says: tuple[str, ...] = ()  # found in what it prints
    leaves: tuple[Step, ...] = ()  # they look at its results, while what runs beside it still does

    def execute(self, command: str, at: Workspace) -> None:
        """Run it and look."""
        for find in self.finds:
            find(at)
        with ExitStack() as stack:
            if self.beside:
                stack.enter_context(self.beside(at))
            for documented, instead in self.instead.items():
                assert documented in command, f"{documented!r} isn't in the command any more"
                command = command.replace(documented, instead.format(**at.names))
            command, _, file = command.partition(" > ")
            arguments = shlex.split(f"{command} {self.more.format(**at.names)}")[1:]
            code, said = (self.runs or in_this_process)(at, arguments)
            assert code == self.ends, f"{command} ended with {code}:\n{said}"
            if file:
                (at.folder / file).write_text(said, encoding="utf-8")
            for text in self.says:
                assert text in said, f"{command} doesn't say {text!r}:\n{said}"
            for look in self.leaves:
                look(at)


# How a command is run


def in_this_process(at: Workspace, arguments: list[str]) -> tuple[int, str]:
    """Of one that ends by itself."""
    root, said = logging.getLogger(), io.StringIO()
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)}
    level = root.level
    try:
        with redirect_stdout(said), redirect_stderr(said):
            code = main(arguments)
    except SystemExit as end:  # of the parser
        code = end.code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        root.setLevel(level)
    return code, said.getvalue()


def in_its_own(at: Workspace, arguments: list[str]) -> tuple[int, str]:
    """The same in a process of its own, for one that starts processes itself."""
    with _Process(arguments, {}) as process:
        return process.ended()


def until(
    line: str, meanwhile: Callable[[re.Match[str]], object] = lambda _: None, **environment: str
) -> Runs:
    """Of one that never ends: SIGINT, as by Ctrl-C, as soon as it has printed what matches `line`."""

    def run(at: Workspace, arguments: list[str]) -> tuple[int, str]:
        with _Process(arguments, environment) as process:
            meanwhile(process.wait_for(line))
            return process.ended(signal.SIGINT)

    return run


class _Process:
    """One of the program's commands, and what it has printed so far."""

    def __init__(self, arguments: list[str], environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "live_restore", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
        )
        self._said: list[str] = []
        self._reader = threading.Thread(target=lambda: self._said.extend(self._process.stdout))
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()

    def wait_for(self, line: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            return re.search(line, "".join(self._said))

        try:
            wait_for(lambda: found() or self._process.poll() is not None, line, PATIENCE_S)
        except AssertionError as error:
            error.add_note("".join(self._said))
            raise
        return found() or pytest.fail(f"doesn't say {line!r}:\n{''.join(self._said)}")

    def ended(self, by: signal.Signals | None = None) -> tuple[int, str]:
        if by is not None:
            self._process.send_signal(by)
        code = self._process.wait(PATIENCE_S)
        self._reader.join()
        return code, "".join(self._said)


NAPARI = """
from live_restore.cli.main import main
from qtpy.QtCore import QTimer

run, seen = napari.run, []

def run_until_layers_are_there():
    viewer, timer = napari.current_viewer(), QTimer()
    def look():
        if len(viewer.layers) == 4:
            seen[:] = [about(one)["shape"] for one in viewer.layers]
            viewer.close()
    timer.timeout.connect(look)
    timer.start(100)
    run()

napari.run = run_until_layers_are_there
print(json.dumps({"code": main(sys.argv[1:]), "seen": seen}))
"""


def in_a_window(at: Workspace, arguments: list[str]) -> tuple[int, str]:
    """Of napari, under Xvfb: the window is closed when its layers are there."""
    found = napari(NAPARI, *arguments)
    return found["code"], str(found["seen"])


# What a command finds


@step
def folder(at, name):
    (at.folder / name).mkdir()


@step
def profile(at, file, shipped, changes=()):
    """A shipped profile, as ``live-restore profiles`` prints it, with changes, on ports that are free."""
    if shipped == "democam":
        pytest.importorskip("mm_test_adapters")
    code, text = in_this_process(at, ["profiles", shipped])
    assert code == 0
    for before, after in dict(changes).items():
        assert before in text, f"{before!r} isn't in the profile {shipped} any more"
        text = text.replace(before, after.replace("{tiny}", at.model.path.as_posix()))
    for name, port in (("data", "tcp://127.0.0.1:5556"), ("control", "tcp://127.0.0.1:5557")):
        text = text.replace(port, at.names[name])
    text = text.replace("4827", at.names["bridge"])
    (at.folder / file).write_text(text, encoding="utf-8")


@step
def stacks(at, *files):
    """Z-stacks of noise."""
    for file in files:
        (at.folder / file).parent.mkdir(parents=True, exist_ok=True)
        data = np.random.default_rng(0).poisson(110, (1, 1, 6, 48, 48)).astype("u2")
        write_ome_tiff(at.folder / file, data, data.shape, data.dtype, VOXEL, ("GFP",), {})


@step
def specimens(at, low="", high="", truth="", num=2):
    """Folders of the same fields of view, simulated nuclei: with a tenth of the light, with all, without noise."""
    for seed in range(num):
        photons, name = light(seed), f"cell_{seed}.ome.tif"
        if low:
            write(at.folder / low / name, expose(photons / 10, 100))
        if high:
            write(at.folder / high / name, expose(photons))
        if truth:
            write(at.folder / truth / name, CAMERA.expected_counts(photons))


@step
def frames(at, **photons):
    """Series of identical exposures: the name of each file, and its light."""
    for name, one in photons.items():
        save_frames(at.folder / f"{name}.tif", one, 4 if one else 10)


def raw_stack(at):
    tifffile.imwrite(at.folder / "raw.tif", SimulatedMicroscope(peak_photons=40).stack(0, "nuclei"))


def earlier_ladders(at):
    for name, seed in (("ladder-monday", 7), ("ladder-tuesday", 8)):
        field = ladder(0.02, doses=(1 / 8, 1.0), peak=300.0, seed=seed)
        save_ladder(at.folder / name, field)


@step
def model(at, file, kind="tiny"):
    """A model: untrained ("tiny"), that which comes along ("default"), or from elsewhere ("keras")."""
    path = at.folder / file
    path.parent.mkdir(exist_ok=True)
    if kind == "keras":
        packed = (DATA / "keras" / "small_keras2.hdf5.gz").read_bytes()
        path.write_bytes(gzip.decompress(packed))
    else:
        shutil.copy(at.model.path if kind == "tiny" else find_model(kind), path)


@step
def camera(at, name, mode=""):
    """A calibration that is known by its name."""
    find_camera("demo").model_copy(update={"camera": name, "mode": mode}).save()


@step
def keys(at, *clients):
    """The daemon's own keys in the default folder, and those of clients here."""
    no_keys(at)
    folder = KeyFolder(default_key_folder())
    folder.init()
    for name in clients:
        folder.add(name, "viewer", at.folder / f"{name}.keys")


def no_keys(at):
    """The default folder is in the workspace, and isn't there yet."""
    if not default_key_folder().is_relative_to(at.folder):
        pytest.skip("the default folder of keys can be moved on Linux only")


def failed_volume(at):
    """The ledger knows of one that could not be restored."""
    with open_ledger(at.settings("my.toml")) as ledger:
        origin, key = Origin("cell.tif", ""), VolumeKey("cell", "0", 0, "GFP")
        ledger.note_seen(origin, key)
        ledger.note_skipped(origin, key, "plane 4 never came", is_final=True)


# What runs beside it


def daemon(file, is_ready=lambda at, told: True, then=lambda at: None):
    """The service of a profile, in this process: its first volume is restored, and its answer suits `is_ready`."""

    @contextmanager
    def run(at: Workspace) -> Iterator[None]:
        read = lambda: at.settings(file)  # noqa: E731
        service, results = Service(read(), read_profile=read), []
        at.daemon = threading.Thread(target=lambda: results.append(service.run()), name="daemon")
        at.daemon.start()

        def is_there() -> bool:
            assert at.daemon.is_alive(), "the daemon ended; see the log"
            told = ask_daemon(read())
            return bool(told and told["model"] and is_ready(at, told))

        try:
            wait_for(is_there, "the daemon", PATIENCE_S)
            then(at)
            yield
        finally:
            service.stop()
            at.daemon.join()
        assert results == [True]

    return run


@contextmanager
def micro_manager(at: Workspace) -> Iterator[None]:
    """Our stand-in for it, which acquires."""
    with MicroManagerProcess(int(at.names["bridge"])) as process:
        process.start(images=36)  # of 72, so that it goes on
        yield


@contextmanager
def dask_cluster(at: Workspace) -> Iterator[None]:
    """One worker on this computer."""
    with cluster(1) as (address, _):
        at.names["scheduler"] = address
        yield
