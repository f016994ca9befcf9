"""Datasets that are deleted or moved away from a watched folder, and what appears in their places."""

import shutil
from contextlib import ExitStack

import numpy as np
import pytest

from live_restore.ledger import Ledger, Origin
from live_restore.sources.watched import WatchedFolder
from live_restore.volume import AcquisitionEnd, Volume
from tests import growing_layouts as growing
from tests.conftest import wait_for
from tests.test_growing import WRITERS, planes_of, write
from tests.watching import Watching, volumes_of, warnings_of


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "today"
    folder.mkdir()
    return folder


def acquire(layout, folder, seed):
    """As Micro-Manager does, which takes the first number that is free."""
    folder.mkdir()
    acquired = growing.images(seed=seed)
    list(WRITERS[layout](folder, acquired, growing.Pieces(None)))
    return {image.place: image.data for image in acquired}


def pixels_of(watching, acquisition):
    return {
        (*(one.key.position, one.key.time, one.key.channel), z): plane
        for one in volumes_of(list(watching.events))
        if isinstance(one, Volume) and one.key.acquisition == acquisition
        for z, plane in enumerate(one.data)
    }


def assert_same(planes, expected):
    assert planes.keys() == expected.keys()
    for place, plane in planes.items():
        np.testing.assert_array_equal(plane, expected[place])


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("has_ledger", [False, True])
def test_what_is_acquired_again_after_it_was_deleted_is_taken(
    layout, polling, has_ledger, root, tmp_path, caplog
):
    folder = root / "run_1"
    # What is gone before the first of the polls is met by listings alone.
    settings = {"num_slices": 3, "polling": polling, "rescan_s": 0.5 if polling else 1000}
    with ExitStack() as opened:
        ledger = None
        if has_ledger:
            ledger = opened.enter_context(Ledger(tmp_path / "l.sqlite", is_written=False))
        watching = opened.enter_context(Watching(root, ledger=ledger, idle_s=1, **settings))
        first = acquire(layout, folder, seed=1)
        watching.wait_for("run_1")
        if ledger:
            note_all(ledger, watching, Origin(str(folder)))
        shutil.rmtree(folder)
        wait_for(lambda: not watching.source._growing, "it to be let go")
        second = acquire(layout, folder, seed=2)
        watching.wait_for("run_1~2")
    assert_same(pixels_of(watching, "run_1"), first)
    assert_same(pixels_of(watching, "run_1~2"), second)
    assert not warnings_of(caplog)


def note_all(ledger, watching, origin):
    for volume in volumes_of(list(watching.events)):
        ledger.note_seen(origin, volume.key)
        ledger.note_restored(origin, volume.key)
    ledger.note_end(origin)


def test_one_that_is_replaced_within_a_moment_is_taken(root):
    with Watching(root, num_slices=3, rescan_s=1000, polling=False) as watching:
        acquire("NDTiff", root / "run_1", seed=1)
        watching.wait_for("run_1")
        shutil.rmtree(root / "run_1")
        second = acquire("NDTiff", root / "run_1", seed=2)
        watching.wait_for("run_1~2")
    assert_same(pixels_of(watching, "run_1~2"), second)


def test_one_that_is_deleted_while_it_grows_ends_at_once(root):
    folder = root / "run_1"
    folder.mkdir()
    pieces = growing.write_ndtiff(folder, growing.images(), growing.Pieces(None))
    with Watching(root, num_slices=3, rescan_s=1000, idle_s=1000) as watching:
        write(pieces, 4)
        wait_for(lambda: len(planes_of(watching)) == 4, "the first planes")
        pieces.close()
        shutil.rmtree(folder)
        watching.wait_for("run_1")
        (end,) = (event for event in watching.events if isinstance(event, AcquisitionEnd))
        assert end.reason == "it was deleted or moved away"
        second = acquire("NDTiff", folder, seed=2)
        watching.wait_for("run_1~2")
    assert_same(pixels_of(watching, "run_1~2"), second)


def test_one_that_was_passed_over_at_the_start_is_taken_when_it_is_acquired_anew(root):
    acquire("image stack files", root / "run_1", seed=1)
    with Watching(root, num_slices=3, existing="ignore", rescan_s=1000) as watching:
        shutil.rmtree(root / "run_1")
        wait_for(lambda: not watching.source._left_alone, "it to be let go")
        second = acquire("image stack files", root / "run_1", seed=2)
        watching.wait_for("run_1")
    assert_same(pixels_of(watching, "run_1"), second)


def test_those_that_are_gone_are_forgotten_though_nothing_told_of_it(root, monkeypatch):
    """With the folder above, on a share."""
    (root / "day").mkdir()
    monkeypatch.setattr(WatchedFolder, "_remove", lambda *_: None)
    with Watching(root, num_slices=3, rescan_s=0.2) as watching:
        acquire("NDTiff", root / "day" / "run_1", seed=1)
        watching.wait_for("day/run_1")
        shutil.rmtree(root / "day")
        wait_for(lambda: not watching.source._growing, "it to be let go")
        (root / "day").mkdir()
        second = acquire("NDTiff", root / "day" / "run_1", seed=2)
        watching.wait_for("day/run_1~2")
    assert_same(pixels_of(watching, "day/run_1~2"), second)


class Restarts:
    """A daemon's folder and ledger, run by run."""

    def __init__(self, root, file):
        self.root, self.file = root, file

    def run(self, wanted=None):
        """Take what is there, note all volumes but those that aren't wanted; the planes that were taken."""
        settings = {"num_slices": 3, "idle_s": 0.5}
        with (
            Ledger(self.file, is_written=False) as ledger,
            Watching(self.root, ledger=ledger, **settings) as watching,
        ):
            wait_for(lambda: [one.is_over for one in watching.source._growing.values()], "it")
            wait_for(lambda: all(one.is_over for one in watching.source._growing.values()), "it")
            wait_for(lambda: len(watching.ended()) == bool(planes_of(watching)), "its end")
            origin = Origin(str(self.root / "run_1"))
            for volume in volumes_of(list(watching.events)):
                ledger.note_seen(origin, volume.key)
                if wanted is None or volume.key.time in wanted:
                    ledger.note_restored(origin, volume.key)
        return pixels_of(watching, "run_1")


@pytest.mark.parametrize("layout", WRITERS)
def test_what_was_acquired_anew_between_two_runs_is_taken(layout, root, tmp_path, caplog):
    restarts = Restarts(root, tmp_path / "l.sqlite")
    first = acquire(layout, root / "run_1", seed=1)
    assert_same(restarts.run(), first)
    assert not restarts.run()
    shutil.rmtree(root / "run_1")
    second = acquire(layout, root / "run_1", seed=2)
    assert_same(restarts.run(), second)
    assert not restarts.run()
    assert not warnings_of(caplog)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_run_goes_on_where_the_one_before_stood(layout, root, tmp_path):
    restarts = Restarts(root, tmp_path / "l.sqlite")
    acquired = acquire(layout, root / "run_1", seed=1)
    restarts.run(wanted=[0])
    left = {place: plane for place, plane in acquired.items() if place[1] == 1}
    assert_same(restarts.run(), left)


def test_a_dataset_whose_first_plane_cannot_be_read_any_more_is_taken_once_more(root, tmp_path):
    restarts = Restarts(root, tmp_path / "l.sqlite")
    acquired = acquire("separate image files", root / "run_1", seed=1)
    restarts.run()
    first = min((root / "run_1").glob("**/*.tif"))
    first.unlink()
    assert len(restarts.run()) == len(acquired) - 3
