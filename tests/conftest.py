"""Fixtures that all tests share."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from live_restore.restore.model import (
    Architecture,
    Model,
    ModelCard,
    build_network,
    load_model,
    save_model,
)
from live_restore.volume import (
    AcquisitionInfo,
    ModelUse,
    Restored,
    Volume,
    VolumeKey,
    utc_now,
)

ROOT = Path(__file__).parents[1]
"""From where ``python -m tests.…`` is found, whatever folder a test is in."""
DATA = Path(__file__).parent / "data"

# Here and in each process that a test starts: two threads that wait for each other are many times
# slower than one where something else has one of the cores.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


# Files that take longest, begun first: else one of them is what everybody waits for in the end.
_LONGEST = (
    *(
        "test_soak",
        "test_documented_commands",
        "test_systemd",
        "test_archive",
        "test_train",
        "test_cli",
    ),
    *("test_viewer_page", "test_engine", "test_acquisition", "test_restarts"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Order of files; within each, as written."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(_LONGEST)))


@pytest.fixture(autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this computer keeps the state of programs, for this test alone."""
    folder = tmp_path_factory.mktemp("state")
    monkeypatch.setenv("XDG_STATE_HOME", str(folder))
    return folder


@pytest.fixture(autouse=True)
def no_thread_survives() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while left := [t for t in threading.enumerate() if t not in before and not _is_pyzmqs(t)]:
        # watchdog's helpers end a moment after they were told to.
        assert time.monotonic() < deadline, f"threads survive the test: {left}"
        left[0].join(0.1)


def _is_pyzmqs(thread: threading.Thread) -> bool:
    """Whether it is the one that pyzmq keeps per process for sending without copying."""
    return type(thread).__module__.startswith("zmq.")


@pytest.fixture
def endpoints() -> tuple[str, str]:
    """Data and control endpoints on free ports."""
    return free_endpoints()


def free_endpoints() -> tuple[str, str]:
    """Two endpoints on free ports."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return f"tcp://127.0.0.1:{ports[0]}", f"tcp://127.0.0.1:{ports[1]}"


def make_info(shape=(3, 4, 5), dtype="u2", **changes: Any) -> AcquisitionInfo:
    fields = {
        "acquisition": "run",
        "shape_zyx": shape,
        "dtype": np.dtype(dtype),
        "voxel_size_um": (0.5, 0.1, 0.1),
        "channels": ("DAPI",),
        "num_times": 1,
    }
    return AcquisitionInfo(**(fields | changes))


def make_volume(
    data: np.ndarray | None = None, time: int = 0, channel: str = "DAPI", **changes: Any
) -> Volume:
    if data is None:
        data = np.random.default_rng(time).integers(0, 60000, (3, 4, 5)).astype("u2")
    info = make_info(data.shape, data.dtype, **changes)
    key = VolumeKey(info.acquisition, "0", time, channel)
    return Volume(key, info, data, utc_now(), utc_now(), 0.0)


def make_restored(volume: Volume | None = None, **changes: Any) -> Restored:
    volume = volume or make_volume(**changes)
    use = ModelUse("m", "0" * 64, "float32", "cpu", (3, 4, 5))
    data = volume.data // 2
    return Restored(volume.key, volume.info, data, volume, use, (0.0, 1.0), {"restoring": 0.1})


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """An untrained network of a few hundred weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    architecture = Architecture(
        num_channels=4, num_residual_groups=2, num_residual_blocks=1, channel_reduction=2
    )
    card = ModelCard(
        name="tiny",
        description="untrained",
        architecture=architecture,
        training_data="none",
        licence="BSD-3-Clause",
    )
    save_model(path, build_network(architecture), card)
    return load_model(path)


@pytest.fixture(scope="session")
def built_client(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[str]]:
    """Gives the command of a client in docs/clients, compiled once; skips where it can't be."""
    from tests.client_programs import build

    commands: dict[str, list[str]] = {}

    def command(language: str) -> list[str]:
        if language not in commands:
            commands[language] = build(language, tmp_path_factory.mktemp(language))
        return commands[language]

    return command


@contextmanager
def daemon(profile: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``live-restore run`` in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", "live_restore", "run", str(profile), *arguments],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def live_restore(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "live_restore", *(str(one) for one in arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"COLUMNS": "400"},  # so that tables don't break paths
        check=False,
    )


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = 60) -> Any:
    """What `condition` gives as soon as it is true."""
    deadline = time.monotonic() + timeout_s
    for _ in itertools.count():
        if result := condition():
            return result
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)
    return None
