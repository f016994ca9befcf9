"""A daemon that is killed again and again while stacks come in: nothing lost, nothing twice.

python -m tests.killing [--rounds 50] [--volumes 60]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import tifffile

from live_restore.ledger import Counts
from live_restore.profile import load_profile
from live_restore.record import open_ledger
from tests import growing_layouts as growing

FILES_SHARE = 3  # every third volume comes as a file of its own, the others as a growing dataset


def run(folder: Path, model: Path, rounds: int, volumes: int, seed: int = 0) -> list[str]:
    """Kill so often while so many volumes come; what is wrong afterwards."""
    rng = random.Random(seed)
    today, restored = folder / "today", folder / "restored"
    today.mkdir()
    profile = folder / "p.toml"
    profile.write_text(
        f"[source]\nkind = 'folder'\npath = '{today}'\nsettle_s = 0.1\nrescan_s = 0.5\nnum_slices = 3\n"
        f"[model]\npath = '{model}'\n[write]\nfolder = '{restored}'\n"
        f"[ledger]\nfolder = '{folder}'\n[queue]\norder = 'strict'\n"
        f"[publish]\nendpoint = 'ipc://{folder}/data'\ncontrol = 'ipc://{folder}/control'\n",
        encoding="utf-8",
    )
    written_by = threading.Thread(target=_acquire, args=(today, volumes))
    written_by.start()
    for _ in range(rounds):
        daemon = _start(profile)
        time.sleep(rng.uniform(0.0, 1.0))  # the moments that are of interest, from ready on
        daemon.kill()
        daemon.communicate()
    written_by.join()
    daemon = _start(profile)
    deadline = time.monotonic() + 300
    while _counts(profile).written < volumes and time.monotonic() < deadline:
        time.sleep(0.2)
    daemon.terminate()
    daemon.communicate()
    return _faults(profile, restored, volumes)


def _start(profile: Path) -> subprocess.Popen[str]:
    """A daemon that is ready."""
    command = [sys.executable, "-m", "live_restore", "run", str(profile)]
    daemon = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in daemon.stderr:
        if "ready" in line:
            break
    threading.Thread(target=daemon.stderr.read, daemon=True).start()
    return daemon


def _acquire(today: Path, volumes: int) -> None:
    """Stacks as a microscope saves them: a dataset that grows, and finished files beside it."""
    num_files = volumes // FILES_SHARE
    times = (volumes - num_files) // 2
    dataset = today / "run_1"
    dataset.mkdir()
    pieces = growing.write_mm_stack(
        dataset, growing.images(times=times, shape=(24, 24)), growing.Pieces(2000)
    )
    rng = np.random.default_rng(1)
    every = max(1, times * 6 // max(1, num_files))
    num_whole = done = 0
    for whole in pieces:
        num_whole += whole is not None
        if whole is not None and num_whole % every == 0 and done < num_files:
            _save(today / f"file{done}.tif", rng)
            done += 1
        time.sleep(0.002)
    for number in range(done, volumes - 2 * times):
        _save(today / f"file{number}.tif", rng)


def _save(path: Path, rng: np.random.Generator) -> None:
    data = rng.integers(0, 1000, (3, 24, 24)).astype("u2")
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})


def _counts(profile: Path) -> Counts:
    with open_ledger(load_profile(profile)) as ledger:
        return ledger.counts()


def _faults(profile: Path, restored: Path, volumes: int) -> list[str]:
    faults = []
    counts = _counts(profile)
    if (counts.seen, counts.written) != (volumes, volumes):
        faults.append(f"the ledger tells of {counts}, {volumes} volumes came")
    files = [path for path in restored.rglob("*") if path.is_file()]
    if left := [path.name for path in files if path.suffix != ".tif"]:
        faults.append(f"left behind: {left}")
    whole = [path for path in files if path.suffix == ".tif"]
    if len(whole) != volumes:
        faults.append(f"{len(whole)} files for {volumes} volumes")
    for path in whole:
        if tifffile.imread(path).shape != (3, 24, 24):
            faults.append(f"{path.name} isn't whole")
    return faults


def main() -> None:
    """Print how it went."""
    from live_restore.restore.model_folder import shipped_model

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--volumes", type=int, default=60)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = run(Path(folder), shipped_model(), options.rounds, options.volumes)
    print("\n".join(faults) or f"{options.rounds} kills, {options.volumes} volumes: each one once")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
