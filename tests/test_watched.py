import ctypes
import errno
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path, PurePosixPath

import pytest

from live_restore.errors import SourceError
from live_restore.sources.shares import share_of, share_of_mount
from live_restore.sources.watched import WatchedFolder
from tests.conftest import wait_for
from tests.watching import Watching, save, warnings_of

MOUNTS = r"""
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
23 22 0:21 / /proc rw - proc proc rw
40 22 0:40 / /data rw,relatime shared:7 master:2 - nfs4 server:/export/data rw,vers=4.2
41 40 8:1 / /data/local rw - xfs /dev/sda1 rw
42 22 0:42 / /mnt/with\040space\011and\134slash rw - cifs //server/share rw
43 22 0:43 / /home/me/far rw - fuse.sshfs me@server:/ rw
44 22 0:44 / /home/me/merged rw - fuse.mergerfs a:b rw
45 22 0:45 / /twice rw - ext4 /dev/vdb rw
46 45 0:46 / /twice rw - smb3 //server/twice rw
47 22 0:47 / /hidden rw - nfs server:/hidden rw
48 47 8:2 / /hidden rw - btrfs /dev/sdb rw
49 22 0:49 / /wsl rw - 9p drvfs rw,aname=drvfs;path=C:\134
50 22 0:50 / /ntfs rw - fuseblk /dev/sdc1 rw
a line that isn't one
"""


@pytest.mark.parametrize(
    ("folder", "share"),
    [
        ("/", None),
        ("/home/me/today", None),
        ("/data", "nfs4 mounted at /data"),
        ("/data/today/run 1", "nfs4 mounted at /data"),
        ("/database", None),
        ("/data/local/today", None),
        ("/mnt/with space\tand\\slash/today", "cifs mounted at /mnt/with space\tand\\slash"),
        ("/home/me/far/away", "fuse.sshfs mounted at /home/me/far"),
        ("/home/me/merged", None),
        ("/twice/x", "smb3 mounted at /twice"),
        ("/hidden/x", None),
        ("/wsl/Users", "9p mounted at /wsl"),
        ("/ntfs", None),
    ],
)
def test_a_share_is_known_by_the_mount_that_holds_the_folder(folder, share):
    assert share_of_mount(PurePosixPath(folder), MOUNTS) == share


def test_a_folder_of_this_computer_is_no_share(tmp_path):
    assert share_of(Path(os.sep).resolve()) is None
    assert share_of_mount(PurePosixPath("/anywhere"), "") is None


@pytest.mark.parametrize(
    ("polling", "share", "told"),
    [
        pytest.param(None, None, "by the system's events (on no network share)", id="local"),
        pytest.param(
            None,
            "nfs4 mounted at /d",
            "by listing it every second (nfs4 mounted at /d)",
            id="share",
        ),
        pytest.param(True, None, "by listing it every second (as the profile says)", id="forced"),
        pytest.param(
            False, "cifs", "by the system's events (as the profile says)", id="forced off"
        ),
    ],
)
def test_which_observer_watches_is_found_or_forced_and_told(
    polling, share, told, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr("live_restore.sources.watched.share_of", lambda path: share)
    with caplog.at_level(logging.INFO), Watching(tmp_path, polling=polling) as watching:
        save(tmp_path / "cell.tif")
        watching.wait_for("cell")
    lines = [record.getMessage() for record in caplog.records]
    assert [line for line in lines if line.startswith("watching")] == [
        f"watching {tmp_path} {told}"
    ]


def test_a_folder_that_cannot_be_watched_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("live_restore.sources.watched.Observer", Unwilling)
    with pytest.raises(SourceError, match=r"limit reached.*polling = true"):
        WatchedFolder(tmp_path).open()


class Unwilling:
    """An observer that the system lets none have."""

    def schedule(self, *arguments, **options):
        pass

    def start(self):
        raise OSError(28, "inotify watch limit reached")

    def stop(self):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="descriptors are counted in /proc")
def test_a_folder_that_cannot_be_watched_leaves_nothing_open(tmp_path, monkeypatch):
    from watchdog.observers import inotify_c

    def reach_the_limit(*arguments):
        ctypes.set_errno(errno.ENOSPC)
        return -1

    def held():
        return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()

    before = held()
    watched = WatchedFolder(tmp_path)
    watched.open()
    with monkeypatch.context() as patch:
        patch.setattr(inotify_c, "inotify_add_watch", reach_the_limit)
        for _ in range(5):
            assert not watched._watch_again()
            assert held() == before
    assert watched._watch_again()
    watched.close()
    assert held() == before


def test_a_folder_that_cannot_be_watched_when_it_is_back_is_listed_and_tried_again(
    tmp_path, monkeypatch, caplog
):
    from live_restore.sources import watched

    root, away = tmp_path / "root", tmp_path / "away"
    root.mkdir()
    with Watching(root, rescan_s=0.3) as watching:
        willing = watched.Observer
        monkeypatch.setattr(watched, "Observer", Unwilling)
        root.rename(away)
        wait_for(lambda: any("isn't there" in state for state in watching.states), "the state")
        away.rename(root)
        wait_for(lambda: any("can't be watched" in w for w in warnings_of(caplog)), "the warning")
        save(root / "found.tif")
        watching.wait_for("found")
        monkeypatch.setattr(watched, "Observer", willing)
        wait_for(watching.source._watched._is_watching, "another observer")
    assert len([w for w in warnings_of(caplog) if "can't be watched" in w]) == 1


@pytest.mark.parametrize("polling", [False, True])
def test_a_folder_that_is_deleted_and_made_anew_is_watched_again(tmp_path, polling, caplog):
    root = tmp_path / "root"
    root.mkdir()
    with Watching(root, polling=polling, rescan_s=1000) as watching:
        save(root / "first.tif")
        watching.wait_for("first")
        (root / "first.tif").unlink()
        root.rmdir()
        root.mkdir()  # its number may be the same
        save(root / "second.tif")
        watching.wait_for("second")
        save(root / "third.tif")
        watching.wait_for("third")
    assert watching.ended() == ["first", "second", "third"]


def test_another_folder_in_its_place_is_told_of(tmp_path, caplog):
    root = tmp_path / "root"
    root.mkdir()
    save(tmp_path / "other" / "cell.tif")
    with Watching(root, rescan_s=1000) as watching:
        wait_for(lambda: watching.states, "the first listing")
        root.rmdir()
        (tmp_path / "other").rename(root)
        watching.wait_for("cell")
        save(root / "later.tif")
        watching.wait_for("later")
    assert len(warnings_of(caplog)) == 1


@pytest.fixture
def share(tmp_path):
    """A file system that can be mounted and taken away again."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting needs root")

    class Share:
        path = tmp_path / "share"

        def mount(self):
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "none", self.path], check=False, capture_output=True
            )
            if done.returncode:
                pytest.skip(f"can't be mounted here: {done.stderr!r}")

        def unmount(self, *options):
            subprocess.run(["umount", *options, self.path], check=True)

    one = Share()
    one.path.mkdir()
    one.mount()
    yield one
    if os.path.ismount(one.path):
        one.unmount("-l")


@pytest.mark.parametrize("polling", [False, True])
@pytest.mark.parametrize("inside", ["", "today"])
def test_a_share_that_is_unmounted_and_mounted_again_is_taken_on_with(
    share, inside, polling, caplog
):
    """The empty folder that is left where it was mounted isn't taken for it."""
    root = share.path / inside
    root.mkdir(exist_ok=True)
    with Watching(root, polling=polling, rescan_s=1000) as watching:
        save(root / "first.tif")
        watching.wait_for("first")
        wait_for(lambda: not watching.source._open.paths, "the file to be closed")
        share.unmount()
        wait_for(lambda: any("isn't there" in state for state in watching.states), "the state")
        assert not root.exists() or not list(root.iterdir())
        share.mount()
        root.mkdir(exist_ok=True)
        save(root / "second.tif")
        watching.wait_for("second")
        wait_for(lambda: watching.states[-1] == f"watching {root}", "the state")
        save(root / "third.tif")
        watching.wait_for("third")
    assert watching.ended() == ["first", "second", "third"]
    (warning,) = warnings_of(caplog)
    assert "isn't there any more" in warning


def test_files_are_listed_without_what_is_left_out(tmp_path):
    names = [
        "a.tif",
        "deep/er/b.tif",
        "cell.zarr/0/c/0",
        "cell.ZARR/x",
        ".hidden/c.tif",
        "out/d.tif",
    ]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.tif")
    watched = WatchedFolder(tmp_path, ignore=tmp_path / "out")
    listed = {path.relative_to(tmp_path).as_posix() for path in watched.files()}
    assert listed == {"a.tif", "deep/er/b.tif", "cell.zarr", "cell.ZARR", ".hidden/c.tif"}


@pytest.mark.parametrize("polling", [False, True])
def test_what_is_touched_in_a_folder_of_one_stack_touches_that(tmp_path, polling):
    (tmp_path / "sub" / "cell.zarr" / "0").mkdir(parents=True)
    (tmp_path / "out").mkdir()
    watched = WatchedFolder(tmp_path, ignore=tmp_path / "out", polling=polling)
    watched.open()
    touched = set()
    try:
        (tmp_path / "out" / "left.tif").touch()
        (tmp_path / "sub" / "cell.zarr" / "0" / "chunk").write_bytes(b"x")
        (tmp_path / "last.tif").write_bytes(b"x")

        def is_last_told():
            touched.update(watched.touched())
            return {tmp_path / "last.tif", tmp_path / "sub" / "cell.zarr"} <= touched

        wait_for(is_last_told, "word of the last")
    finally:
        watched.close()
    assert touched == {tmp_path / "last.tif", tmp_path / "sub" / "cell.zarr"}


def test_a_crossing_of_many_links_is_listed_in_its_own_size(tmp_path):
    """Folders that all lead to each other have more paths than anybody could follow."""
    for number in range(12):
        (tmp_path / f"f{number}").mkdir()
        (tmp_path / f"f{number}" / "cell.tif").touch()
        for other in range(12):
            (tmp_path / f"f{number}" / f"to{other}").symlink_to(tmp_path / f"f{other}")
    watched = WatchedFolder(tmp_path, polling=True)
    watched.open()
    try:
        assert len(list(watched.files())) == 12
    finally:
        watched.close()
