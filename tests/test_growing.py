"""Acquisitions that are taken from a watched folder while they are written."""

import shutil

import numpy as np
import pytest

from live_restore.interfaces import StopSignal
from live_restore.profile import AcquisitionSource
from live_restore.sources.acquisition import OwnAcquisition
from live_restore.sources.assembler import Assembler
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Volume
from tests import growing_layouts as growing
from tests.conftest import DATA, wait_for
from tests.test_folder import Watching, save, warnings_of

WRITERS = {
    "NDTiff": growing.write_ndtiff,
    "image stack files": growing.write_mm_stack,
    "separate image files": growing.write_separate,
}


def planes_of(watching):
    return [event for event in list(watching.events) if isinstance(event, Plane)]


def volumes_of(events):
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
