import logging
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tifffile

from live_restore.errors import SourceError
from live_restore.interfaces import StopSignal
from live_restore.profile import FolderSource
from live_restore.sources.folder import Folder, acquisition_name
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, SourceState
from tests.conftest import wait_for

STACK = np.arange(4 * 5 * 6, dtype="u2").reshape(4, 5, 6)


def save(path, data=STACK):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, ome=True, metadata={"axes": "ZYX"})


def warnings_of(caplog):
    """What this program warned of; tifffile's own log is silent on the command line."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("live_restore")
    ]


class Watching:
    """A folder source that runs in a thread and remembers what it tells."""

    def __init__(self, root: Path, ignore: Path | None = None, **settings):
        settings = {"settle_s": 0.1, "rescan_s": 0.5} | settings
        self.source = Folder(FolderSource(kind="folder", path=root, **settings), ignore)
        self.stop = StopSignal()
        self.events = []
        self.error = None

    def __enter__(self):
        self.source.__enter__()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.thread.join(10)
        assert not self.thread.is_alive()
        self.source.__exit__(None, None, None)
        if self.error:
            raise self.error

    def _run(self):
        try:
            for event in self.source.events(self.stop):
                if not isinstance(event, SourceState):
                    self.events.append(event)
        except Exception as error:  # noqa: BLE001 - raised again by the test's thread
            self.error = error

    def ended(self):
        return [e.acquisition for e in list(self.events) if isinstance(e, AcquisitionEnd)]

    def wait_for(self, *acquisitions):
        wait_for(lambda: set(acquisitions) <= set(self.ended()), f"{acquisitions} in {self.events}")


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


def test_a_file_that_is_written_slowly_is_taken_when_it_is_whole(tmp_path, caplog):
    save(tmp_path / ".whole.tif", np.random.default_rng(0).integers(0, 9, (8, 64, 64)).astype("u2"))
    content = (tmp_path / ".whole.tif").read_bytes()
    with Watching(tmp_path) as watching, (tmp_path / "slow.tif").open("wb") as file:
        for start in range(0, len(content), len(content) // 4):
            file.write(content[start : start + len(content) // 4])
            file.flush()
            time.sleep(0.3)  # longer than the file has to stand still
        watching.wait_for("slow")
    assert watching.ended() == ["slow"]
    assert [e.z for e in watching.events if isinstance(e, Plane)] == list(range(8))
    assert not warnings_of(caplog)


def test_what_is_no_stack_gives_one_warning_each(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("live_restore.sources.folder._OPEN_RETRY_S", 0.3)
    with caplog.at_level(logging.WARNING), Watching(tmp_path) as watching:
        (tmp_path / "notes.txt").write_text("hello")
        (tmp_path / "empty.tif").write_bytes(b"")
        tifffile.imwrite(tmp_path / "flat.tif", STACK[0])
        tifffile.imwrite(tmp_path / "photo.tif", np.zeros((5, 6, 3), "u1"), photometric="rgb")
        save(tmp_path / ".whole.tif")
        (tmp_path / "cut.tif").write_bytes((tmp_path / ".whole.tif").read_bytes()[:500])
        (tmp_path / "Thumbs.db").write_bytes(b"x")
        (tmp_path / "half.tif.part").write_bytes(b"x")
        wait_for(lambda: len(warnings_of(caplog)) >= 5, "five warnings")
        save(tmp_path / "good.tif")
        watching.wait_for("good")
        time.sleep(1.2)  # two more scans
    warned = warnings_of(caplog)
    assert len(warned) == 5
    for name, reason in {
        "notes.txt": "not a TIFF",
        "empty.tif": "empty",
        "flat.tif": "2D image",
        "photo.tif": "RGB",
        "cut.tif": "cut short",
    }.items():
        assert len([w for w in warned if name in w and reason in w]) == 1, warned
    assert watching.ended() == ["good"]


def test_the_output_folder_inside_is_not_watched(tmp_path):
    with Watching(tmp_path, ignore=tmp_path / "restored") as watching:
        save(tmp_path / "restored" / "cell.tif")
        save(tmp_path / "new.tif")
        watching.wait_for("new")
        time.sleep(0.7)
    assert watching.ended() == ["new"]


def test_the_newest_of_several_files_comes_first(tmp_path):
    import os

    for age, name in ((30, "old"), (10, "new"), (20, "middle")):
        save(tmp_path / f"{name}.tif")
        os.utime(tmp_path / f"{name}.tif", (time.time() - age,) * 2)
    with Watching(tmp_path) as watching:
        watching.wait_for("old")
    assert watching.ended() == ["new", "middle", "old"]


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


def test_a_new_file_goes_before_those_that_wait(tmp_path):
    for number in range(5):
        save(tmp_path / f"old{number}.tif")
    settings = FolderSource(kind="folder", path=tmp_path, settle_s=0.0)
    stop, ended = StopSignal(), []
    with Folder(settings) as source:
        for event in source.events(stop):
            if not isinstance(event, AcquisitionEnd):
                continue
            ended.append(event.acquisition)
            if len(ended) == 1:
                save(tmp_path / "new.tif")
                wait_for(lambda: not source._touched.empty(), "the file system's word")
            elif len(ended) == 6:
                stop.set()
    assert ended.index("new") <= 2  # the one in hand may come between
    assert len(set(ended)) == 6
