"""A daemon in a process of its own whose disk is full, whose folder is read-only, whose ledger is damaged."""

import os
import sqlite3
import subprocess
import sys
from contextlib import closing, contextmanager

import numpy as np
import pytest
import tifffile

from live_restore.ledger import Ledger, Origin
from live_restore.profile import load_profile
from live_restore.record import ledger_file, open_ledger
from live_restore.volume import VolumeKey
from tests.conftest import daemon

SHAPE = (4, 64, 64)


@contextmanager
def mounted(path, options):
    """A small file system of its own; skips the test where mounting isn't allowed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def profile(tmp_path, tiny_model):
    (tmp_path / "today").mkdir()
    path = tmp_path / "p.toml"
    path.write_text(
        f"[source]\nkind = 'folder'\npath = 'today'\nsettle_s = 0.1\nrescan_s = 0.5\n"
        f"[model]\npath = '{tiny_model.path}'\n[write]\nfolder = 'out/restored'\n"
        f"[ledger]\nfolder = '{tmp_path}'\n"
        f"[publish]\nendpoint = 'ipc://{tmp_path}/data'\ncontrol = 'ipc://{tmp_path}/control'\n",
        encoding="utf-8",
    )
    return path


def acquire(profile, name):
    path = profile.parent / "today" / name
    data = np.random.default_rng(0).integers(100, 4000, SHAPE).astype("u2")
    tifffile.imwrite(path, data, photometric="minisblack")
    return path, path.read_bytes()


def counts_until(profile, is_reached):
    with open_ledger(load_profile(profile)) as ledger:
        for _ in range(1200):
            counts = ledger.counts()
            if is_reached(counts):
                return ledger.problems()
            subprocess.run(["sleep", "0.1"], check=True)
    raise AssertionError(counts)


def stopped(process):
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    return errors


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_a_full_disk_is_told_of_and_work_goes_on_when_there_is_room(tmp_path, profile):
    with mounted(tmp_path / "out", "size=128k") as out:
        with daemon(profile) as process:
            filler = out / "filler"
            filler.write_bytes(bytes(100 * 1024))
            acquired = [acquire(profile, f"{n}.tif") for n in range(3)]
            problems = counts_until(profile, lambda counts: counts.skipped == 3)
            assert {"No space left" in problem.reason for problem in problems} == {True}, problems
            assert list((out / "restored").iterdir()) == []
            subprocess.run(["mount", "-o", "remount,size=2m", str(out)], check=True)
            filler.unlink()
            counts_until(profile, lambda counts: counts.written == 3)
            errors = stopped(process)
        assert "Free space or mend the folder; the raw data is untouched" in errors
        assert "write: works again" in errors
        names = [f"{n}.ome.tif" for n in range(3)]
        assert sorted(p.name for p in (out / "restored").iterdir()) == names
        assert all(tifffile.imread(out / "restored" / name).shape == SHAPE for name in names)
        assert all(path.read_bytes() == content for path, content in acquired)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a file system")
def test_an_output_folder_that_becomes_read_only_is_told_of_and_work_goes_on_after(
    tmp_path, profile
):
    with mounted(tmp_path / "out", "size=4m") as out:
        with daemon(profile) as process:
            acquire(profile, "a.tif")
            counts_until(profile, lambda counts: counts.written == 1)
            subprocess.run(["mount", "-o", "remount,ro", str(out)], check=True)
            raw, content = acquire(profile, "b.tif")
            (problem,) = counts_until(profile, lambda counts: counts.skipped == 1)
            assert "Read-only file system" in problem.reason
            subprocess.run(["mount", "-o", "remount,rw", str(out)], check=True)
            counts_until(profile, lambda counts: counts.written == 2)
            stopped(process)
        assert raw.read_bytes() == content
        assert sorted(p.name for p in (out / "restored").iterdir()) == ["a.ome.tif", "b.ome.tif"]


def test_a_damaged_ledger_stops_the_start_and_moved_away_everything_is_restored_again(profile):
    raw, content = acquire(profile, "a.tif")
    with daemon(profile) as process:
        counts_until(profile, lambda counts: counts.written == 1)
        stopped(process)
    file = ledger_file(load_profile(profile))
    file.write_bytes(b"SQLite format 3\0" + os.urandom(8000))
    for command in (["run"], ["status"], ["retry"]):
        ended = subprocess.run(
            [sys.executable, "-m", "live_restore", *command, str(profile)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 3, ended.stderr
        assert f"ledger {file}: can't be opened or read" in ended.stderr
        assert "move it away" in ended.stderr
        assert "Traceback" not in ended.stderr
    file.rename(file.with_suffix(".damaged"))
    with daemon(profile) as process:
        counts_until(profile, lambda counts: counts.written == 1)
        stopped(process)
    assert raw.read_bytes() == content


def test_a_ledger_that_is_damaged_while_it_is_open_is_told_of_once_and_holds_up_nothing(
    tmp_path, caplog
):
    file = tmp_path / "l.sqlite"
    with Ledger(file, is_written=True) as ledger:
        ledger.note_seen(Origin("f", "1"), VolumeKey("f", "0", 0, "DAPI"))
        with closing(sqlite3.connect(file)) as other:
            for table in ("volumes", "ended", "retries"):
                other.execute(f"DROP TABLE {table}")
            other.commit()
        for time in range(3):
            ledger.note_restored(Origin("f", "1"), VolumeKey("f", "0", time, "DAPI"))
            assert ledger.settled(Origin("f", "1")) == frozenset()
            assert not ledger.is_done(Origin("f", "1"))
            assert ledger.take_retries() == ()
    assert caplog.text.count("ERROR") == 1
    assert "move the file away" in caplog.text
