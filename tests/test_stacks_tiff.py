import numpy as np
import pytest
import tifffile

from live_restore.errors import SourceError
from live_restore.sources.stacks.tiff import TiffStack
from tests.conftest import DATA

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 4000, (7, 16, 18)).astype("u2")
TCZYX = RNG.integers(0, 4000, (3, 2, 5, 8, 9)).astype("u2")
TZCYX = np.ascontiguousarray(np.moveaxis(TCZYX, 1, 2))


def read(path, voxel=None):
    """Planes put together as (position, t, c, z, y, x), and the file's info."""
    with TiffStack(path, "name", voxel) as stack:
        info = stack.info
        shape = (len(info.positions), stack.num_times, len(info.channels), *info.shape_zyx)
        out = np.zeros(shape, info.dtype)
        seen = set()
        for plane in stack.planes():
            key = plane.key
            place = (
                info.positions.index(key.position),
                key.time,
                info.channels.index(key.channel),
                plane.z,
            )
            assert place not in seen
            assert not plane.data.flags.writeable
            seen.add(place)
            out[place] = plane.data
        assert len(seen) == np.prod(shape[:4])
    return out, info


@pytest.mark.parametrize(
    ("name", "shape", "voxel"),
    [
        ("stardist_img3d.tif", (31, 61, 57), None),
        ("colocsample1b-red.tif", (33, 152, 172), (0.646, 0.328, 0.328)),
        ("xyz_calibrated_16bit__golgi_bfa.tif", (25, 137, 147), (0.388, 0.351, 0.351)),
    ],
)
def test_real_stacks_are_read_as_tifffile_reads_them(name, shape, voxel):
    data, info = read(DATA / name)
    expected = tifffile.imread(DATA / name)
    assert info.shape_zyx == shape
    assert info.dtype == expected.dtype.newbyteorder("=")
    np.testing.assert_array_equal(data[0, 0, 0], expected)
    if voxel is None:
        assert info.voxel_size_um is None
    else:
        assert info.voxel_size_um == pytest.approx(voxel, abs=1e-3)


def write_ome(path, data=TCZYX, axes="TCZYX", **metadata):
    metadata = {
        "axes": axes,
        "PhysicalSizeX": 130,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 0.13,
        "PhysicalSizeYUnit": "µm",
        "PhysicalSizeZ": 0.0005,
        "PhysicalSizeZUnit": "mm",
        "Channel": {"Name": ["GFP", "mCherry"]},
    } | metadata
    tifffile.imwrite(path, data, ome=True, metadata=metadata)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_an_ome_tiff_tells_axes_units_and_names(compression, tmp_path):
    path = tmp_path / "a.ome.tif"
    if compression:
        with tifffile.TiffWriter(path, ome=True) as tiff:
            tiff.write(TZCYX, compression=compression, metadata={"axes": "TZCYX"})
    else:
        write_ome(path)
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX)
    if not compression:
        assert info.channels == ("GFP", "mCherry")
        assert info.voxel_size_um == pytest.approx((0.5, 0.13, 0.13))


def test_the_axes_of_an_ome_tiff_may_be_in_any_order(tmp_path):
    write_ome(tmp_path / "a.ome.tif", TZCYX, "TZCYX")
    np.testing.assert_array_equal(read(tmp_path / "a.ome.tif")[0][0], TCZYX)


def test_the_series_of_an_ome_tiff_are_positions(tmp_path):
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as tiff:
        for offset in range(3):
            tiff.write(STACK + offset, metadata={"axes": "ZYX"})
    data, info = read(path)
    assert info.positions == ("0", "1", "2")
    for offset in range(3):
        np.testing.assert_array_equal(data[offset, 0, 0], STACK + offset)


def test_an_imagej_hyperstack_tells_axes_and_voxel_size(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        TZCYX,
        imagej=True,
        resolution=(4.0, 2.0),
        metadata={"axes": "TZCYX", "spacing": 0.7, "unit": "micron"},
    )
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX)
    assert info.voxel_size_um == pytest.approx((0.7, 0.5, 0.25))
    assert info.channels == ("C0", "C1")


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "i2", "u4", "f8"])
def test_plain_pages_of_any_type_are_a_z_stack(dtype, tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, byteorder=">" if dtype.startswith(">") else "<") as tiff:
        for plane in STACK:
            tiff.write(plane.astype(dtype), contiguous=False, metadata=None)
    data, info = read(path, (0.3, 0.1, 0.1))
    np.testing.assert_array_equal(data[0, 0, 0], STACK.astype(dtype))
    assert info.dtype.name in ("uint8", "uint16", "float32")
    assert info.voxel_size_um == (0.3, 0.1, 0.1)


def test_the_files_own_voxel_size_wins_over_the_profiles(tmp_path):
    write_ome(tmp_path / "a.ome.tif")
    assert read(tmp_path / "a.ome.tif", (9, 9, 9))[1].voxel_size_um[0] == pytest.approx(0.5)


def _rgb(path):
    tifffile.imwrite(path, np.zeros((8, 9, 3), "u1"), photometric="rgb")


def _rgb_stack(path):
    tifffile.imwrite(path, np.zeros((4, 8, 9, 3), "u1"), photometric="rgb")


def _mixed(path):
    with tifffile.TiffWriter(path) as tiff:
        tiff.write(np.zeros((8, 9), "u2"))
        tiff.write(np.zeros((5, 8, 9), "u2"), photometric="minisblack")


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda p: p.write_bytes(b""), "empty", id="empty"),
        pytest.param(lambda p: p.write_bytes(b"II"), "not a readable TIFF", id="two bytes"),
        pytest.param(lambda p: p.write_text("hello"), "not a readable TIFF", id="text"),
        pytest.param(lambda p: p.write_bytes(b"II*\0" + b"\0" * 50), "no image", id="header only"),
        pytest.param(_rgb, "RGB", id="photo"),
        pytest.param(_rgb_stack, "RGB", id="RGB stack"),
        pytest.param(lambda p: tifffile.imwrite(p, STACK[0]), "2D image", id="2D"),
        pytest.param(
            lambda p: tifffile.imwrite(p, STACK, imagej=True, metadata={"axes": "TYX"}),
            "2D image (axes TYX",
            id="time only",
        ),
        pytest.param(_mixed, "different shapes", id="mixed shapes"),
        pytest.param(
            lambda p: tifffile.imwrite(p, STACK.astype("c8")), "complex64 can't", id="complex"
        ),
    ],
)
def test_what_is_not_a_z_stack_is_refused_with_the_reason(make, expected, tmp_path):
    path = tmp_path / "a.tif"
    make(path)
    with pytest.raises(SourceError) as caught:
        TiffStack(path, "name")
    assert expected in str(caught.value)
    assert "a.tif" in str(caught.value)


def _write(path, kind):
    if kind == "ome":
        write_ome(path)
    elif kind == "imagej":
        tifffile.imwrite(path, STACK, imagej=True, metadata={"axes": "ZYX"})
    elif kind == "pages":
        with tifffile.TiffWriter(path) as tiff:
            for plane in STACK:
                tiff.write(plane, contiguous=False, metadata=None)
    else:
        tifffile.imwrite(path, STACK, compression="zlib")


@pytest.mark.parametrize("kind", ["ome", "imagej", "pages", "zlib"])
def test_a_file_cut_short_anywhere_is_never_taken_for_whole(kind, tmp_path):
    whole = tmp_path / "whole.tif"
    _write(whole, kind)
    expected = read(whole)[0]
    content = whole.read_bytes()
    cut = tmp_path / "cut.tif"
    for length in np.linspace(1, len(content) - 1, 60).astype(int):
        cut.write_bytes(content[:length])
        try:
            data = read(cut)[0]
        except SourceError:
            continue
        # What follows the last plane may be missing: then everything that counts is there.
        np.testing.assert_array_equal(data, expected)
