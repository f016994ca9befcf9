"""What this installation and computer are: what whoever helps will ask first.

Everything is looked at without disturbing a daemon that runs: ports aren't opened, nothing is restored.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from live_restore import __version__
from live_restore.errors import LiveRestoreError
from live_restore.profile import AcquisitionSource, FolderSource, MicroManagerSource, Profile
from live_restore.record import ledger_file, open_ledger
from live_restore.sources.bridge.inquiry import inquire

__all__ = ["Section", "examine"]

Section = tuple[str, list[tuple[str, str]]]
"""A heading, and names with what was found."""

_PACKAGES = (
    *("torch", "triton", "numpy", "scipy", "pyzmq", "pydantic", "safetensors", "tifffile", "zarr"),
    *("watchdog", "websockets", "pycromanager", "pyjavaz", "imagecodecs", "bioio", "napari"),
    "prometheus-client",
)
_ANSWER_S = 20.0
_CONNECT_S = 0.5
_MB = 2**20


def examine(profile: Profile | None = None) -> Iterator[Section]:
    """Look at one thing after the other; what can't be found out says so in its place.

    Parameters
    ----------
    profile : Profile, optional
        Whose ports, folders and ledger are looked at too.
    """
    yield "program", [("live_restore", __version__), *_versions()]
    yield "computer", _computer()
    yield "GPU", [("PyTorch", _tried(_torch)), ("driver", _tried(_driver))]
    if profile is None:
        return
    yield "source", [(profile.source.kind, _tried(partial(_source, profile)))]
    yield "ports", [(port, _tried(partial(_port, port))) for port in _ports(profile)]
    yield "disk", [(name, _tried(partial(_free, path))) for name, path in _folders(profile)]
    yield "volumes", _volumes(profile)


def _tried(look: Callable[[], str]) -> str:
    try:
        return look()
    except (LiveRestoreError, OSError, subprocess.SubprocessError) as error:
        return f"? {error}"


def _versions() -> list[tuple[str, str]]:
    found = [("Python", f"{platform.python_version()}, {platform.python_implementation()}")]
    for name in _PACKAGES:
        try:
            found.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return found


def _computer() -> list[tuple[str, str]]:
    memory = psutil.virtual_memory()
    is_virtual = "yes" if sys.prefix != sys.base_prefix else "no"
    return [
        ("system", f"{platform.platform()}, {platform.machine()}"),
        ("processor", f"{_processor()}, {os.cpu_count()} cores"),
        ("memory", f"{memory.total / 2**30:.1f} GiB, {memory.available / 2**30:.1f} GiB available"),
        ("virtual environment", is_virtual),
    ]


def _processor() -> str:
    listed = Path("/proc/cpuinfo")  # of Linux, where `platform` doesn't know
    if listed.is_file():
        for line in listed.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "?"


def _torch() -> str:
    """In a process of its own: a driver that hangs or crashes must not take this one with it."""
    code = (
        "import torch\n"
        "names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]\n"
        "built = torch.version.cuda or 'no CUDA'\n"
        "print(f'built with {built}; ' + (', '.join(names) or 'sees no GPU')\n"
        "      + f'; bfloat16 on the processor: {torch.ops.mkldnn._is_mkldnn_bf16_supported()}')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        return f"? {(done.stderr.strip().splitlines() or ['it ends without a word'])[-1]}"
    return done.stdout.strip()


def _driver() -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return "no nvidia-smi"
    asked = "--query-gpu=name,driver_version,memory.total,memory.used,temperature.gpu"
    done = subprocess.run(
        [program, asked, "--format=csv,noheader"],
        capture_output=True,
        text=True,
        timeout=_ANSWER_S,
        check=False,
    )
    return "; ".join((done.stdout or done.stderr).strip().splitlines()) or "nvidia-smi says nothing"


def _source(profile: Profile) -> str:
    match profile.source:
        case MicroManagerSource(port=port):
            told = inquire(port)
            return f"Micro-Manager {told.version or '(version not told)'} answers on port {port}"
        case FolderSource(path=path):
            return f"{_short(path)} {'is there' if path.is_dir() else 'IS NOT THERE'}"
        case AcquisitionSource() as own:
            return f"{own.micro_manager}, {own.config_file}, backend {own.backend}"
        case _:
            return "needs nothing"


def _ports(profile: Profile) -> list[str]:
    found = [] if profile.publish is None else [profile.publish.endpoint, profile.publish.control]
    found.append(getattr(profile.source, "endpoint", None))
    if profile.metrics is not None:
        found.append(f"tcp://127.0.0.1:{profile.metrics.port}")
    return [one for one in found if one]


def _port(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.hostname is None or parts.port is None:
        return "isn't of this computer's network"
    host = "127.0.0.1" if parts.hostname in ("0.0.0.0", "*") else parts.hostname  # noqa: S104
    try:
        socket.create_connection((host, parts.port), timeout=_CONNECT_S).close()
    except OSError:
        return "nobody listens: no daemon runs, or it uses other ports"
    return "somebody listens"


def _folders(profile: Profile) -> list[tuple[str, Path]]:
    found = []
    if profile.write is not None:
        found.append(("results", profile.write.folder))
    if isinstance(profile.source, FolderSource):
        found.append(("watched", profile.source.path))
    file = ledger_file(profile)
    if file is not None:
        found.append(("ledger and spool", file.parent))
    return found


def _free(path: Path) -> str:
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    usage = shutil.disk_usage(there)
    text = f"{_short(path)}: {usage.free / 2**30:.1f} GiB free of {usage.total / 2**30:.0f}"
    if there is not path:
        text += " (isn't there yet)"
    elif not os.access(path, os.W_OK):
        text += " (can't be written to by this user)"
    return text


def _volumes(profile: Profile) -> list[tuple[str, str]]:
    file = ledger_file(profile)
    if file is None or not file.is_file():
        return [("ledger", "none")]
    found = [("ledger", f"{_short(file)}, {file.stat().st_size / _MB:.1f} MB")]
    ledger = open_ledger(profile)
    if ledger is None:
        return found
    try:
        with ledger:
            counts, problems = ledger.counts(), ledger.problems()
    except LiveRestoreError as error:
        return [*found, ("?", str(error))]
    found.append(
        (
            "counted",
            f"{counts.seen} seen, {counts.restored + counts.written} restored, {counts.waiting} waiting, "
            f"{counts.skipped} skipped, {counts.failed} failed",
        )
    )
    return found + [(one.state, f"{one.key}: {one.reason}") for one in problems]


def _short(path: Path) -> str:
    """Without the user's name, for what is pasted in public."""
    try:
        return f"~/{path.absolute().relative_to(Path.home()).as_posix()}"
    except ValueError:
        return str(path)
