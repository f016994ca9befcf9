"""Acquisitions that are taken from a watched folder while they are written."""

import os
import shutil
import time
from collections import Counter

import numpy as np
import pytest
import tifffile

from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.sources.layouts import Recognition
from live_restore.volume import AcquisitionEnd, Plane, SourceState, Volume
from tests import growing_layouts as growing
from tests.conftest import DATA, wait_for
from tests.watching import STACK, Pulling, Watching, save, volumes_of, warnings_of

WRITERS = {
    "NDTiff": growing.write_ndtiff,
    "image stack files": growing.write_mm_stack,
    "separate image files": growing.write_separate,
}


def planes_of(watching):
    return [event for event in list(watching.events) if isinstance(event, Plane)]


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("polling", [False, True])
def test_planes_are_taken_while_the_acquisition_is_written(layout, polling, tmp_path, caplog):
    """The writer goes on only when each stack has come: were they taken at the end, it would hang."""
    folder = tmp_path / "today" / "run_1"
    folder.mkdir(parents=True)
    acquired = growing.images(positions=2)
    num_whole = 0
    with Watching(tmp_path / "today", polling=polling, num_slices=3) as watching:
        for whole in WRITERS[layout](folder, acquired, growing.Pieces(4000)):
            num_whole += whole is not None
            if whole is not None and num_whole % 3 == 0:
                wait_for(lambda: len(planes_of(watching)) == num_whole, "the stack")  # noqa: B023
        watching.wait_for("run_1")
    assert num_whole == len(acquired)
    expected = {(*image.place,): image.data for image in acquired}
    volumes = volumes_of(watching.events)
    assert len(volumes) == 2 * 2 * 2
    for volume in volumes:
        assert isinstance(volume, Volume)
        assert volume.info.voxel_size_um == pytest.approx((0.4, 0.13, 0.13))
        assert volume.exposure_ms == growing.EXPOSURES_MS[volume.key.channel]
        for z, plane in enumerate(volume.data):
            place = (volume.key.position, volume.key.time, volume.key.channel, z)
            np.testing.assert_array_equal(plane, expected.pop(place))
    assert not expected
    assert not warnings_of(caplog)


def test_a_real_cores_acquisition_is_taken_from_its_folder(tmp_path):
    pytest.importorskip("mm_test_adapters")
    settings = AcquisitionSource.model_validate(
        {
            "kind": "acquisition",
            "channels": ("DAPI", "FITC"),
            "num_slices": 4,
            "num_times": 3,
            "exposure_ms": 1,
            "save_folder": str(tmp_path / "saved"),
            "properties": {"Camera-PixelType": "16bit", "Camera-Mode": "Noise"},
        }
    )
    (tmp_path / "saved").mkdir()
    with Watching(tmp_path / "saved") as watching, OwnAcquisition(settings) as source:
        sent = [event for event in source.events(StopSignal()) if isinstance(event, Plane)]
        wait_for(lambda: len(planes_of(watching)) == len(sent), "all planes")
        wait_for(watching.ended, "the end")
    read = {(p.key.time, p.key.channel, p.z): p.data for p in planes_of(watching)}
    assert len(read) == len(sent) == 3 * 2 * 4
    for plane in sent:
        np.testing.assert_array_equal(plane.data, read[plane.key.time, plane.key.channel, plane.z])


@pytest.mark.parametrize("existing", ["restore", "ignore"])
def test_datasets_that_exist_are_restored_or_left_as_the_profile_says(existing, tmp_path):
    for name in ("old", "new"):
        folder = tmp_path / name / "run_1"
        folder.mkdir(parents=True)
        list(growing.write_mm_stack(folder, growing.images(), growing.Pieces(None)))
    today = tmp_path / "today"
    shutil.copytree(tmp_path / "old", today / "old")
    with Watching(today, existing=existing) as watching:
        shutil.copytree(tmp_path / "new", today / "new")
        watching.wait_for("new/run_1")
        save(today / "single.tif")
        watching.wait_for("single")
    assert ("old/run_1" in watching.ended()) == (existing == "restore")


def test_a_dataset_beside_single_stacks_is_taken_once(tmp_path):
    shutil.copytree(DATA / "formats" / "mm2_separate_files", tmp_path / "separate")
    save(tmp_path / "img_like_a_dataset.tif")
    with Watching(tmp_path, idle_s=0.5) as watching:  # this sample was never closed
        watching.wait_for("separate", "img_like_a_dataset")
    assert len(watching.ended()) == len(set(watching.ended())) == 2


def test_an_acquisition_that_grows_no_more_is_over_in_time(tmp_path):
    folder = tmp_path / "run_1"
    folder.mkdir()
    pieces = growing.write_mm_stack(folder, growing.images(), growing.Pieces(None))
    with Watching(tmp_path, idle_s=0.3) as watching:
        num_whole = 0
        while num_whole < 4:  # a stack and one plane: the rest never comes
            num_whole += next(pieces) is not None
        watching.wait_for("run_1")
    assert watching.events[-1].reason == "no planes for 0.3 s"
    assert len(planes_of(watching)) == 4


def test_what_is_added_after_the_end_is_another_acquisition(tmp_path):
    folder = tmp_path / "run_1"
    folder.mkdir()
    pieces = growing.write_separate(folder, growing.images(), growing.Pieces(None))
    with Watching(tmp_path, idle_s=0.3) as watching:
        num_whole = 0
        while num_whole < 6:
            num_whole += next(pieces) is not None
        watching.wait_for("run_1")
        list(pieces)
        watching.wait_for("run_1~2")
    assert len(planes_of(watching)) == 12


def write(pieces, number):
    """Go on until so many more planes are whole."""
    while number:
        number -= next(pieces) is not None


def test_a_dataset_that_was_there_has_time_and_its_new_planes_have_not(tmp_path):
    """Six stacks were there, and a plane of the seventh, when the program started."""
    folder = tmp_path / "run_1"
    folder.mkdir()
    pieces = growing.write_mm_stack(folder, growing.images(times=6), growing.Pieces(None))
    write(pieces, 3 * 6 + 1)
    with Pulling(tmp_path) as pulling:
        pulling.until(Plane)
        write(pieces, 4)  # the rest of the seventh, two planes of the eighth
        pulling.wait_for_touches(".tif")
        time.sleep(0.02)  # it isn't looked at more often, however quickly old stacks are taken
        while len([e for e in pulling.events if isinstance(e, Plane)]) < 3 * 6 + 5:
            pulling.until(Plane)
        list(pieces)
        pulling.until(AcquisitionEnd)
    planes = [event for event in pulling.events if isinstance(event, Plane)]
    assert len(planes) == 6 * 2 * 3
    started = [(plane.key.time, plane.key.channel, plane.z, plane.is_live) for plane in planes]
    was_there = [one[:3] for one in started if not one[3]]
    assert was_there == [(t, c, z) for t in range(3) for c in ("DAPI", "FITC") for z in range(3)]
    live = [one[:3] for one in started if one[3]]
    assert live == [(t, c, z) for t in range(3, 6) for c in ("DAPI", "FITC") for z in range(3)]
    # What is new waits for no more than the stacks that were being given.
    assert [one[0] for one in started].index(3) <= 6
    volumes = volumes_of(pulling.events)
    assert all(isinstance(volume, Volume) for volume in volumes)
    assert {volume.key.time for volume in volumes if volume.is_live} == {3, 4, 5}


def test_planes_per_stack_are_learned_in_order_before_new_ones_go_first(tmp_path):
    folder = tmp_path / "run_1"
    folder.mkdir()
    acquired = growing.images(times=6)
    pieces = growing.write_ndtiff(folder, acquired, growing.Pieces(None))
    write(pieces, 3 * 6 + 1)
    with Pulling(tmp_path) as pulling:  # nothing tells that stacks have 3 planes
        write(pieces, 1)  # the seventh stack might seem to have 2
        pulling.wait_for_touches(".tif")
        pulling.until(Plane)
        list(pieces)
        while len([e for e in pulling.events if isinstance(e, Plane)]) < len(acquired):
            pulling.until(Plane)
    expected = {(*image.place,): image.data for image in acquired}
    for volume in volumes_of(pulling.events):
        assert isinstance(volume, Volume)
        for z, plane in enumerate(volume.data):
            place = (volume.key.position, volume.key.time, volume.key.channel, z)
            np.testing.assert_array_equal(plane, expected.pop(place))
    assert not expected


def test_an_acquisition_goes_between_two_stacks_of_a_file(tmp_path):
    save(tmp_path / "long.tif", np.stack([STACK] * 6), axes="TZYX")
    folder = tmp_path / "run_1"
    folder.mkdir()
    with Pulling(tmp_path) as pulling:
        for _ in range(6):
            pulling.until(Plane)
        list(growing.write_mm_stack(folder, growing.images(), growing.Pieces(None)))
        pulling.wait_for_touches("ome.tif")
        pulling.until_ended(2)
    assert pulling.ended == ["run_1", "long"]
    assert pulling.live == {"run_1"}


def test_a_file_goes_between_two_stacks_of_an_acquisition_that_was_copied_in(tmp_path):
    folder = tmp_path / "outside" / "run_1"
    folder.mkdir(parents=True)
    list(growing.write_mm_stack(folder, growing.images(times=9), growing.Pieces(None)))
    (tmp_path / "today").mkdir()
    with Pulling(tmp_path / "today") as pulling:
        pulling.until(SourceState)
        folder.rename(tmp_path / "today" / "run_1")
        pulling.wait_for_touches("ome.tif")
        pulling.until(Plane)
        save(tmp_path / "today" / "new.tif")
        pulling.wait_for_touches("new.tif")
        pulling.until_ended(2)
    assert pulling.ended == ["new", "run_1"]
    assert pulling.live == {"new", "run_1"}


def test_what_was_there_goes_by_age_be_it_file_or_dataset(tmp_path):
    hour_s = 3600
    for age, name in ((3, "b"), (1, "d")):
        folder = tmp_path / name
        folder.mkdir()
        list(growing.write_mm_stack(folder, growing.images(), growing.Pieces(None)))
        for path in (*folder.iterdir(), folder):
            os.utime(path, (time.time() - age * hour_s,) * 2)
    for age, name in ((2, "c"), (4, "a")):
        save(tmp_path / f"{name}.tif")
        os.utime(tmp_path / f"{name}.tif", (time.time() - age * hour_s,) * 2)
    with Pulling(tmp_path) as pulling:
        pulling.until_ended(4)
    assert pulling.ended == ["a", "b", "c", "d"]
    assert not pulling.live


@pytest.mark.parametrize("layout", WRITERS)
def test_an_acquisition_whose_folder_goes_and_comes_back_goes_on(layout, tmp_path, caplog):
    root, away = tmp_path / "today", tmp_path / "away"
    (root / "run_1").mkdir(parents=True)
    acquired = growing.images(times=4)
    pieces = WRITERS[layout](root / "run_1", acquired, growing.Pieces(None))
    with Watching(root, num_slices=3, rescan_s=1000) as watching:
        write(pieces, 8)
        wait_for(lambda: len(planes_of(watching)) == 8, "the first planes")
        root.rename(away)
        wait_for(lambda: any("isn't there" in state for state in watching.states), "the state")
        away.rename(root)
        list(pieces)
        watching.wait_for("run_1")
    assert len(planes_of(watching)) == len(acquired)
    assert watching.ended() == ["run_1"]
    volumes = volumes_of(watching.events)
    assert len(volumes) == 8
    assert all(isinstance(volume, Volume) for volume in volumes)


@pytest.mark.parametrize("existing", ["restore", "ignore"])
def test_ten_thousand_images_of_a_dataset_are_recognised_by_a_few(existing, tmp_path, monkeypatch):
    folder = tmp_path / "run_1"
    folder.mkdir()
    acquired = growing.images(times=1, slices=5)
    list(growing.write_separate(folder, acquired, growing.Pieces(None)))
    (image, *_) = folder.rglob("img_*_time000000000_z000.tif")
    content = image.read_bytes()
    for number in range(5, 10_000 - len(acquired)):
        name = f"img_channel000_position000_time{number // 5:09}_z{number % 5:03}.tif"
        (image.parent / name).write_bytes(content)
    (tmp_path / "none").mkdir()
    for number in range(100):
        save(tmp_path / "none" / f"img_{number}.tif")
    asked = []
    recognise = Recognition.recognise

    def counted(recognition, path):
        asked.append(path)
        return recognise(recognition, path)

    monkeypatch.setattr(Recognition, "recognise", counted)
    with Watching(tmp_path, existing=existing, rescan_s=0.3) as watching:
        if existing == "restore":
            watching.wait_for("none/img_0", "none/img_99")
            wait_for(lambda: len(planes_of(watching)) == 400 + 9995, "all planes")
        else:
            save(tmp_path / "new.tif")
            watching.wait_for("new")
    assert len(asked) < 50
    assert ("run_1" in {p.key.acquisition for p in planes_of(watching)}) == (existing == "restore")


def test_stacks_beside_the_planes_that_a_pattern_tells_are_taken_too(tmp_path):
    """The planes' folder is the watched one itself, and another dataset lies in a folder in it."""
    for folder in (tmp_path, tmp_path / "sub"):
        folder.mkdir(exist_ok=True)
        for t in range(2):
            for z in range(3):
                tifffile.imwrite(folder / f"DAPI_{t}_{z}.tif", STACK[z])
    save(tmp_path / "cell.tif")
    save(tmp_path / "sub" / "cell.tif")
    with Watching(tmp_path, pattern="{channel}_{time}_{z}.tif", idle_s=2) as watching:
        watching.wait_for("cell", "sub/cell", "sub", tmp_path.name)
        tifffile.imwrite(tmp_path / "DAPI_2_0.tif", STACK[0])
        wait_for(lambda: any(plane.is_live for plane in planes_of(watching)), "the new one")
    counts = Counter(plane.key.acquisition for plane in planes_of(watching))
    assert counts["cell"] == counts["sub/cell"] == 4
    assert counts["sub"] == 6
    live = [plane for plane in planes_of(watching) if plane.is_live]
    assert [(plane.key.time, plane.z) for plane in live] == [(2, 0)]
