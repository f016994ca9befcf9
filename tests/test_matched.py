import logging

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from live_restore.errors import ProfileError, SourceError
from live_restore.matched import (
    MatchedFiles,
    MatchedPair,
    check_registration,
    field_of_view,
    match_folders,
    read_pairs,
)


@pytest.fixture
def folders(tmp_path):
    low, high = tmp_path / "low", tmp_path / "high"
    low.mkdir()
    high.mkdir()
    return low, high


def touch(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not a TIFF file")


def save(path, shape=(3, 8, 9), axes="ZYX", seed=0, dtype="u2", um=(0.5, 0.1, 0.1), data=None):
    if data is None:
        data = np.random.default_rng(seed).integers(0, 999, shape).astype(dtype)
    z, y, x = um or (None,) * 3
    voxel = {"PhysicalSizeZ": z, "PhysicalSizeY": y, "PhysicalSizeX": x} if um else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, ome=True, metadata={"axes": axes, **voxel})
    return data


# Matching


@pytest.mark.parametrize(
    ("low_name", "high_name", "name"),
    [
        pytest.param("cell1.tif", "cell1.tiff", "cell1", id="another suffix"),
        pytest.param("cell1.OME.TIF", "cell1.tif", "cell1", id="ome counts as suffix"),
        pytest.param("day1/cell.tif", "day1/cell.tif", "day1/cell", id="in a subfolder"),
        pytest.param("cell1_low.tif", "cell1_high.tif", "cell1", id="low and high"),
        pytest.param("Raw-cell1_t03.tif", "GT-cell1_t03.tif", "cell1_t03", id="in front"),
        pytest.param("cell1_low_snr.tif", "cell1_ground_truth.tif", "cell1", id="two words"),
        pytest.param("a/raw/c.tif", "a/truth/c.tif", "a/c", id="as folders"),
        pytest.param("low.tif", "high.tif", "low", id="nothing but words"),
        pytest.param("lowland.tif", "lowland.tif", "lowland", id="part of a word"),
    ],
)
def test_files_are_matched_by_name(folders, low_name, high_name, name):
    low, high = folders
    touch(low, low_name, "other.tif", "notes.txt")
    touch(high, high_name, "other.tif")
    found = match_folders(low, high)
    assert MatchedFiles(name, low / low_name, high / high_name) in found
    assert len(found) == 2


def test_a_folder_within_the_other_is_not_searched_twice(tmp_path):
    touch(tmp_path, "a.tif", "gt/a.tif")
    assert match_folders(tmp_path, tmp_path / "gt") == [
        MatchedFiles("a", tmp_path / "a.tif", tmp_path / "gt" / "a.tif")
    ]


def test_files_without_a_partner_are_named_on_both_sides(folders):
    low, high = folders
    touch(low, "both.tif", *(f"only{i:02}.tif" for i in range(13)))
    touch(high, "both.tif", "stranger.tif")
    with pytest.raises(SourceError, match=r"only00, .*only09 and 3 more.*stranger"):
        match_folders(low, high)


def test_names_that_become_alike_are_refused(folders):
    low, high = folders
    touch(low, "cell_low.tif", "cell_raw.tif")
    touch(high, "cell_high.tif")
    with pytest.raises(SourceError, match="cell_low, cell_raw are alike"):
        match_folders(low, high)


def test_two_files_of_one_name_are_refused(folders):
    low, high = folders
    touch(low, "cell.tif", "cell.ome.tif")
    touch(high, "cell.tif")
    with pytest.raises(SourceError, match="have one name, cell"):
        match_folders(low, high)


def test_missing_empty_and_equal_folders_are_refused(folders):
    low, high = folders
    with pytest.raises(SourceError, match="no such folder"):
        match_folders(low, high / "gone")
    with pytest.raises(SourceError, match="holds no TIFF file"):
        match_folders(low, high)
    with pytest.raises(SourceError, match="as low-dose and as high-dose"):
        match_folders(low, low.parent / "high" / ".." / "low")


# Fields of view


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("cell1_t012", "cell1"),
        ("cell1-T3", "cell1"),
        ("cell1_time05", "cell1"),
        ("day1/cell1_timepoint_5", "day1/cell1"),
        ("cell1_t003_c1", "cell1"),
        ("cell1 t7", "cell1"),
        ("fov/t001", "fov"),
        ("t001", "."),
        ("cell1", "cell1"),
        ("plate_C2", "plate_C2"),
        ("start12", "start12"),
    ],
)
def test_time_points_belong_to_one_field_of_view(name, field):
    assert field_of_view(name) == field


def test_a_pattern_says_what_the_field_of_view_is():
    assert field_of_view("mouse3_roi7_x", r"(mouse\d+)") == "mouse3"
    with pytest.raises(SourceError, match="isn't found"):
        field_of_view("cell", r"(mouse\d+)")
    with pytest.raises(ProfileError, match="0 groups"):
        field_of_view("cell", "cell")
    with pytest.raises(ProfileError, match="not a regular expression"):
        field_of_view("cell", "(cell")


# Reading


def test_each_time_and_channel_is_a_pair(folders):
    low, high = folders
    data = save(low / "cell_t01.tif", (2, 2, 3, 8, 9), "TCZYX")
    truth = save(high / "cell_t01.tif", (2, 2, 3, 8, 9), "TCZYX", seed=1, um=None)
    pairs = list(read_pairs(match_folders(low, high)))
    assert [pair.name for pair in pairs] == [
        f"cell_t01 time {t} C{c}" for t in (0, 1) for c in (0, 1)
    ]
    assert {pair.field_of_view for pair in pairs} == {"cell"}
    assert pairs[0].voxel_size_um == (0.5, 0.1, 0.1)
    np.testing.assert_array_equal(pairs[2].low, data[1, 0])
    np.testing.assert_array_equal(pairs[2].high, truth[1, 0])
    assert not pairs[0].low.flags.writeable


def test_positions_are_fields_of_their_own(folders):
    low, high = folders
    for folder in folders:
        with tifffile.TiffWriter(folder / "cell.ome.tif", ome=True) as tiff:
            for seed in (0, 1):
                data = np.random.default_rng(seed).integers(0, 9, (3, 8, 9)).astype("u2")
                tiff.write(data, metadata={"axes": "ZYX"})
    pairs = list(read_pairs(match_folders(low, high)))
    assert [pair.field_of_view for pair in pairs] == ["cell position 0", "cell position 1"]


def test_volumes_are_read_one_at_a_time(folders):
    low, high = folders
    save(low / "a.tif")
    save(high / "a.tif")
    touch(low, "b.tif")
    touch(high, "b.tif")
    pairs = read_pairs(match_folders(low, high))
    assert next(pairs).name == "a"
    with pytest.raises(SourceError, match=r"b\.tif"):
        next(pairs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3, 8, 10)}, r"differ in shape: \(3, 8, 9\) and \(3, 8, 10\)"),
        ({"shape": (2, 3, 8, 9), "axes": "TZYX"}, "number of times: 1 and 2"),
        ({"shape": (2, 3, 8, 9), "axes": "CZYX"}, "number of channels: 1 and 2"),
        ({"um": (0.5, 0.1, 0.102)}, r"voxel size: 0\.5 x 0\.1 x 0\.1 and 0\.5 x 0\.1 x 0\.102 µm"),
        ({"data": np.full((3, 8, 9), np.nan, "f4")}, "216 of 216 voxels of a aren't finite"),
    ],
)
def test_halves_that_do_not_fit_are_refused(folders, change, message):
    low, high = folders
    save(low / "a.tif")
    save(high / "a.tif", **change)
    with pytest.raises(SourceError, match=message):
        list(read_pairs(match_folders(low, high)))


def test_voxel_sizes_within_a_percent_are_the_same(folders):
    low, high = folders
    save(low / "a.tif")
    save(high / "a.tif", um=(0.5, 0.1005, 0.1))
    assert len(list(read_pairs(match_folders(low, high)))) == 1


def test_a_shift_is_warned_of_in_voxels_and_micrometres(caplog):
    structure = ndimage.gaussian_filter(np.random.default_rng(0).random((8, 64, 64)), 1.5)
    low, high = structure, np.roll(structure, 2, axis=1)
    files = MatchedFiles("cell", None, None)
    with caplog.at_level(logging.WARNING):
        check_registration(MatchedPair("cell", "cell", low, low, (0.3, 0.13, 0.13), files))
        assert not caplog.records
        check_registration(MatchedPair("cell", "cell", low, high, (0.3, 0.13, 0.13), files))
    (record,) = caplog.records
    assert "cell: the high-dose volume lies (" in record.getMessage()
    assert "+2.0, " in record.getMessage()
    assert "+0.26, " in record.getMessage()
    assert "register" in record.getMessage()
