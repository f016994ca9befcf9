import ctypes
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
import tifffile

from live_restore.errors import SourceError
from live_restore.interfaces import StopSignal
from live_restore.ledger import Ledger, Origin
from live_restore.profile import FolderSource
from live_restore.sources.assembler import Assembler
from live_restore.sources.folder import Folder, acquisition_name
from live_restore.sources.stacks import open_stack, stack_version
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Plane,
    SourceState,
    Volume,
    VolumeKey,
)
from tests.conftest import wait_for
from tests.ome_zarr_files import write_image

STACK = np.arange(4 * 5 * 6, dtype="u2").reshape(4, 5, 6)


def save(path, data=STACK, axes="ZYX"):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes})


def volumes_of(events):
    """What becomes of planes."""
    assembler, volumes = Assembler(), []
    for event in events:
        match event:
            case AcquisitionInfo():
                volumes += assembler.start(event)
            case Plane():
                volumes += assembler.add(event)
            case AcquisitionEnd():
                volumes += assembler.end(event.acquisition)
    return volumes


@contextmanager
def readable_by_all():
    """A folder on whose permissions the tests may rely, for another user where they run as root."""
    if sys.platform == "win32":
        pytest.skip("permissions are otherwise there")
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name).resolve()


def become_nobody():
    """Have this thread alone touch files as a user without rights, should it be root's."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).setfsuid(65534)


def resident_bytes():
    """Memory of this process."""
    if sys.platform != "linux":
        pytest.skip("told by Linux alone")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def warnings_of(caplog):
    """What this program warned of; tifffile's own log is silent on the command line."""
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING and record.name.startswith("live_restore")
    ]


class Watching:
    """A folder source that runs in a thread and remembers what it tells."""

    def __init__(
        self,
        root: Path,
        ignore: Path | None = None,
        ledger: Ledger | None = None,
        is_nobody: bool = False,
        **settings,
    ):
        settings = {"settle_s": 0.1, "rescan_s": 0.5} | settings
        self.source = Folder(FolderSource(kind="folder", path=root, **settings), ignore, ledger)
        self.stop = StopSignal()
        self.events = []
        self.states = []
        self.error = None
        self.is_nobody = is_nobody

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
            if self.is_nobody:
                become_nobody()
            for event in self.source.events(self.stop):
                if isinstance(event, SourceState):
                    self.states.append(event.text)
                else:
                    self.events.append(event)
        except Exception as error:  # noqa: BLE001 - raised again by the test's thread
            self.error = error

    def ended(self):
        return [e.acquisition for e in list(self.events) if isinstance(e, AcquisitionEnd)]

    def wait_for(self, *acquisitions):
        wait_for(lambda: set(acquisitions) <= set(self.ended()), f"{acquisitions} in {self.events}")


class Pulling:
    """A folder source that goes on only when the test asks for what it tells."""

    def __init__(self, root: Path, keeps: bool = True, **settings):
        settings = {"settle_s": 0.0, "rescan_s": 1000.0} | settings
        self.source = Folder(FolderSource(kind="folder", path=root, **settings))
        self.stop = StopSignal()
        self.events = []
        self.keeps = keeps

    def __enter__(self):
        self.source.__enter__()
        self._iterator = self.source.events(self.stop)
        return self

    def __exit__(self, *error):
        self.stop.set()
        self._iterator.close()
        self.source.__exit__(None, None, None)

    def until(self, kind):
        """The next event of a kind."""
        deadline = time.monotonic() + 60
        while True:
            event = next(self._iterator)
            assert time.monotonic() < deadline, f"waited in vain for {kind} in {self.events}"
            if self.keeps and not isinstance(event, SourceState):
                self.events.append(event)
            if isinstance(event, kind):
                return event

    def until_ended(self, number):
        while len(self.ended) < number:
            self.until(AcquisitionEnd)

    def wait_for_touches(self, name):
        """Until the file system has told of a file."""
        touched = self.source._watched._touched
        wait_for(lambda: any(path.endswith(name) for path in list(touched)), f"word of {name}")

    @property
    def ended(self):
        return [event.acquisition for event in self.events if isinstance(event, AcquisitionEnd)]

    @property
    def live(self):
        return {e.key.acquisition for e in self.events if isinstance(e, Plane) and e.is_live}


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
    monkeypatch.setattr("live_restore.sources.open_files._OPEN_RETRY_S", 0.3)
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
        "notes.txt": "not a known kind",
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


def test_a_file_that_vanishes_while_it_waits_is_passed_over(tmp_path, caplog):
    save(tmp_path / "gone.tif")
    with Watching(tmp_path, settle_s=0.5) as watching:
        wait_for(lambda: watching.source._arrivals._waiting, "the file")
        (tmp_path / "gone.tif").unlink()
        save(tmp_path / "here.tif")
        watching.wait_for("here")
    assert watching.ended() == ["here"]
    assert not warnings_of(caplog)


def test_a_file_that_is_deleted_while_it_is_read_is_read_to_its_end(tmp_path, caplog):
    save(tmp_path / "cell.tif", np.stack([STACK] * 3), axes="TZYX")
    with Pulling(tmp_path) as pulling:
        pulling.until(Plane)
        (tmp_path / "cell.tif").unlink()
        pulling.until_ended(1)
    assert len([e for e in pulling.events if isinstance(e, Plane)]) == 12
    assert not warnings_of(caplog)


def test_a_file_that_is_replaced_while_it_is_read_is_told_and_taken_again(tmp_path, caplog):
    save(tmp_path / "cell.tif", np.stack([STACK] * 3), axes="TZYX")
    save(tmp_path / ".other.tif", np.stack([STACK + 1] * 4), axes="TZYX")
    with Pulling(tmp_path) as pulling:
        for _ in range(6):
            pulling.until(Plane)
        (tmp_path / ".other.tif").replace(tmp_path / "cell.tif")
        pulling.until_ended(2)
    ends = [event for event in pulling.events if isinstance(event, AcquisitionEnd)]
    assert "replaced" in ends[0].reason
    assert ends[1].reason == "finished"
    assert len(warnings_of(caplog)) == 1
    whole = Counter(event.key for event in pulling.events if isinstance(event, Plane))
    assert sorted(whole.values()) == [
        4,
        4,
        4 + 3,
        4 + 4,
    ]  # the second one's last plane was kept back
    after = pulling.events[pulling.events.index(ends[0]) :]
    new = [event for event in after if isinstance(event, Plane)]
    assert len(new) == 16
    np.testing.assert_array_equal(new[-1].data, STACK[-1] + 1)


def test_a_file_that_may_not_be_read_is_warned_of_once_and_taken_when_it_may(caplog):
    with readable_by_all() as folder:
        save(folder / "secret.tif")
        save(folder / "open.tif")
        hour_ago = time.time() - 3600  # so that it isn't taken for one that is still being written
        os.utime(folder / "secret.tif", (hour_ago, hour_ago))
        (folder / "secret.tif").chmod(0)
        with Watching(folder, is_nobody=True, rescan_s=0.2) as watching:
            watching.wait_for("open")
            wait_for(lambda: warnings_of(caplog), "the warning")
            time.sleep(1)  # some more scans
            assert watching.ended() == ["open"]
            (folder / "secret.tif").chmod(0o644)
            watching.wait_for("secret")
    (warning,) = warnings_of(caplog)
    assert "secret.tif: can't be read (Permission denied)" in warning


def test_a_folder_that_may_not_be_listed_is_warned_of_once_and_taken_when_it_may(caplog):
    with readable_by_all() as folder:
        for mode in (0o700, 0o744):  # its names can't be listed; its files can't be reached
            caplog.clear()
            inner = folder / f"inner{mode:o}"
            save(inner / "cell.tif")
            inner.chmod(mode)
            with Watching(folder, is_nobody=True, rescan_s=0.2) as watching:
                wait_for(lambda: warnings_of(caplog), "the warning")
                time.sleep(1)
                inner.chmod(0o755)
                watching.wait_for(f"{inner.name}/cell")
            (warning,) = warnings_of(caplog)
            assert f"{inner}: can't be listed (Permission denied)" in warning


def test_a_name_may_hold_anything(tmp_path):
    names = ["new\nline", "Zelle µ – 細胞", " spaces  around ", "quote'\"", "100%", "a" * 200]
    deep = Path(*["deep"] * 60)
    for name in names:
        save(tmp_path / "before" / f"{name}.tif")
    with Watching(tmp_path) as watching:
        for name in names:
            save(tmp_path / "after" / f"{name}.tif")
        save(tmp_path / deep / "x.tif")
        watching.wait_for((deep / "x").as_posix())
        watching.wait_for(*(f"{when}/{name}" for name in names for when in ("before", "after")))
    assert len(watching.ended()) == 2 * len(names) + 1


@pytest.mark.parametrize("polling", [False, True])
def test_loops_and_links_give_each_file_once(tmp_path, polling):
    root, outside = tmp_path / "root", tmp_path / "outside"
    save(root / "a" / "in.tif")
    save(outside / "sub" / "out.tif")
    (root / "a" / "loop").symlink_to(root)
    (root / "b").symlink_to(root / "a")
    (root / "up").symlink_to(tmp_path)
    (root / "link1").symlink_to(outside)
    (outside / "sub" / "back").symlink_to(root)
    (outside / "sub" / "itself").symlink_to(outside)
    (root / "nowhere").symlink_to(tmp_path / "nowhere")
    with Watching(root, polling=polling, rescan_s=0.3) as watching:
        watching.wait_for("a/in", "link1/sub/out")
        save(outside / "sub" / "later.tif")
        save(root / "a" / "later.tif")
        watching.wait_for("a/later", "link1/sub/later")
        time.sleep(1.2)  # more scans, and what polling finds
    assert sorted(watching.ended()) == ["a/in", "a/later", "link1/sub/later", "link1/sub/out"]


@pytest.mark.parametrize("polling", [False, True])
def test_a_folder_that_goes_and_comes_back_is_taken_on_with(tmp_path, caplog, polling):
    root, away = tmp_path / "root", tmp_path / "away"
    save(root / "first.tif")
    caplog.set_level(logging.INFO)
    with Watching(root, polling=polling, rescan_s=1000) as watching:
        watching.wait_for("first")
        root.rename(away)
        wait_for(lambda: any("isn't there; waiting" in s for s in watching.states), "the state")
        save(away / "meanwhile.tif")
        away.rename(root)
        watching.wait_for("meanwhile")
        wait_for(lambda: watching.states[-1] == f"watching {root}", "the state")
        save(root / "sub" / "after.tif")
        watching.wait_for("sub/after")
    assert watching.ended() == ["first", "meanwhile", "sub/after"]
    (warning,) = warnings_of(caplog)
    assert "isn't there any more" in warning
    assert sum("is back, listed" in record.getMessage() for record in caplog.records) == 1


def test_what_waits_while_its_folder_is_away_is_still_not_new(tmp_path):
    root, away = tmp_path / "root", tmp_path / "away"
    for number in range(4):
        save(root / f"{number}.tif")
    with Pulling(root) as pulling:
        pulling.until(AcquisitionEnd)
        root.rename(away)
        while "waiting for it" not in pulling.until(SourceState).text:
            pass
        away.rename(root)
        pulling.until_ended(4)
    assert sorted(pulling.ended) == ["0", "1", "2", "3"]
    assert not pulling.live


def test_a_stack_whose_folder_goes_while_it_is_read_is_taken_again_once(tmp_path, caplog):
    """Parts of an OME-Zarr that aren't there read as zeros: none of those may make a volume."""
    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    stacks = np.stack([STACK + 1 + t for t in range(5)])[:, None]
    write_image(root / "cell.ome.zarr", stacks, zarr_format=3)
    with Pulling(root) as pulling:
        for _ in range(5):
            pulling.until(Plane)
        root.rename(away)
        while "waiting for it" not in pulling.until(SourceState).text:
            pass
        away.rename(root)
        pulling.until_ended(2)
    assert ["vanished" in w or "isn't there" in w for w in warnings_of(caplog)] == [True, True]
    volumes = [one for one in volumes_of(pulling.events) if isinstance(one, Volume)]
    assert sorted(volume.key.time for volume in volumes) == list(range(5))
    for volume in volumes:
        np.testing.assert_array_equal(volume.data, stacks[volume.key.time, 0])


def test_an_ome_zarr_is_one_file_and_taken_when_nothing_in_it_changes(tmp_path):
    with Watching(tmp_path, rescan_s=1000) as watching:
        write_image(tmp_path / "sub" / "cell.ome.zarr", STACK[None, None], zarr_format=3)
        watching.wait_for("sub/cell")
        time.sleep(0.5)
    assert watching.ended() == ["sub/cell"]
    data = np.stack([e.data for e in watching.events if isinstance(e, Plane)])
    np.testing.assert_array_equal(data, STACK)


def test_an_ome_zarr_with_gaps_is_taken_when_they_are_filled_or_it_is_idle(tmp_path):
    write_image(tmp_path / "filled.zarr", np.stack([STACK, STACK])[:, None], zarr_format=3)
    chunk = tmp_path / "filled.zarr" / "0" / "c" / "1" / "0" / "2" / "0" / "0"
    content = chunk.read_bytes()
    chunk.unlink()
    with Watching(tmp_path, idle_s=1000) as watching:
        time.sleep(1)
        assert not watching.events
        chunk.write_bytes(content)
        watching.wait_for("filled")
    chunk.unlink()
    (tmp_path / "filled.zarr").rename(tmp_path / "idle.zarr")
    with Watching(tmp_path, idle_s=0.5) as watching:
        watching.wait_for("idle")


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
