import gc
import os
import time
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.ledger import Ledger, Origin
from live_restore.profile import FolderSource
from live_restore.sources.folder import Folder, acquisition_name
from live_restore.sources.stacks import open_stack, stack_version
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Plane,
    VolumeKey,
)
from tests.conftest import wait_for
from tests.ome_zarr_files import write_image
from tests.watching import (
    STACK,
    Pulling,
    Watching,
    resident_bytes,
    save,
)


@pytest.mark.parametrize("polling", [False, True])
def test_a_file_that_appears_is_taken_plane_by_plane(tmp_path, polling):
    with Watching(tmp_path, polling=polling) as watching:
        save(tmp_path / "cell.ome.tif")
        watching.wait_for("cell")
    info, *planes, end = watching.events
    assert isinstance(info, AcquisitionInfo)
    assert info.shape_zyx == STACK.shape
    assert [p.z for p in planes if isinstance(p, Plane)] == [0, 1, 2, 3]
    np.testing.assert_array_equal(np.stack([p.data for p in planes]), STACK)
    assert end == AcquisitionEnd("cell")


# watchdog's thread may raise when it is stopped while it begins to watch a new folder.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_names_with_spaces_unicode_and_folders_are_taken(tmp_path):
    with Watching(tmp_path) as watching:
        save(tmp_path / "Tag 1" / "Zelle µ.tif")
        save(tmp_path / "a" / "b" / "x.tif")
        watching.wait_for("Tag 1/Zelle µ", "a/b/x")


def test_a_renamed_file_is_taken_under_its_new_name(tmp_path):
    with Watching(tmp_path) as watching:
        save(tmp_path / ".hidden.tif")
        (tmp_path / ".hidden.tif").rename(tmp_path / "shown.tif")
        watching.wait_for("shown")
    assert watching.ended() == ["shown"]


def test_a_file_moved_in_from_outside_is_taken(tmp_path):
    (tmp_path / "in").mkdir()
    save(tmp_path / "out.tif")
    with Watching(tmp_path / "in") as watching:
        (tmp_path / "out.tif").rename(tmp_path / "in" / "here.tif")
        watching.wait_for("here")


def test_existing_files_are_restored_once_or_ignored(tmp_path):
    save(tmp_path / "old.tif")
    with Watching(tmp_path, existing="ignore") as watching:
        save(tmp_path / "new.tif")
        watching.wait_for("new")
    assert watching.ended() == ["new"]
    with Watching(tmp_path, existing="restore") as watching:
        watching.wait_for("old", "new")
        time.sleep(1.2)  # two more scans
    assert sorted(watching.ended()) == ["new", "old"]


def test_a_changed_file_is_taken_again(tmp_path):
    with Watching(tmp_path) as watching:
        save(tmp_path / "cell.tif")
        watching.wait_for("cell")
        save(tmp_path / "cell.tif", np.concatenate([STACK, STACK]))
        wait_for(lambda: watching.ended() == ["cell", "cell"], "the second time")
    shapes = [e.shape_zyx for e in watching.events if isinstance(e, AcquisitionInfo)]
    assert shapes == [(4, 5, 6), (8, 5, 6)]


def test_two_files_of_one_name_keep_apart(tmp_path):
    with Watching(tmp_path) as watching:
        save(tmp_path / "cell.tif")
        watching.wait_for("cell")
        save(tmp_path / "cell.tiff")
        wait_for(lambda: len(watching.ended()) == 2, "both")
    assert watching.ended() == ["cell", "cell.tiff"]


def test_the_output_folder_inside_is_not_watched(tmp_path):
    with Watching(tmp_path, ignore=tmp_path / "restored") as watching:
        save(tmp_path / "restored" / "cell.tif")
        save(tmp_path / "new.tif")
        watching.wait_for("new")
        time.sleep(0.7)
    assert watching.ended() == ["new"]


def test_what_was_there_comes_by_age_and_what_is_new_before_it(tmp_path):
    for age, name in ((30, "oldest"), (10, "latest"), (20, "middle")):
        save(tmp_path / f"{name}.tif")
        os.utime(tmp_path / f"{name}.tif", (time.time() - age,) * 2)
    with Pulling(tmp_path) as pulling:
        pulling.until(AcquisitionEnd)
        for age, name in ((3600, "new but written before"), (0, "newest")):
            save(tmp_path / ".new.tif")
            os.utime(tmp_path / ".new.tif", (time.time() - age,) * 2)
            (tmp_path / ".new.tif").rename(tmp_path / f"{name}.tif")
        pulling.wait_for_touches("newest.tif")
        pulling.until_ended(5)
    assert pulling.ended == ["oldest", "newest", "new but written before", "middle", "latest"]
    assert pulling.live == {"newest", "new but written before"}


def test_a_folder_that_is_not_there_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(SourceError, match=r"isn't there.*\[source\]"):
        Folder(FolderSource(kind="folder", path=tmp_path / "nowhere")).__enter__()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("cell.tif", "cell"),
        ("cell.ome.tif", "cell"),
        ("day 1/cell.OME.TIFF", "day 1/cell"),
        ("a.b.c.tif", "a.b.c"),
        (".tif", ".tif"),
    ],
)
def test_an_acquisition_is_named_after_its_file(path, name):
    assert acquisition_name(Path(path)) == name


def test_a_new_file_goes_between_two_stacks_of_a_long_one(tmp_path):
    save(tmp_path / "long.tif", np.stack([STACK + t for t in range(6)]), axes="TZYX")
    with Pulling(tmp_path) as pulling:
        for _ in range(6):
            pulling.until(Plane)  # 4 planes are a stack
        save(tmp_path / "new.tif")
        pulling.wait_for_touches("new.tif")
        pulling.until_ended(2)
    assert pulling.ended == ["new", "long"]
    assert pulling.live == {"new"}
    planes = [event for event in pulling.events if isinstance(event, Plane)]
    keys = [key for key, _ in groupby(planes, lambda plane: plane.key)]
    assert len(keys) == len(set(keys)) == 7  # the planes of each stack stay together
    assert [key.acquisition for key in keys].index("new") == 2
    for plane in planes:
        np.testing.assert_array_equal(plane.data, STACK[plane.z] + plane.key.time)


def test_interrupted_files_are_few(tmp_path):
    """The latest goes on as soon as a handful is open."""
    for number in range(9):
        save(tmp_path / f".{number}.tif", np.stack([STACK] * 5), axes="TZYX")
    with Pulling(tmp_path) as pulling:
        for number in range(9):
            (tmp_path / f".{number}.tif").rename(tmp_path / f"{number}.tif")
            pulling.wait_for_touches(f"{number}.tif")
            pulling.until(AcquisitionInfo)
            assert len(pulling.source._open.paths) <= 4
        pulling.until_ended(9)
    assert len([e for e in pulling.events if isinstance(e, Plane)]) == 9 * 5 * 4


def test_a_folder_that_is_moved_in_is_taken_with_all_in_it(tmp_path):
    save(tmp_path / "outside" / "deep" / "deeper" / "a.tif")
    save(tmp_path / "outside" / "b.tif")
    (tmp_path / "in").mkdir()
    with Watching(tmp_path / "in", rescan_s=1000) as watching:
        (tmp_path / "outside").rename(tmp_path / "in" / "moved")
        watching.wait_for("moved/deep/deeper/a", "moved/b")


def test_an_ome_zarr_is_one_file_and_taken_when_nothing_in_it_changes(tmp_path):
    with Watching(tmp_path, rescan_s=1000) as watching:
        write_image(tmp_path / "sub" / "cell.ome.zarr", STACK[None, None], zarr_format=3)
        watching.wait_for("sub/cell")
        time.sleep(0.5)
    assert watching.ended() == ["sub/cell"]
    data = np.stack([e.data for e in watching.events if isinstance(e, Plane)])
    np.testing.assert_array_equal(data, STACK)


def test_an_ome_zarr_with_gaps_is_taken_when_they_are_filled_or_it_is_idle(tmp_path, caplog):
    write_image(tmp_path / "filled.zarr", np.stack([STACK, STACK])[:, None], zarr_format=3)
    chunk = tmp_path / "filled.zarr" / "0" / "c" / "1" / "0" / "2" / "0" / "0"
    content = chunk.read_bytes()
    chunk.unlink()
    with Watching(tmp_path, idle_s=1000) as watching:
        time.sleep(1)
        assert not watching.events
        chunk.write_bytes(content)
        watching.wait_for("filled")
    assert "zeros" not in caplog.text
    chunk.unlink()
    (tmp_path / "filled.zarr").rename(tmp_path / "idle.zarr")
    with Watching(tmp_path, idle_s=0.5) as watching:
        watching.wait_for("idle")
    assert "never written; they are taken as zeros" in caplog.text


def test_files_that_are_done_are_not_opened(tmp_path, monkeypatch):
    for number in range(50):
        save(tmp_path / "in" / f"{number}.tif")
    opened = []
    monkeypatch.setattr(
        "live_restore.sources.open_files.open_stack",
        lambda path, *rest: opened.append(path) or open_stack(path, *rest),
    )
    with Ledger(tmp_path / "ledger.sqlite", is_written=False) as ledger:
        for number in range(50):
            path = tmp_path / "in" / f"{number}.tif"
            origin = Origin(str(path), stack_version(path))
            key = VolumeKey(str(number), "0", 0, "C0")
            ledger.note_seen(origin, key)
            ledger.note_restored(origin, key)
            ledger.note_end(origin)
        with Watching(tmp_path / "in", ledger=ledger) as watching:
            save(tmp_path / "in" / "new.tif")
            watching.wait_for("new")
            wait_for(lambda: not watching.source._arrivals._waiting, "all others")
    assert watching.ended() == ["new"]
    assert [path.name for path in opened] == ["new.tif"]


def test_ten_thousand_files_are_taken_in_little_memory(tmp_path):
    """Beside what is known of each file, in some 2 kB, nothing grows while they are taken."""
    save(tmp_path / "0" / "0.tif")
    content = (tmp_path / "0" / "0.tif").read_bytes()
    for folder in range(100):
        (tmp_path / f"{folder}").mkdir(exist_ok=True)
        for number in range(100):
            (tmp_path / f"{folder}" / f"{number}.tif").write_bytes(content)
    seen, memory = set(), []
    with Pulling(tmp_path, keeps=False) as pulling:
        while len(seen) < 10_000:
            seen.add(pulling.until(AcquisitionEnd).acquisition)
            if len(seen) in (1000, 10_000):
                gc.collect()
                memory.append(resident_bytes())
    assert len(seen) == 10_000
    assert memory[1] - memory[0] < 30e6, memory
