"""Which files are remembered, and for how long."""

import os
import time

import pytest

from live_restore.ledger import Ledger, Origin
from live_restore.sources import taken as module
from live_restore.sources.stacks import stack_version
from live_restore.sources.taken import Taken
from live_restore.volume import VolumeKey
from tests.conftest import wait_for
from tests.watching import Watching, save


@pytest.fixture
def done():
    """Names of files of which the ledger knows all."""
    return set()


@pytest.fixture
def taken(done, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_ASK_S", 0.0)
    return Taken(lambda path, version: path.name in done, tmp_path.exists)


def list_through(taken, *seen):
    time.sleep(0.001)  # the clock may have steps
    taken.begin_listing()
    for path in seen:
        taken.holds(path, "1")
    for _ in taken.end_listing():
        pass


def test_what_is_gone_is_forgotten_when_it_is_done(taken, done, tmp_path):
    waiting, restored, refused, passed_over = (tmp_path / name for name in "abcd")
    taken.note(waiting, "1")
    taken.note(restored, "1")
    taken.note_done(refused, "1")
    taken.keep(passed_over, "1")
    done.add(restored.name)
    list_through(taken)
    assert [taken.holds(path, "1") for path in (waiting, restored, refused, passed_over)] == [
        *(True, False, False, True)
    ]


def test_what_a_listing_misses_and_is_there_is_remembered(taken, tmp_path):
    (tmp_path / "a").touch()
    for name in "ab":
        taken.note_done(tmp_path / name, "1")
    list_through(taken, tmp_path / "b")
    assert len(taken) == 2


@pytest.mark.parametrize("trouble", [PermissionError, TimeoutError, OSError])
def test_what_cannot_be_looked_at_is_remembered(taken, tmp_path, monkeypatch, trouble):
    def fail(path):
        raise trouble

    taken.note_done(tmp_path / "a", "1")
    monkeypatch.setattr(module.os, "stat", fail)
    list_through(taken)
    monkeypatch.undo()
    assert len(taken) == 1


def test_what_went_with_its_folder_is_remembered(tmp_path, done):
    taken = Taken(lambda *_: True, (tmp_path / "share").exists)
    taken.note_done(tmp_path / "share" / "a", "1")
    list_through(taken)
    assert len(taken) == 1


def test_the_ledger_is_asked_again_ever_less_often(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_FIRST_ASK_S", 0.01)
    asked = []
    taken = Taken(lambda path, version: asked.append(path) or False, tmp_path.exists)
    taken.note(tmp_path / "a", "1")
    until_s = time.monotonic() + 1.0
    while time.monotonic() < until_s:
        list_through(taken)
    assert 2 <= len(asked) <= 5  # after 0.01, 0.05, 0.21, 0.85 s


def test_a_file_that_is_gone_is_forgotten_and_not_taken_again_when_it_comes_back(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "_FIRST_ASK_S", 0.1)
    file, away = tmp_path / "in" / "cell.tif", tmp_path / "cell.tif"
    save(file)
    with (
        Ledger(tmp_path / "ledger.sqlite", is_written=False) as ledger,
        Watching(tmp_path / "in", ledger=ledger, rescan_s=0.2) as watching,
    ):
        remembered = watching.source._arrivals.taken
        watching.wait_for("cell")
        origin, key = Origin(str(file), stack_version(file)), VolumeKey("cell", "0", 0, "C0")
        ledger.note_seen(origin, key)
        ledger.note_end(origin)
        os.rename(file, away)  # noqa: PTH104 - keeps its time
        time.sleep(1)  # some more scans: it is still being restored
        assert len(remembered) == 1
        ledger.note_restored(origin, key)
        wait_for(lambda: not len(remembered), "it to be forgotten")
        os.rename(away, file)  # noqa: PTH104
        wait_for(lambda: len(remembered), "it to be known again")
        save(tmp_path / "in" / "other.tif")
        watching.wait_for("other")
    assert watching.ended() == ["cell", "other"]


def test_a_name_is_not_given_twice_though_its_file_is_gone(tmp_path):
    """What was restored of the first isn't overwritten."""
    with Watching(tmp_path, rescan_s=0.2) as watching:
        save(tmp_path / "cell.tif")
        watching.wait_for("cell")
        (tmp_path / "cell.tif").unlink()
        save(tmp_path / "cell.tiff")
        watching.wait_for("cell.tiff")
        save(tmp_path / "cell.tif")
        wait_for(lambda: watching.ended() == ["cell", "cell.tiff", "cell"], "the first anew")
