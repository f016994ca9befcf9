"""Acquisitions that are cut, damaged, hostile, or that vanish while they are followed."""

import os
import shutil
import struct
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.sources.layouts import recognise
from tests import growing_layouts as growing
from tests.test_layouts import place

RNG = np.random.default_rng(0)
WRITERS = [growing.write_ndtiff, growing.write_mm_stack, growing.write_separate]
SHAPE = (4, 5)


@pytest.fixture(params=WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def finished(request, tmp_path):
    """A small acquisition's folder and its planes by place; positions where its layout needs them."""
    folder = tmp_path / "run_1"
    folder.mkdir()
    acquired = growing.images(
        positions=2 if request.param is WRITERS[2] else 1, times=1, shape=SHAPE
    )
    for _ in request.param(folder, acquired, growing.Pieces(None)):
        pass
    return folder, {image.place: image.data for image in acquired}


def images_in(folder):
    return sorted(folder.rglob("*.tif"))


def follow(folder, polls=3):
    """Every plane and every error of some polls."""
    layout = recognise(folder)
    planes, errors = [], []
    for _ in range(polls if layout else 0):
        try:
            planes.extend(layout.poll())
        except SourceError as error:
            errors.append(str(error))
    return planes, errors


def check_planes(planes, expected):
    """They are the planes that were acquired, each once."""
    assert len({place(plane) for plane in planes}) == len(planes)
    for plane in planes:
        np.testing.assert_array_equal(plane.read(), expected[place(plane)], strict=True)


def places_to_hurt(content, num=150):
    """Bytes all over a file, every one of its head among them."""
    written = len(content.rstrip(b"\0"))
    return sorted({*range(64), *RNG.integers(0, written, num).tolist()})


@pytest.mark.parametrize("filler", ["cut", "zeros"])
def test_a_file_cut_anywhere_gives_the_planes_before_and_no_error(filler, finished):
    """As a writer that was killed leaves it; zeros where it had laid the file out beforehand.

    Separate files never are.
    """
    folder, expected = finished
    victim = images_in(folder)[-1]
    content = victim.read_bytes()
    counts = []
    for at in places_to_hurt(content):
        is_laid_out = filler == "zeros" and len(images_in(folder)) == 1
        victim.write_bytes(content[:at] + bytes(len(content) - at if is_laid_out else 0))
        planes, errors = follow(folder)
        assert not errors
        check_planes(planes, expected)
        counts.append(len(planes))
    assert counts == sorted(counts)
    assert counts[-1] >= len(expected) - 1


def test_bytes_that_are_wrong_anywhere_never_hang_or_crash(finished):
    folder, _ = finished
    victim = images_in(folder)[0]
    content = victim.read_bytes()
    for at in places_to_hurt(content, 400):
        hurt = bytearray(content)
        size = int(RNG.integers(1, 5))
        wrong = [b"\xff" * size, RNG.bytes(size), bytes(size)][at % 3]
        hurt[at : at + size] = wrong
        victim.write_bytes(hurt)
        planes, errors = follow(folder)
        assert len(errors) <= len(images_in(folder)) + 1
        for plane in planes:
            try:
                plane.read()
            except SourceError as error:
                assert str(victim) in str(error)  # noqa: PT017 - either outcome is right
    assert content != hurt


def test_noise_is_nothing(finished):
    folder, _ = finished
    for path in images_in(folder):
        size = path.stat().st_size
        path.write_bytes(RNG.bytes(size))
    planes, errors = follow(folder)
    assert (planes, errors) == ([], [])


@pytest.fixture
def ndtiff(tmp_path):
    acquired = growing.images(times=1, shape=SHAPE)
    for _ in growing.write_ndtiff(tmp_path, acquired, growing.Pieces(None)):
        pass
    path = tmp_path / "run_NDTiffStack.tif"
    content = path.read_bytes()
    offsets = [struct.unpack_from("<I", content, 4)[0]]
    while following := struct.unpack_from("<I", content, offsets[-1] + 2 + 13 * 12)[0]:
        offsets.append(following)
    return path, offsets


def put(path, offset, raw):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(raw)


def field(num):
    """Where a directory's field begins, by its number there."""
    return 2 + 12 * num


U32 = struct.Struct("<I")


@pytest.mark.parametrize(
    ("at", "raw", "num_planes", "expected"),
    [
        pytest.param(2 + 13 * 12, None, 2, "expected a later one", id="a loop"),
        pytest.param(2 + 13 * 12, U32.pack(2**32 - 1), 2, None, id="next image outside the file"),
        pytest.param(0, b"\xff\xff", 1, "directory of 65535 entries", id="65535 entries"),
        pytest.param(field(12) + 4, U32.pack(2**31), 1, None, id="metadata of 2 GiB"),
        pytest.param(field(12) + 8, U32.pack(2**32 - 1), 1, None, id="metadata outside the file"),
        pytest.param(field(0) + 8, U32.pack(2**32 - 1), 1, "expected 1, 2 or 4", id="width"),
        pytest.param(field(8) + 8, U32.pack(2**32 - 1), 1, "expected 1, 2 or 4", id="byte count"),
        pytest.param(field(5) + 8, U32.pack(2**32 - 1), 1, "expected before", id="pixels outside"),
        pytest.param(field(5) + 4, U32.pack(7), 1, "7 strips", id="strips"),
        pytest.param(field(5), b"\0\0", 1, "pixels nowhere", id="no pixels"),
        pytest.param(field(3) + 8, U32.pack(5), 1, "is compressed (TIFF scheme 5)", id="compressed"),
    ],
)  # fmt: skip
def test_a_chain_that_leads_astray_is_left_there_and_told_once(
    at, raw, num_planes, expected, ndtiff
):
    path, offsets = ndtiff
    put(path, offsets[1] + at, U32.pack(offsets[0]) if raw is None else raw)
    planes, errors = follow(path.parent)
    assert len(planes) == num_planes
    assert len(errors) == (expected is not None)
    if expected:
        assert expected in errors[0]
        assert str(path) in errors[0]


def test_an_axis_that_counts_nothing_is_refused_with_what_to_do(ndtiff):
    path, _ = ndtiff
    path.write_bytes(path.read_bytes().replace(b'"z": 1', b'"z":[]'))
    planes, errors = follow(path.parent)
    assert len(planes) == 1
    assert len(errors) == 1
    assert "axis z is []" in errors[0]
    assert "number the axis z from 0" in errors[0]


def test_an_index_that_is_cut_or_wrong_anywhere_never_hangs_or_crashes(tmp_path):
    acquired = growing.images(times=1, shape=SHAPE)
    for _ in growing.write_ndtiff(tmp_path, acquired, growing.Pieces(None), index=True):
        pass
    path = tmp_path / "NDTiff.index"
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes(at % 2 * 1000))
        planes, errors = follow(tmp_path)
        check_planes(planes, {image.place: image.data for image in acquired})
        assert not errors
        path.write_bytes(content[:at] + RNG.bytes(4) + content[at + 4 :])
        follow(tmp_path)
    path.unlink()
    assert follow(tmp_path) == ([], [])
    path.write_bytes(content)
    assert len(follow(tmp_path)[0]) == len(acquired)


def test_entries_of_an_index_map_that_lead_nowhere_never_hang(tmp_path):
    acquired = growing.images(times=1, shape=SHAPE)
    for _ in growing.write_mm_stack(tmp_path, acquired, growing.Pieces(None)):
        pass
    path = images_in(tmp_path)[0]
    content = path.read_bytes()
    entries = U32.unpack_from(content, 12)[0] + 8
    first = U32.unpack_from(content, entries + 16)[0]
    for offset in (1, first + 1, first - 1, 2**32 - 1):
        put(path, entries + 20, struct.pack("<5I", 0, 1, 0, 0, offset) * 55)
        planes, errors = follow(tmp_path)
        assert len(planes) == 1
        assert not errors
        assert not recognise(tmp_path).is_ended()


def test_a_folder_that_vanishes_is_an_error_each_time_and_goes_on_when_it_is_back(finished):
    folder, expected = finished
    layout = recognise(folder)
    planes = [next(layout.poll())]
    away = folder.with_name("away")
    folder.rename(away)
    for _ in range(2):
        with pytest.raises(SourceError, match="run_1"):
            list(layout.poll())
    with pytest.raises(SourceError, match="was there and is gone"):
        planes[0].read()
    assert recognise(folder) is None
    away.rename(folder)
    planes += layout.poll()
    check_planes(planes, expected)
    assert len(planes) == len(expected)
    assert layout.is_ended()


def test_a_file_that_vanishes_is_an_error_and_the_others_go_on(finished):
    folder, expected = finished
    layout = recognise(folder)
    polled = layout.poll()
    planes = [next(polled)]
    victim = images_in(folder)[:2][-1]
    away = folder.parent / "away"
    shutil.move(victim, away)
    with pytest.raises(SourceError, match=r"was there and is gone.*network share"):
        planes.extend(chain(polled, layout.poll()))
    shutil.move(away, victim)
    planes += layout.poll()
    check_planes(planes, expected)
    assert len(planes) == len(expected)


def test_a_plane_whose_file_was_cut_later_says_so(finished):
    folder, _ = finished
    plane = list(recognise(folder).poll())[-1]
    os.truncate(plane.pixels.path, plane.pixels.end - 1)
    with pytest.raises(SourceError, match=r"40 bytes of pixels were whole.*only 39 are there"):
        plane.read()


def test_what_may_not_be_read_is_an_error_with_what_to_do(finished, monkeypatch):
    folder, expected = finished
    layout = recognise(folder)

    def refuse(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)  # root may read everything
        with pytest.raises(SourceError, match=r"\(Permission denied\). See to its permissions"):
            list(layout.poll())
        assert recognise(folder) is None
    planes = list(layout.poll())
    check_planes(planes, expected)
    assert len(planes) == len(expected)


def test_pipes_and_folders_under_an_images_name_are_left_alone(finished):
    folder, _ = finished
    for path in images_in(folder):
        path.unlink()
        os.mkfifo(path)
    assert recognise(folder) is None
    for path in images_in(folder):
        path.unlink()
        path.mkdir()
    assert recognise(folder) is None


def test_foreign_files_are_nothing(tmp_path):
    for name in (
        "a_NDTiffStack.tif", "a_MMStack_Pos0.ome.tif", "img_channel000_time000000000_z000.tif",
        "metadata.txt", "NDTiff.index", "notes.txt",
    ):  # fmt: skip
        (tmp_path / name).write_bytes(b"II*\0\x08\0\0\0" + bytes(100))
        assert recognise(tmp_path) is None
        assert recognise(tmp_path / name) is None
