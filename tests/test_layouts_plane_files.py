"""Acquisitions of one file per plane, whose names a pattern tells."""

import io
import os
import random
import shutil
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import tifffile

from live_restore.errors import SourceError
from live_restore.interfaces import StopSignal
from live_restore.profile.pattern import NamePattern
from live_restore.sources.assembler import Assembler
from live_restore.sources.growing import Growing
from live_restore.sources.incoming import Defaults
from live_restore.sources.layouts import LayoutInfo, Recognition, plane_files
from live_restore.sources.layouts.raw_file import RawFile
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Volume
from tests import growing_layouts as growing
from tests.growing_layouts import Pieces
from tests.plane_file_writers import by_position, flat, from_one, tiff, write_plane_files
from tests.test_layouts import place

FLAT = "{channel}_{time}_{z}.tif"
BY_POSITION = "{position}/{channel}_t{time}_z{z}.tif"
FROM_ONE = "*_w{channel}_t{time}_z{z}.TIF"
SHAPE = (5, 7)


class Clock:
    """Time that passes when a test says so."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now

    def time(self):
        raise AssertionError("wall time doesn't tell how long a file has stood still")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(plane_files, "time", clock)
    return clock


def recognise(folder, pattern=FLAT, **options):
    return Recognition("plane-files", pattern, **options).recognise(folder)


def follow(layout, clock, seconds=3.0, step=0.1):
    """Every plane and every error of some time."""
    planes, errors = [], []
    until = clock.now + seconds
    while clock.now < until:
        try:
            planes.extend(layout.poll())
        except SourceError as error:
            errors.append(str(error))
        clock.now += step
    return planes, errors


def where(image):
    """An image's place where no position is told."""
    return "0", *image.place[1:]


def check(planes, acquired, place_of=where):
    """They are the planes that were acquired, each once."""
    expected = {place_of(image): image.data for image in acquired}
    assert sorted(map(place, planes)) == sorted(expected)
    for plane in planes:
        data = plane.read()
        np.testing.assert_array_equal(data, expected[place(plane)], strict=True)
        assert not data.flags.writeable


def save(path, data, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, data, **options)


def write_all(folder, acquired, **options):
    for _ in write_plane_files(folder, acquired, Pieces(None), **options):
        pass


WRITERS = [
    pytest.param({}, {}, id="directory first"),
    pytest.param({"order": ">"}, {"dtype": "u1"}, id="big-endian, 8 bits"),
    pytest.param({"directory": "last"}, {}, id="directory last"),
    pytest.param({"directory": "last", "strips": 3}, {}, id="directory last, strips"),
    pytest.param({"strips": 5, "text": "made by ourselves"}, {}, id="strips"),
    pytest.param({}, {"shape": (4, 5, 3), "dtype": "u1"}, id="colour"),
    pytest.param({"is_copied": True}, {}, id="copied"),
    pytest.param({"is_copied": True, "order": ">"}, {}, id="copied big-endian"),
    pytest.param({"is_copied": True, "strips": 2}, {}, id="copied strips"),
    pytest.param({"is_copied": True, "directory": "last", "strips": 3}, {}, id="copied, directory last"),
]  # fmt: skip


@pytest.mark.parametrize("largest", [1, 40])
@pytest.mark.parametrize(("options", "acquired"), WRITERS)
def test_each_plane_comes_once_and_whole_with_the_piece_that_completes_it(
    options, acquired, largest, tmp_path
):
    acquired = growing.images(times=1, slices=2, **{"shape": SHAPE} | acquired)
    layout, num_given = None, 0
    for whole in write_plane_files(tmp_path, acquired, Pieces(largest), **options):
        layout = layout or recognise(tmp_path)
        given = list(layout.poll()) + (list(layout.poll()) if whole else [])
        assert [place(plane) for plane in given] == ([where(whole)] if whole else [])
        for plane in given:
            np.testing.assert_array_equal(plane.read(), whole.data, strict=True)
        num_given += len(given)
    assert num_given == len(acquired)
    assert not list(layout.poll())
    assert layout.is_ended() is None
    assert layout.info() == LayoutInfo(channels=("DAPI", "FITC"), positions=("0",))
    layout.close()


def lzw(image):
    file = io.BytesIO()
    tifffile.imwrite(file, image.data, compression="lzw", rowsperstrip=2)
    return file.getvalue()


def tiles(image):
    file = io.BytesIO()
    tifffile.imwrite(file, image.data, compression="zlib", tile=(16, 16))
    return file.getvalue()


@pytest.mark.parametrize("make", [lzw, tiles])
@pytest.mark.parametrize("is_copied", [False, True])
def test_encoded_planes_are_taken_when_they_decode(make, is_copied, tmp_path, clock):
    pytest.importorskip("imagecodecs")
    acquired = growing.images(times=1, slices=2, shape=(20, 33))
    write_all(tmp_path, acquired[:1], make=make)
    layout = recognise(tmp_path)
    planes, _ = follow(layout, clock)
    for whole in write_plane_files(
        tmp_path, acquired[1:], Pieces(200), make=make, is_copied=is_copied
    ):
        given = list(layout.poll())
        assert not given
        if whole:
            given, errors = follow(layout, clock)
            assert [place(plane) for plane in given] == [where(whole)]
            assert not errors
            planes += given
    check(planes, acquired)
    for plane in planes:
        assert plane.pixels.shape == (20, 33)
        assert plane.pixels.dtype == np.uint16


def test_files_that_tifffile_writes_are_read_as_it_reads_them(tmp_path, clock):
    acquired = growing.images(shape=(40, 30), times=1, slices=9)
    ways = [
        {}, {"imagej": True}, {"ome": True}, {"rowsperstrip": 7}, {"bigtiff": True}, {"tile": (16, 16)},
        {"compression": "lzw"}, {"compression": "zlib", "predictor": True}, {"byteorder": ">"},
    ]  # fmt: skip
    for image in acquired:
        save(tmp_path / flat(image), image.data, **ways[image.z])
    planes, errors = follow(recognise(tmp_path), clock)
    assert not errors
    check(planes, acquired)


@pytest.mark.parametrize("last", [0, 1, 255, 256], ids=lambda value: f"last pixel {value}")
def test_a_copy_with_a_black_end_is_taken_when_it_stands_still(last, tmp_path, clock):
    (image,) = growing.images(times=1, slices=1, shape=(40, 50))[:1]
    image.data[-20:] = 0
    image.data[-1, -1] = last
    layout = None
    for whole in write_plane_files(tmp_path, [image], Pieces(40), is_copied=True):
        layout = layout or recognise(tmp_path)
        assert not list(layout.poll()) or whole
    begun_s = clock.now
    planes = []
    while not planes:
        clock.now += 0.02
        planes += layout.poll()
    check(planes, [image])
    assert (clock.now - begun_s > 1) == (last == 0)


def test_a_copy_that_keeps_its_size_and_time_is_seen_to_go_on(tmp_path, clock):
    """Over a slow share: the time is set at the end, and the last rows are black all the while."""
    (image,) = growing.images(times=1, slices=1, shape=(400, 50))[:1]
    content, _ = tiff(image.data)
    path = growing.laid_out(tmp_path / flat(image), len(content))
    layout = recognise(tmp_path)
    for at in range(0, len(content), 2000):
        with path.open("r+b") as file:
            file.seek(at)
            file.write(content[at : at + 2000])
        os.utime(path, ns=(10**18, 10**18))
        is_last = at + 2000 >= len(content)
        planes, errors = follow(layout, clock, 0.9)
        assert not errors
        assert len(planes) == is_last
    check(planes, [image])


def test_names_that_count_from_one_are_counted_from_zero(tmp_path, clock):
    acquired = growing.images(times=2, slices=2, shape=SHAPE)
    write_all(tmp_path, acquired[:1], name=from_one)
    layout = recognise(tmp_path, FROM_ONE)
    assert not list(layout.poll())  # a 0 may still come
    write_all(tmp_path, acquired[1:], name=from_one)
    planes, errors = follow(layout, clock)
    assert not errors
    check(planes, acquired)


def test_names_that_count_from_zero_are_not_waited_for(tmp_path):
    acquired = growing.images(shape=SHAPE)
    write_all(tmp_path, acquired)
    layout = recognise(tmp_path)
    assert not list(layout.poll())  # each is looked at twice
    check(list(layout.poll()), acquired)


def test_numbers_that_begin_late_stay_as_they_are(tmp_path, clock):
    acquired = [replace(i, time=i.time + 7) for i in growing.images(shape=SHAPE)]
    write_all(tmp_path, acquired)
    planes, _ = follow(recognise(tmp_path), clock)
    check(planes, acquired)


def test_a_zero_that_comes_late_is_told_once_with_what_to_do(tmp_path, clock):
    acquired = growing.images(times=1, slices=3, shape=SHAPE)
    write_all(tmp_path, [image for image in acquired if image.z])
    layout = recognise(tmp_path)
    planes, _ = follow(layout, clock)
    assert {plane.z for plane in planes} == {0, 1}
    write_all(tmp_path, [image for image in acquired if not image.z])
    planes, errors = follow(layout, clock)
    assert not planes
    assert len(errors) == 1
    assert "z is 0, but the first files' began with 1" in errors[0]
    assert "Start live-restore anew" in errors[0]


def test_planes_in_any_order_all_come(tmp_path, clock):
    acquired = growing.images(positions=2, shape=SHAPE)
    random.Random(0).shuffle(acquired)
    layout, planes = None, []
    for _ in write_plane_files(tmp_path, acquired, Pieces(300), name=by_position):
        layout = layout or recognise(tmp_path, BY_POSITION)
        planes += layout.poll()
        clock.now += 0.01
    planes += follow(layout, clock)[0]
    check(planes, acquired, lambda image: image.place)
    assert sorted(layout.info().positions) == ["Pos0", "Pos1"]


def test_a_folder_for_each_time_point_in_one_for_each_position(tmp_path, clock):
    def name(image):
        return f"Schale 1 µ/{image.place[0]} b/t{image.time}/{image.place[2]} {image.z}.tif"

    pattern = "*/{position} b/t{time}/{channel} {z}.tif"
    acquired = growing.images(positions=3, times=4, shape=SHAPE)
    (tmp_path / "Schale 1 µ").mkdir()
    (tmp_path / "Schale 1 µ" / "Pos9 b").write_text("no folder")
    layout, planes = None, []
    for _ in write_plane_files(tmp_path, acquired, Pieces(None), name=name):
        layout = layout or recognise(tmp_path, pattern)
        planes += layout.poll()
    planes += follow(layout, clock)[0]
    check(planes, acquired, lambda image: image.place)


def test_folders_that_are_many_are_looked_into_in_turn(tmp_path, clock, monkeypatch):
    from live_restore.sources.layouts import growing_tree

    monkeypatch.setattr(growing_tree, "_LOOK_S", 0.0)
    monkeypatch.setattr(growing_tree, "_LATELY_S", 0.0)
    acquired = growing.images(positions=5, times=1, slices=1, shape=SHAPE)
    write_all(tmp_path, acquired, name=by_position)
    layout = recognise(tmp_path, BY_POSITION)
    planes, _ = follow(layout, clock)
    check(planes, acquired, lambda image: image.place)
    later = [replace(image, time=1) for image in acquired]
    write_all(tmp_path, later, name=by_position)
    planes, _ = follow(layout, clock)
    check(planes, later, lambda image: image.place)


def test_two_files_of_one_plane_are_told_once_and_the_first_is_taken(tmp_path, clock):
    first = growing.images(times=1, slices=2, shape=SHAPE)
    second = growing.images(times=1, slices=2, shape=SHAPE, seed=1)
    write_all(tmp_path, first, name=lambda image: "a_" + flat(image))
    write_all(tmp_path, second, name=lambda image: "b_" + flat(image))
    planes, errors = follow(recognise(tmp_path, "*_" + FLAT), clock)
    check(planes, first)
    assert len(errors) == 1
    assert "a_DAPI_000_00.tif and b_DAPI_000_00.tif are the same plane" in errors[0]
    assert "Put {position} where their names differ" in errors[0]


@pytest.mark.parametrize("is_old", [True, False])
def test_a_file_that_is_renamed_when_it_is_finished_is_taken_under_its_new_name(
    is_old, tmp_path, clock
):
    acquired = growing.images(times=1, slices=2, shape=SHAPE)[:2]
    write_all(tmp_path, acquired[:1], name=lambda image: f"run_z{image.z}.tif")
    if not is_old:
        layout = recognise(tmp_path, "*_z{z}.tif")
        planes, _ = follow(layout, clock)
    (tmp_path / "tmp_z1.tif").write_bytes(tiff(acquired[1].data)[0][:-1])
    if is_old:
        layout = recognise(tmp_path, "*_z{z}.tif")
        planes, _ = follow(layout, clock)
    assert not list(layout.poll())
    (tmp_path / "tmp_z1.tif").write_bytes(tiff(acquired[1].data)[0])
    (tmp_path / "tmp_z1.tif").rename(tmp_path / "run_z1.tif")
    more, errors = follow(layout, clock, 6)
    assert not errors
    check(planes + more, acquired, lambda image: ("0", 0, "camera", image.z))


STACK = np.arange(1, 106, dtype="u2").reshape(3, *SHAPE)


@pytest.mark.parametrize(
    "options",
    [{}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {"bigtiff": True}, {"compression": "lzw"}],
)
def test_files_that_hold_stacks_are_refused_once(options, tmp_path, clock):
    for z in range(3):
        save(tmp_path / f"GFP_0_{z}.tif", STACK, photometric="minisblack", **options)
    planes, errors = follow(recognise(tmp_path), clock, 5)
    for plane in planes:  # seen when it is read, of files that had to be decoded
        with pytest.raises(SourceError, match="holds 3 images"):
            plane.read()
    assert len(planes) == (3 if "bigtiff" in options else 0)
    assert len(errors) == (not planes)
    for error in errors:
        assert "images, but by the pattern in [source] it is a single plane" in error


def test_an_imagej_stack_with_one_directory_is_refused(tmp_path, clock):
    content, _ = tiff(STACK[0], text="ImageJ=1.54f\nimages=24\nslices=24\n")
    (tmp_path / "GFP_0_0.tif").write_bytes(content)
    planes, errors = follow(recognise(tmp_path), clock)
    assert not planes
    assert "holds 24 images" in errors[0]


@pytest.mark.parametrize("dtype", ["i2", "u4", "f8", "f4"])
def test_other_pixels_are_given_as_they_are(dtype, tmp_path, clock):
    data = np.arange(-10, 25).reshape(SHAPE).astype(dtype)
    (tmp_path / "a_0_0.tif").write_bytes(tiff(data)[0])
    save(tmp_path / "b_0_0.tif", data, compression="zlib")
    planes, errors = follow(recognise(tmp_path), clock)
    assert not errors
    assert len(planes) == 2
    for plane in planes:
        np.testing.assert_array_equal(plane.read(), data, strict=True)


def test_a_damaged_encoded_plane_is_told_once_when_it_stands_still(tmp_path, clock):
    image = growing.images(times=1, slices=1, shape=(40, 50))[0]
    write_all(tmp_path, [image])
    layout = recognise(tmp_path)
    follow(layout, clock)
    content = bytearray(lzw(image))
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    (tmp_path / "DAPI_000_01.tif").write_bytes(content)
    planes, errors = follow(layout, clock, 0.9)
    assert (planes, errors) == ([], [])
    planes, errors = follow(layout, clock, 5)
    assert not planes
    assert len(errors) == 1
    assert "DAPI_000_01.tif: can't be decoded" in errors[0]


def test_a_file_cut_or_wrong_anywhere_never_hangs_or_crashes_and_no_plane_is_torn(tmp_path, clock):
    rng = np.random.default_rng(0)
    acquired = growing.images(times=1, slices=1, shape=SHAPE)
    write_all(tmp_path, acquired, text="ImageJ=1.54f\nunit=um\n")
    victim = tmp_path / flat(acquired[0])
    content = victim.read_bytes()
    for at in range(len(content)):
        victim.write_bytes(content[:at])
        planes, errors = follow(recognise(tmp_path), clock)
        assert not errors
        check(planes, acquired[1:])
        hurt = bytearray(content)
        hurt[at : at + 3] = rng.bytes(3)
        victim.write_bytes(hurt)
        planes, errors = follow(recognise(tmp_path), clock)
        assert len(errors) <= 1
        for plane in planes:
            try:
                plane.read()
            except SourceError as error:
                assert str(victim) in str(error)  # noqa: PT017 - either outcome is right


def test_a_file_that_vanishes_is_an_error_and_the_others_go_on(tmp_path, clock):
    acquired = growing.images(times=1, shape=SHAPE)
    write_all(tmp_path, acquired)
    layout = recognise(tmp_path)
    assert not list(layout.poll())
    victim = tmp_path / flat(acquired[1])
    away = shutil.move(victim, tmp_path / "away")
    with pytest.raises(SourceError, match=r"was there and is gone.*network share"):
        planes = list(chain(layout.poll(), layout.poll()))
    planes, _ = follow(recognise(tmp_path), clock)
    check(planes, [acquired[0], *acquired[2:]])
    shutil.move(away, victim)
    planes, errors = follow(layout, clock)
    assert not errors
    check(planes, [acquired[1]])


def test_a_folder_that_vanishes_is_an_error_each_time_and_goes_on_when_it_is_back(tmp_path, clock):
    acquired = growing.images(positions=2, shape=SHAPE)
    folder = tmp_path / "run"
    write_all(folder, acquired[:6], name=by_position)
    layout = recognise(folder, BY_POSITION)
    planes, _ = follow(layout, clock)
    folder.rename(tmp_path / "away")
    for _ in range(2):
        with pytest.raises(SourceError, match=r"run.*can't be listed"):
            list(layout.poll())
    assert recognise(folder, BY_POSITION) is None
    (tmp_path / "away").rename(folder)
    write_all(folder, acquired[6:], name=by_position)
    planes += follow(layout, clock)[0]
    check(planes, acquired, lambda image: image.place)


def test_what_may_not_be_read_yet_is_waited_for_and_then_told(tmp_path, clock, monkeypatch):
    acquired = growing.images(times=1, shape=SHAPE)
    write_all(tmp_path, acquired)
    layout = recognise(tmp_path)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)  # root may read everything
        assert follow(layout, clock, 0.9) == ([], [])
        _, errors = follow(layout, clock, 0.5)
        assert "(Permission denied). See to its permissions" in errors[0]
    planes, _ = follow(layout, clock)
    check(planes, acquired)


def test_planes_that_are_not_taken_come_with_the_next_poll(tmp_path):
    acquired = growing.images(times=20, shape=SHAPE)
    write_all(tmp_path, acquired)
    layout, places = recognise(tmp_path), set()
    for _ in range(100):
        for plane in layout.poll():
            assert place(plane) not in places
            places.add(place(plane))
            if len(places) % 5 == 0:
                break
    assert places == {where(image) for image in acquired}


def test_a_poll_costs_what_is_new(tmp_path, clock, monkeypatch):
    acquired = growing.images(times=20, slices=4, shape=SHAPE)
    write_all(tmp_path, acquired)
    layout = recognise(tmp_path)
    assert len(follow(layout, clock)[0]) == len(acquired) == 160
    opened = []
    monkeypatch.setattr(RawFile, "__init__", lambda self, path: opened.append(path))
    for _ in range(3):
        assert not list(layout.poll())
    assert not opened


def test_files_that_never_become_whole_are_looked_at_ever_less(tmp_path, clock, monkeypatch):
    (tmp_path / "a_0_0.tif").write_bytes(b"II*\0" + bytes(100))
    layout = recognise(tmp_path)
    opened = []
    begin = RawFile.__init__
    monkeypatch.setattr(
        RawFile, "__init__", lambda self, path: (opened.append(path), begin(self, path))[1]
    )
    follow(layout, clock, 60, 0.02)
    assert len(opened) < 60
    (tmp_path / "a_0_0.tif").write_bytes(tiff(STACK[0])[0])
    assert len(follow(layout, clock, 12)[0]) == 1


def test_what_is_new_goes_before_what_was_there(tmp_path, clock):
    acquired = growing.images(times=40, slices=2, shape=SHAPE)
    write_all(tmp_path, acquired[:-1])
    layout = recognise(tmp_path)
    list(layout.poll())
    write_all(tmp_path, acquired[-1:])
    list(layout.poll())
    assert place(next(layout.poll())) == where(acquired[-1])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "um", "spacing": 0.7}}, (0.25, 0.7)),
        ({"imagej": True, "resolution": (4, 4)}, (None, None)),
        ({"ome": True, "metadata": {"PhysicalSizeX": 130, "PhysicalSizeXUnit": "nm"}}, (0.13, None)),
        ({"resolution": (72, 72), "resolutionunit": 2}, (None, None)),
    ],
)  # fmt: skip
def test_sizes_come_from_the_first_files_description(options, expected, tmp_path, clock):
    save(tmp_path / "a_0_0.tif", STACK[0], **options)
    layout = recognise(tmp_path)
    (plane,), _ = follow(layout, clock)
    pixel_size_um, z_step_um = expected
    assert plane.pixel_size_um == pytest.approx(pixel_size_um)
    assert layout.info().pixel_size_um == pytest.approx(pixel_size_um)
    assert layout.info().z_step_um == pytest.approx(z_step_um)


def test_a_finished_acquisition_is_given_by_a_single_poll(tmp_path, clock):
    acquired = growing.images(positions=2, times=20, shape=SHAPE)
    for image in acquired:
        image.data[-1] = 0
    one_based = [replace(image, time=image.time + 1) for image in acquired]
    write_all(tmp_path, one_based, name=by_position)
    layout = recognise(tmp_path, BY_POSITION, is_finished=True)
    check(list(layout.poll()), acquired, lambda image: image.place)
    assert not list(layout.poll())


def test_every_path_in_a_dataset_leads_to_the_same_folder(tmp_path):
    folder = tmp_path / "run"
    write_all(folder, growing.images(positions=2, shape=SHAPE), name=by_position)
    for path in [folder, *folder.iterdir(), *folder.rglob("*.tif")]:
        assert recognise(path, BY_POSITION).path == folder
    assert recognise(tmp_path, BY_POSITION) is None
    assert recognise(folder / "Pos0" / "nothing.tif", BY_POSITION) is None
    assert recognise(folder / "Pos0" / "DAPI_t9_z9.tif", BY_POSITION) is None
    os.mkfifo(folder / "Pos0" / "DAPI_t9_z9.tif")
    assert recognise(folder / "Pos0" / "DAPI_t9_z9.tif", BY_POSITION) is None


def test_a_profile_says_what_is_recognised(tmp_path):
    plane = tmp_path / "planes" / "img_000_00.tif"
    save(plane, STACK[0])
    folder = tmp_path / "run"
    folder.mkdir()
    list(growing.write_mm_stack(folder, growing.images(), Pieces(None)))
    (stack,) = folder.glob("*.tif")
    for layout, pattern, of_plane, of_stack in [
        ("auto", None, None, "Micro-Manager image stack file"),
        ("auto", FLAT, "one file per plane", "Micro-Manager image stack file"),
        ("plane-files", FLAT, "one file per plane", None),
        ("plane-files", None, None, None),
        ("image-stack", FLAT, None, "Micro-Manager image stack file"),
        ("ndtiff", FLAT, None, None),
        ("whole-files", FLAT, None, None),
    ]:
        recognition = Recognition(layout, pattern)
        for path, expected in ((plane, of_plane), (stack, of_stack)):
            found = recognition.recognise(path)
            assert (found and found.name) == expected
            assert recognition.may_belong(path) or found is None
    assert not Recognition("plane-files", FLAT).may_belong(stack)
    assert not Recognition("whole-files", FLAT).may_belong(plane)
    assert NamePattern.parse(FLAT).fit(plane.parts) is not None


def given_by(growth):
    """What an acquisition gives after a look."""
    growth.look()
    events = []
    while growth.has_new or growth.has_old:
        events += growth.give(StopSignal())
    return events


@pytest.mark.parametrize("num_slices", [None, 3])
def test_volumes_are_assembled_while_the_files_are_written(num_slices, tmp_path, clock):
    acquired = growing.images(positions=2, shape=SHAPE)
    growth, events = None, []

    for whole in write_plane_files(tmp_path, acquired, Pieces(300), name=by_position):
        growth = growth or Growing(
            recognise(tmp_path, BY_POSITION), "run", Defaults(num_slices, 0.13, 0.4), 600
        )
        clock.now += 0.01
        events += given_by(growth)
        if whole:
            events += given_by(growth)
            num_given = sum(isinstance(event, Plane) for event in events)
            assert num_given == acquired.index(whole) + 1 or num_given == 0
    growth.close()
    expected = {image.place: image.data for image in acquired}
    assembler, volumes = Assembler(), []
    for event in [*events, AcquisitionEnd("run")]:
        match event:
            case AcquisitionInfo():
                volumes += assembler.start(event)
            case Plane():
                volumes += assembler.add(event)
            case AcquisitionEnd():
                volumes += assembler.end(event.acquisition)
    assert len(volumes) == 2 * 2 * 2
    for volume in volumes:
        assert isinstance(volume, Volume)
        assert volume.info.voxel_size_um == pytest.approx((0.4, 0.13, 0.13))
        for z, data in enumerate(volume.data):
            at = volume.key.position, volume.key.time, volume.key.channel, z
            np.testing.assert_array_equal(data, expected.pop(at))
    assert not expected


def test_pixels_that_cannot_be_restored_are_told_once(tmp_path, clock, caplog):
    for z in range(3):
        (tmp_path / f"a_0_{z}.tif").write_bytes(tiff(STACK[0].astype("i2"))[0])
    growth = Growing(recognise(tmp_path), "run", Defaults(3), 600)
    for _ in range(5):
        assert not given_by(growth)
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        f"{tmp_path}: planes can't be taken: type: Input should be 'uint8', 'uint16' or 'float32'"
    ]
