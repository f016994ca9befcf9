import struct
import subprocess
import sys
import warnings
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.sources.stacks import bioio_file, contents, open_stack
from live_restore.sources.stacks.bioio_file import BioioStack
from tests.nd2_files import write_nd2

RNG = np.random.default_rng(0)
TCZYX = RNG.integers(1, 4000, (3, 2, 5, 8, 9)).astype("u2")
CZYX = TCZYX[0]
STACK = TCZYX[0, 0]


def read(path, voxel=None):
    """Planes put together as (position, t, c, z, y, x), and the file's info."""
    with open_stack(path, "name", voxel) as stack:
        assert isinstance(stack, BioioStack)
        assert not stack.has_gaps
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
            assert plane.data.dtype == info.dtype
            seen.add(place)
            out[place] = plane.data
        assert len(seen) == np.prod(shape[:4])
    return out, info


def write_dv(path, data, order="z", voxel=(0.3, 0.11, 0.1)):
    import mrc

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its writer leaves a file to the garbage collector
        mrc.imsave(str(path), data, resolution=voxel[::-1], zAxisOrder=order)


def write_czi(path, positions, names=("GFP", "RFP")):
    """A CZI of scenes, each (T, C, Z, Y, X), or (T, C, Z, Y, X, 3) in colour."""
    czi = pytest.importorskip("pylibCZIrw.czi")
    with czi.create_czi(str(path)) as file:
        for scene, data in enumerate(positions):
            for t, c, z in np.ndindex(data.shape[:3]):
                plane = data[t, c, z] if data.ndim == 6 else data[t, c, z][..., None]
                place = {"T": t, "C": c, "Z": z}
                file.write(plane, plane=place, scene=scene, location=(scene * 100, 0))
        file.write_metadata(
            "a", channel_names=dict(enumerate(names)), scale_x=1e-7, scale_y=1.1e-7, scale_z=3e-7
        )
    if len(positions) > 1:
        _list_scenes(path, len(positions))


def _list_scenes(path, count):
    """Name the scenes in the metadata, as ZEN does and this writer doesn't."""
    content = path.read_bytes()
    (place,) = struct.unpack_from("<q", content, 92)
    (size,) = struct.unpack_from("<i", content, place + 32)
    xml = content[place + 288 : place + 288 + size].decode()
    scenes = "".join(f'<Scene Index="{number}" Name="P{number}"/>' for number in range(count))
    assert "<Dimensions>" in xml
    xml = xml.replace("<Dimensions>", f"<Dimensions><S><Scenes>{scenes}</Scenes></S>", 1)
    text = xml.encode()
    segment = struct.pack("<16sqqii", b"ZISRAWMETADATA", *(256 + len(text),) * 2, len(text), 0)
    moved = bytearray(content)
    struct.pack_into("<q", moved, 92, len(content))
    path.write_bytes(bytes(moved) + segment + bytes(248) + text)


_LEICA = {"X": 1, "Y": 2, "Z": 3, "T": 4}


def write_lif(path, images, names=("Green", "Red"), length_z=-1.2e-6):
    """A LIF as Leica describes it: a header in XML, and a block of memory for each image.

    Each image is (T, C, Z, Y, X). Leica's z-stacks run down where their length is negative.
    """
    elements, blocks = [], []
    for number, data in enumerate(map(np.ascontiguousarray, images)):
        size = data.dtype.itemsize
        steps = dict(zip("TCZYX", (s // size * size for s in data.strides), strict=True))
        channels = "".join(
            f'<ChannelDescription DataType="0" ChannelTag="0" Resolution="{8 * size}" '
            f'NameOfMeasuredQuantity="" Min="0" Max="1" Unit="" LUTName={quoteattr(name)} '
            f'IsLUTInverted="0" BytesInc="{c * steps["C"]}" BitInc="0"/>'
            for c, name in zip(range(data.shape[1]), names, strict=False)
        )
        lengths = {"X": 8e-7, "Y": 7.7e-7, "Z": length_z, "T": 2.0}
        dimensions = "".join(
            f'<DimensionDescription DimID="{_LEICA[axis]}" NumberOfElements="{n}" Origin="0" '
            f'Length="{lengths[axis]}" Unit="{"s" if axis == "T" else "m"}" '
            f'BytesInc="{steps[axis]}" BitInc="0"/>'
            for axis, n in zip("XYZT", data.shape[:1:-1] + data.shape[:1], strict=True)
            if n > 1
        )
        elements.append(
            f'<Element Name="Series{number}"><Data><Image><ImageDescription>'
            f"<Channels>{channels}</Channels><Dimensions>{dimensions}</Dimensions>"
            f'</ImageDescription></Image></Data><Memory Size="{data.nbytes}" '
            f'MemoryBlockID="MemBlock_{number}"/></Element>'
        )
        name = f"MemBlock_{number}".encode("utf-16-le")
        block = struct.pack("<BQBI", 0x2A, data.nbytes, 0x2A, len(name) // 2) + name
        blocks.append(struct.pack("<II", 0x70, len(block)) + block + data.tobytes())
    header = (
        '<LMSDataContainerHeader Version="2"><Element Name="project"><Data/>'
        f'<Memory Size="0" MemoryBlockID="MemBlock_x"/><Children>{"".join(elements)}</Children>'
        "</Element></LMSDataContainerHeader>"
    ).encode("utf-16-le")
    start = struct.pack("<IIBI", 0x70, len(header) + 5, 0x2A, len(header) // 2)
    path.write_bytes(start + header + b"".join(blocks))


def write(path, positions):
    """A file of the kind that the suffix tells; positions of (T, C, Z, Y, X)."""
    if path.suffix == ".lif":
        write_lif(path, positions)
    elif path.suffix == ".czi":
        pytest.importorskip("bioio_czi")  # under the GPL, so it is in none of our extras
        write_czi(path, positions)
    elif path.suffix == ".nd2":
        write_nd2(path, np.array(positions))
    else:
        write_dv(path, positions[0][0], "w,z")


@pytest.mark.parametrize("suffix", [".dv", ".r3d", ".DV"])
@pytest.mark.parametrize(("order", "times"), [("w,z", False), ("t,z", True)])
def test_a_deltavision_file_is_read_bit_by_bit(suffix, order, times, tmp_path):
    path = tmp_path / ("a" + suffix)
    written = TCZYX[:, 0] if times else CZYX
    write_dv(path, written, order)
    data, info = read(path)
    np.testing.assert_array_equal(data[0, :, 0] if times else data[0, 0], written)
    assert info.voxel_size_um == pytest.approx((0.3, 0.11, 0.1))
    assert info.channels == (("C0",) if times else ("C0", "C1"))
    assert (info.num_times, info.dtype) == (len(data[0]), np.dtype("u2"))


def test_a_leica_file_is_read_bit_by_bit(tmp_path):
    path = tmp_path / "a.lif"
    write_lif(path, [TCZYX])
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX)
    assert info.channels == ("Green", "Red")
    assert info.voxel_size_um == pytest.approx((0.3, 0.11, 0.1))


def test_a_zeiss_file_is_read_bit_by_bit(tmp_path):
    pytest.importorskip("bioio_czi")
    path = tmp_path / "a.czi"
    write_czi(path, [TCZYX, TCZYX + 1])
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX)
    np.testing.assert_array_equal(data[1], TCZYX + 1)
    assert info.channels == ("GFP", "RFP")
    assert info.voxel_size_um == pytest.approx((0.3, 0.11, 0.1))


def test_images_of_another_shape_are_left_alone(tmp_path, caplog):
    path = tmp_path / "a.lif"
    write_lif(path, [TCZYX[:1, :1, :1], TCZYX, TCZYX[:, :1], TCZYX + 1])
    data, info = read(path)
    assert info.positions == ("1", "3")
    np.testing.assert_array_equal(data[0], TCZYX)
    np.testing.assert_array_equal(data[1], TCZYX + 1)
    assert "2 of its images are left alone" in caplog.text


@pytest.mark.parametrize("most_at_once", [1, 8 * 9 * 2 * 3])
@pytest.mark.parametrize("kind", ["lif", "dv", "nd2", "czi"])
def test_a_large_stack_is_read_plane_by_plane(kind, most_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_MOST_AT_ONCE", most_at_once)
    path = tmp_path / f"a.{kind}"
    written = TCZYX[:1]
    write(path, [written])
    np.testing.assert_array_equal(read(path)[0][0], written)


@pytest.mark.parametrize("kind", ["lif", "dv", "nd2", "czi"])
def test_stacks_that_are_settled_are_not_read(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    write(path, [TCZYX[:1]])
    with open_stack(path, "name") as stack:
        planes = list(stack.planes({("0", 0, stack.info.channels[0])}))
    np.testing.assert_array_equal([plane.data for plane in planes], CZYX[1])


@pytest.mark.skipif(sys.platform != "linux", reason="lists open files as Linux does")
@pytest.mark.parametrize("kind", ["lif", "dv", "nd2", "czi"])
def test_the_file_is_not_held_open(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    write(path, [TCZYX[:1]])

    def is_open():
        mapped = str(path) in Path("/proc/self/maps").read_text()
        held = {link.resolve() for link in Path("/proc/self/fd").iterdir()}
        return mapped or path in held

    with open_stack(path, "name") as stack:
        planes = stack.planes()
        next(planes)
        assert not is_open()
    assert not is_open()
    del planes


@pytest.mark.parametrize("dtype", ["u1", "u4"])
def test_other_voxel_types_are_read(dtype, tmp_path):
    path = tmp_path / "a.lif"
    write_lif(path, [TCZYX.astype(dtype)])
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX.astype(dtype))
    assert info.dtype == np.dtype("u1" if dtype == "u1" else "f4")


def test_the_profiles_voxel_size_serves_where_the_file_tells_none(tmp_path):
    write_dv(tmp_path / "a.dv", STACK, "z", (0.0, 0.1, 0.1))
    assert read(tmp_path / "a.dv", (9, 9, 9))[1].voxel_size_um == (9, 9, 9)


@pytest.mark.parametrize("suffix", [".nd2", ".lif", ".dv", ".r3d", ".czi"])
@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\xda\xce\xbe\n" + b"\0" * 60, b"p\0\0\0" + b"\0" * 60]
)
def test_what_is_not_such_a_file_is_refused(suffix, content, tmp_path, capfd, caplog):
    if suffix == ".czi":
        pytest.importorskip("bioio_czi")
    path = tmp_path / ("a" + suffix)
    path.write_bytes(content)
    with pytest.raises(SourceError) as caught:
        open_stack(path, "name")
    assert ("damaged, cut short" if content else "empty") in str(caught.value)
    assert f"a{suffix}" in str(caught.value)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


@pytest.mark.parametrize("kind", ["lif", "dv", "nd2", "czi"])
def test_a_file_cut_short_anywhere_is_never_taken_for_whole(kind, tmp_path):
    whole = tmp_path / f"whole.{kind}"
    write(whole, [TCZYX[:1], TCZYX[:1] + 1])
    expected = read(whole)[0]
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{kind}"
    for length in np.linspace(1, len(content) - 1, 40).astype(int):
        cut.write_bytes(content[:length])
        try:
            data = read(cut)[0]
        except SourceError:
            continue
        np.testing.assert_array_equal(data, expected)


def test_a_2d_image_is_refused(tmp_path):
    write_lif(tmp_path / "a.lif", [TCZYX[:, :, :1]])
    with pytest.raises(SourceError, match=r"2D image \(T 3, C 2, Y 8, X 9\)"):
        open_stack(tmp_path / "a.lif", "name")


def test_a_colour_image_is_refused(tmp_path):
    pytest.importorskip("bioio_czi")
    write_czi(tmp_path / "a.czi", [np.zeros((1, 1, 5, 8, 9, 3), "u1")], ("RGB",))
    with pytest.raises(SourceError, match="colour image"):
        open_stack(tmp_path / "a.czi", "name")


@pytest.mark.parametrize(
    ("others", "dtype", "expected"),
    [
        ({"M": 4}, "u2", "mosaic of tiles"),
        ({"H": 3}, "u2", "H 3"),
        ({"S": 3}, "u1", "colour image"),
        ({}, "c8", "complex64 can't"),
        ({}, "u2", None),
    ],
)
def test_images_that_are_not_z_stacks_are_refused_with_the_reason(others, dtype, expected):
    sizes = {"T": 1, "C": 1, "Z": 5, "Y": 8, "X": 9}
    refusal = bioio_file._refusal(bioio_file._Scene(0, sizes, others, np.dtype(dtype)))
    assert refusal is None if expected is None else expected in refusal


NIKON = RNG.integers(1, 4000, (2, 3, 2, 5, 8, 9)).astype("u2")


def test_a_nikon_file_is_read_bit_by_bit(tmp_path):
    path = tmp_path / "a.nd2"
    write_nd2(path, NIKON)
    data, info = read(path)
    np.testing.assert_array_equal(data, NIKON)
    assert info.channels == ("DAPI", "FITC")
    assert info.voxel_size_um == pytest.approx((0.3, 0.1, 0.1))


def test_a_nikon_file_that_is_not_calibrated_tells_no_voxel_size(tmp_path):
    write_nd2(tmp_path / "a.nd2", NIKON, voxel_um=None)
    assert read(tmp_path / "a.nd2", (9, 9, 9))[1].voxel_size_um == (9, 9, 9)


@pytest.mark.parametrize(("num_frames", "has_gaps"), [(30, False), (29, True), (7, True)])
def test_frames_that_a_nikon_file_lacks_are_gaps(num_frames, has_gaps, tmp_path):
    write_nd2(tmp_path / "a.nd2", NIKON, num_frames=num_frames)
    with open_stack(tmp_path / "a.nd2", "name") as stack:
        assert stack.has_gaps == has_gaps
        planes = np.array([plane.data for plane in stack.planes()])
    assert np.count_nonzero(planes.any(axis=(1, 2))) == 2 * num_frames


_WITHOUT = """
import sys
from pathlib import Path
for name in sys.argv[2:]:
    sys.modules[name] = None
from live_restore.errors import SourceError
from live_restore.sources.stacks import open_stack
path = Path(sys.argv[1])
path.write_bytes(b"content")
try:
    open_stack(path, "name")
except SourceError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("name", "missing", "expected"),
    [
        ("a.nd2", "bioio", "bioio and bioio-nd2; install them: "),
        ("a.nd2", "bioio_nd2", "bioio and bioio-nd2; install them: "),
        ("a.lif", "bioio_lif", "bioio and bioio-lif; install them: "),
        ("a.r3d", "bioio_dv", "bioio and bioio-dv; install them: "),
        ("a.czi", "bioio_czi", "under the GPL"),
    ],
)
def test_without_the_extra_the_command_that_installs_it_is_told(name, missing, expected, tmp_path):
    command = [sys.executable, "-c", _WITHOUT, str(tmp_path / name), missing]
    said = subprocess.run(command, check=True, capture_output=True, text=True)
    assert expected in said.stdout
    assert 'pip install "live-restore[bioio]"' in said.stdout
    assert name in said.stdout
    assert ("bioio-czi (" in said.stdout) == (name == "a.czi")
    assert said.stderr == ""


def test_a_plugin_that_fails_to_load_is_told(tmp_path, monkeypatch):
    def broken(name):
        raise AttributeError("of another version")

    monkeypatch.setattr(bioio_file.importlib, "import_module", broken)
    (tmp_path / "a.nd2").write_bytes(b"content")
    with pytest.raises(SourceError, match=r"bioio-nd2 can't be loaded .*another version"):
        open_stack(tmp_path / "a.nd2", "name")
