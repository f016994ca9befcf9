"""A real systemd as PID 1 of a container, over this machine's own files, none of which it changes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

_BOOT_S = 60
_ENTER = ["nsenter", "-m", "-u", "-i", "-n", "-p"]


def refuse(reason: str) -> None:
    """Skip, saying why."""
    pytest.skip(f"no container can be booted here: {reason}")


@contextmanager
def booted(folder: Path) -> Iterator[Container]:
    """A running container whose changes lie in a folder's memory."""
    if sys.platform != "linux" or os.geteuid() != 0:
        refuse("needs root on Linux")
    for program in ("systemd-nspawn", "nsenter", "mount"):
        if shutil.which(program) is None:
            refuse(f"needs {program} (Debian's package systemd-container)")
    with ExitStack() as mounted:
        _mount(mounted, ["-t", "tmpfs", "tmpfs"], folder)
        root = _overlay(mounted, Path("/"), folder / "root")
        # Programs of this environment, which root's own folders may hide from others.
        programs = _overlay(mounted, Path(sys.prefix), folder / "programs")
        programs.chmod(0o755)
        for hidden in Path(sys.base_prefix).parents:
            if hidden != Path("/"):
                (root / hidden.relative_to("/")).chmod(0o755)
        yield from _booted(root, programs)


def _booted(root: Path, programs: Path) -> Iterator[Container]:
    log = root.parent / "boot.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *("systemd-nspawn", "--register=no", "--keep-unit", "-D", str(root)),
                *("--private-network", f"--bind={programs}:/opt/live-restore", "-b"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        leader = _leader(process, log)
        yield Container(leader, root)
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Container:
    """The container, for whoever gives it orders."""

    def __init__(self, leader: int, root: Path) -> None:
        self.root = root
        self._enter = [*_ENTER, "-t", str(leader)]

    def run(self, *command: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end."""
        return subprocess.run(
            [*self._enter, *command], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.run("systemctl", "show", unit, "--property", name, "--value").stdout.strip()


def _leader(process: subprocess.Popen[bytes], log: Path) -> int:
    until = time.monotonic() + _BOOT_S
    while time.monotonic() < until and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children:
            state = subprocess.run(
                [*_ENTER, "-t", children[0], "systemctl", "is-system-running"],
                capture_output=True,
                text=True,
                check=False,
            ).stdout.strip()
            if state in ("running", "degraded"):
                return int(children[0])
        time.sleep(0.2)
    refuse(f"it doesn't boot: {log.read_text(errors='replace')[-500:]}")
    raise AssertionError


def _overlay(mounted: ExitStack, lower: Path, at: Path) -> Path:
    parts = {name: at.with_name(f"{at.name}-{name}") for name in ("upper", "work")}
    for one in parts.values():
        one.mkdir()
    options = f"lowerdir={lower},upperdir={parts['upper']},workdir={parts['work']}"
    _mount(mounted, ["-t", "overlay", "overlay", "-o", options], at)
    return at


def _mount(mounted: ExitStack, options: list[str], at: Path) -> None:
    at.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(at)], capture_output=True, text=True, check=False)
    if done.returncode:
        refuse(done.stderr.strip())
    mounted.callback(subprocess.run, ["umount", "-l", str(at)], check=False)
