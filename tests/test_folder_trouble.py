"""A watched folder in which things go wrong."""

import logging
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile

from live_restore.ledger import Ledger
from live_restore.sources.arrivals import Arrivals
from live_restore.sources.stacks import ome_zarr
from live_restore.volume import (
    AcquisitionEnd,
    Plane,
    SourceState,
    Volume,
)
from tests.conftest import wait_for
from tests.ome_zarr_files import write_image
from tests.watching import (
    STACK,
    Pulling,
    Watching,
    readable_by_all,
    save,
    volumes_of,
    warnings_of,
)


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


def test_a_file_that_changed_while_it_waited_its_turn_waits_anew(tmp_path):
    """Nothing told of the change: what counts is what it is like when it is opened."""
    arrivals = Arrivals(settle_s=0.0, is_there=lambda: True)
    (tmp_path / "cell.tif").write_bytes(b"half")
    arrivals.see(tmp_path / "cell.tif", is_live=False)
    for arrival in arrivals.due():
        arrivals.ready(arrival)
    (tmp_path / "cell.tif").write_bytes(b"all of it")
    assert arrivals.next_old() is None
    (arrival,) = arrivals.due()
    assert arrival.is_live
    arrivals.ready(arrival)
    assert arrivals.next_new() is arrival


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


def test_a_stack_whose_parts_cannot_be_looked_at_is_warned_of_once_and_taken_when_they_can(
    tmp_path, caplog
):
    write_image(
        tmp_path / "cell.ome.zarr", STACK[None, None], zarr_format=3, shards=(1, 1, 2, 5, 6)
    )
    shards = (file for file in (tmp_path / "cell.ome.zarr" / "0").rglob("*") if file.is_file())
    shard = next(file for file in shards if file.name.isdecimal())
    shard.rename(tmp_path / "elsewhere")
    shard.symlink_to(tmp_path / "nowhere")
    hour_ago = time.time() - 3600  # so that it isn't taken for one that is still being written
    for file in (tmp_path / "cell.ome.zarr", *(tmp_path / "cell.ome.zarr").iterdir()):
        os.utime(file, (hour_ago, hour_ago))
    with Watching(tmp_path, rescan_s=0.2, polling=True) as watching:
        wait_for(lambda: warnings_of(caplog), "the warning")
        save(tmp_path / "other.tif")
        watching.wait_for("other")
        (tmp_path / "elsewhere").rename(tmp_path / "nowhere")
        watching.wait_for("cell")
    told = [warning for warning in warnings_of(caplog) if "cell.ome.zarr" in warning]
    assert len(told) == 1
    assert "cell.ome.zarr: can't be read (No such file or directory)" in told[0]


def test_a_stack_that_vanishes_while_it_is_looked_for_gaps_is_passed_over(
    tmp_path, caplog, monkeypatch
):
    def vanish(path):
        shutil.rmtree(path.parent)
        return read_gaps(path)

    read_gaps = ome_zarr.has_gaps
    write_image(tmp_path / "cell.ome.zarr", STACK[None, None], zarr_format=3)
    monkeypatch.setattr(ome_zarr, "has_gaps", vanish)
    with Watching(tmp_path) as watching:
        wait_for(lambda: not (tmp_path / "cell.ome.zarr").exists(), "the end of it")
        save(tmp_path / "other.tif")
        watching.wait_for("other")
    assert watching.ended() == ["other"]
    assert not warnings_of(caplog)


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


def latin(name):
    """A name as it was written by a system that knew no UTF-8, as it is read by one that does."""
    return os.fsdecode(name.encode("latin-1"))


def save_or_skip(path):
    try:
        save(path)
    except OSError as error:
        pytest.skip(f"this file system refuses such names: {error}")


@pytest.mark.parametrize("existing", ["restore", "ignore"])
def test_names_that_are_not_unicode_are_left_alone_and_told_of_once(tmp_path, caplog, existing):
    root = tmp_path / "root"
    save_or_skip(root / latin("café.tif"))
    save(root / latin("été") / "1.tif")
    save(root / latin("été") / "2" / "3.tif")
    with (
        Ledger(tmp_path / "ledger.sqlite", is_written=False) as ledger,
        Watching(root, ledger=ledger, existing=existing, rescan_s=0.2) as watching,
    ):
        save(root / latin("later é.tif"))
        save(root / "good.tif")
        watching.wait_for("good")
        time.sleep(1)  # some more scans
        assert watching.ended() == ["good"]
        (root / latin("été")).rename(root / "été")
        watching.wait_for("été/1", "été/2/3")
    warned = sorted(warnings_of(caplog))
    assert [w.split(": ")[0] for w in warned] == [
        str(root / name) for name in (r"\xe9t\xe9", r"caf\xe9.tif", r"later \xe9.tif")
    ]
    assert all("isn't Unicode (UTF-8), left alone. Rename it" in warning for warning in warned)


def test_a_file_of_such_a_name_among_those_of_a_dataset_harms_none(tmp_path, caplog):
    save_or_skip(tmp_path / "run" / latin("é_z0.tif"))
    for z in range(2):
        tifffile.imwrite(tmp_path / "run" / f"a_z{z}.tif", STACK[z])
    tifffile.imwrite(tmp_path / "run" / latin("é_z0.tif"), STACK[0])
    pattern = "{position}_z{z}.tif"
    with Watching(tmp_path, pattern=pattern, num_slices=2, idle_s=1) as watching:
        watching.wait_for("run")
    planes = [event for event in watching.events if isinstance(event, Plane)]
    assert [(plane.key.position, plane.z) for plane in planes] == [("a", 0), ("a", 1)]
    assert any(r"\xe9_z0.tif: the name isn't Unicode" in warning for warning in warnings_of(caplog))


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
