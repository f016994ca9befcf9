import json
import threading

import numpy as np
import pytest

from live_restore.errors import SourceError
from live_restore.sources.stacks import contents, open_stack
from live_restore.sources.stacks.ome_zarr import OmeZarrStack
from tests.ome_zarr_files import multiscales, write_array, write_group, write_image

RNG = np.random.default_rng(0)
TCZYX = RNG.integers(1, 4000, (3, 2, 5, 8, 9)).astype("u2")
STACK = TCZYX[0, 0]


def read(path, voxel=None):
    """Planes put together as (position, t, c, z, y, x), and the folder's info."""
    with OmeZarrStack(path, "name", voxel) as stack:
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
            assert plane.data.flags.c_contiguous
            assert plane.data.dtype == info.dtype
            seen.add(place)
            out[place] = plane.data
        assert len(seen) == np.prod(shape[:4])
    return out, info


def gaps(path):
    with OmeZarrStack(path, "name") as stack:
        return stack.has_gaps


LAYOUTS = [
    pytest.param(2, {"separator": "/"}, id="0.4, nested"),
    pytest.param(2, {"separator": "."}, id="0.4, flat"),
    pytest.param(2, {"separator": ".", "compressors": None}, id="0.4, not compressed"),
    pytest.param(3, {"separator": "/"}, id="0.5, nested"),
    pytest.param(3, {"separator": "."}, id="0.5, flat"),
    pytest.param(3, {"compressors": None}, id="0.5, not compressed"),
    pytest.param(2, {"chunks": (1, 1, 2, 5, 4)}, id="0.4, chunks that don't divide"),
    pytest.param(3, {"chunks": (2, 2, 3, 8, 9)}, id="0.5, chunks over times and channels"),
    pytest.param(3, {"chunks": (1, 1, 2, 4, 9), "shards": (1, 1, 4, 8, 9)}, id="0.5, sharded"),
    pytest.param(
        3,
        {"chunks": (1, 1, 1, 8, 9), "shards": (1, 2, 5, 8, 9), "compressors": None},
        id="0.5, sharded, not compressed",
    ),
]


@pytest.mark.parametrize(("zarr_format", "options"), LAYOUTS)
def test_each_layout_of_chunks_is_read_bit_by_bit_and_whole(zarr_format, options, tmp_path):
    path = tmp_path / "a.ome.zarr"
    write_image(path, TCZYX, zarr_format=zarr_format, **options)
    data, info = read(path)
    np.testing.assert_array_equal(data[0], TCZYX)
    assert (info.shape_zyx, info.dtype, info.num_times) == ((5, 8, 9), np.dtype("u2"), 3)
    assert info.channels == ("C0", "C1")
    assert info.positions == ("0",)
    assert info.origin == str(path)
    assert not gaps(path)


@pytest.mark.parametrize("most_at_once", [1, 8 * 9 * 2 * 3, 8 * 9 * 2 * 4, 2**30])
def test_a_large_stack_is_read_in_parts(most_at_once, tmp_path, monkeypatch):
    monkeypatch.setattr(contents, "_MOST_AT_ONCE", most_at_once)
    write_image(tmp_path / "a.zarr", TCZYX, chunks=(1, 1, 2, 8, 9))
    np.testing.assert_array_equal(read(tmp_path / "a.zarr")[0][0], TCZYX)


@pytest.mark.parametrize(
    ("num_planes", "fits", "step", "expected"),
    [(50, 50, 1, 50), (50, 49, 1, 49), (50, 20, 8, 16), (50, 5, 8, 1), (50, 0, 1, 1)],
)
def test_parts_end_where_chunks_end(num_planes, fits, step, expected, monkeypatch):
    monkeypatch.setattr(contents, "_MOST_AT_ONCE", fits * 100)
    assert contents.num_planes_at_once((num_planes, 10, 10), 1, step) == expected


@pytest.mark.parametrize("axes", ["zyx", "czyx", "tzyx", "tczyx", "zcyx", "xyz", "cxzyt"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_axes_are_taken_by_their_names(axes, zarr_format, tmp_path):
    sizes = dict(zip("tczyx", TCZYX.shape, strict=True))
    expected = TCZYX[tuple(slice(None) if axis in axes else 0 for axis in "tczyx")]
    written = expected.transpose([[a for a in "tczyx" if a in axes].index(a) for a in axes])
    write_image(tmp_path / "a.zarr", written, axes, zarr_format)
    data, info = read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(data[0].reshape(expected.shape), expected)
    assert info.shape_zyx == tuple(sizes[axis] for axis in "zyx")


@pytest.mark.parametrize("dtype", ["u1", ">u2", "f4", "i2", "u4", "f8"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_voxels_of_any_number_type_are_read(dtype, zarr_format, tmp_path):
    import zarr.codecs

    if zarr_format == 3 and dtype.startswith(">"):  # there it is a codec's matter
        big = {"serializer": zarr.codecs.BytesCodec(endian="big"), "compressors": None}
        write_image(tmp_path / "a.zarr", STACK, "zyx", zarr_format, **big)
        assert (tmp_path / "a.zarr/0/c/0/0/0").read_bytes() == STACK[0].astype(">u2").tobytes()
    else:
        write_image(tmp_path / "a.zarr", STACK.astype(dtype), "zyx", zarr_format)
    data, info = read(tmp_path / "a.zarr", (0.3, 0.1, 0.1))
    np.testing.assert_array_equal(data[0, 0, 0], STACK.astype(dtype))
    assert info.dtype.name in ("uint8", "uint16", "float32")
    assert info.voxel_size_um == (0.3, 0.1, 0.1)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({"scale": [0.3, 0.1, 0.2]}, (0.3, 0.1, 0.2), id="micrometres"),
        pytest.param({"scale": [300, 100, 200], "unit": "nanometer"}, (0.3, 0.1, 0.2), id="nm"),
        pytest.param({"scale": [3, 1, 2], "unit": "angstrom"}, (3e-4, 1e-4, 2e-4), id="angstrom"),
        pytest.param({"scale": [3e-4, 1e-4, 2e-4], "unit": "millimeter"}, (0.3, 0.1, 0.2), id="mm"),
        pytest.param(
            {"scale": [3, 1, 2], "whole_scale": [0.1, 0.1, 0.2]}, (0.3, 0.1, 0.4), id="both levels"
        ),
        pytest.param({"whole_scale": [0.3, 0.1, 0.2]}, (0.3, 0.1, 0.2), id="outer level only"),
        pytest.param({"scale": [3, 1, 2], "unit": None}, (9, 9, 9), id="no unit"),
        pytest.param({"scale": [3, 1, 2], "unit": "furlong"}, (9, 9, 9), id="unknown unit"),
        pytest.param({}, (9, 9, 9), id="no scale"),
        pytest.param({"scale": [0, 1, 2]}, (9, 9, 9), id="impossible"),
    ],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_voxel_size_is_told_in_any_unit_of_length(options, expected, zarr_format, tmp_path):
    path = tmp_path / "a.zarr"
    write_image(path, STACK, "zyx", zarr_format, multiscales("zyx", **options))
    assert read(path, (9, 9, 9))[1].voxel_size_um == pytest.approx(expected)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("GFP", "RFP"), ("GFP", "RFP")),
        (("GFP", "GFP"), ("C0", "C1")),
        (("GFP",), ("C0", "C1")),
        (("", "b"), ("C0", "C1")),
    ],
)
def test_channels_have_the_names_of_the_viewer_settings(names, expected, tmp_path):
    for zarr_format in (2, 3):
        path = tmp_path / f"{zarr_format}.zarr"
        write_image(path, TCZYX, "tczyx", zarr_format, multiscales(names=names))
        assert read(path)[1].channels == expected


def test_the_full_resolution_of_the_first_multiscale_counts(tmp_path):
    attributes = multiscales("zyx", [0.3, 0.1, 0.1], num_levels=2)
    other = multiscales("zyx", [3, 1, 1])["multiscales"][0]
    other["datasets"] = [{"path": "other"}]
    attributes["multiscales"].append(other)
    write_image(tmp_path / "a.zarr", STACK, "zyx", 3, attributes)
    write_array(tmp_path / "a.zarr" / "1", STACK[:, ::2, ::2], 3)
    write_array(tmp_path / "a.zarr" / "other", STACK[:3], 3)
    data, info = read(tmp_path / "a.zarr")
    np.testing.assert_array_equal(data[0, 0, 0], STACK)
    assert info.voxel_size_um == (0.3, 0.1, 0.1)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("lists_series", [True, False])
def test_the_images_of_bioformats2raw_are_positions(zarr_format, lists_series, tmp_path, caplog):
    path = tmp_path / "a.zarr"
    write_group(path, {"bioformats2raw.layout": 3}, zarr_format)
    write_group(path / "OME", {"series": ["0", "1", "2", "3"]} if lists_series else {}, zarr_format)
    for number in (1, 2):
        write_image(path / str(number), TCZYX + number, zarr_format=zarr_format)
    write_image(path / "0", STACK[0], "yx", zarr_format)  # an overview
    write_image(path / "3", STACK, "zyx", zarr_format)
    data, info = read(path)
    assert info.positions == ("1", "2")
    for place, number in enumerate((1, 2)):
        np.testing.assert_array_equal(data[place], TCZYX + number)
    assert "2 of its images are left alone" in caplog.text


def test_stacks_that_are_settled_are_not_read(tmp_path):
    path = tmp_path / "a.zarr"
    write_image(path, TCZYX, "tczyx", 3, multiscales(names=("GFP", "RFP")))
    with open_stack(path, "name") as stack:
        settled = {("0", t, c) for t in range(3) for c in ("GFP", "RFP")} - {("0", 1, "RFP")}
        planes = list(stack.planes(settled))
    assert {(p.key.time, p.key.channel) for p in planes} == {(1, "RFP")}
    np.testing.assert_array_equal([p.data for p in planes], TCZYX[1, 1])


def test_each_chunk_is_decoded_once_per_stack(tmp_path, monkeypatch):
    from zarr.storage import LocalStore

    path = tmp_path / "a.zarr"
    write_image(path, STACK, "zyx", 3, chunks=(2, 4, 9))
    fetched = []
    get = LocalStore.get

    async def counted(self, key, *args, **kwargs):
        fetched.append((self.root, key))
        return await get(self, key, *args, **kwargs)

    monkeypatch.setattr(LocalStore, "get", counted)
    read(path)
    chunks = [each for each in fetched if "zarr.json" not in each[1]]
    assert len(chunks) == len(set(chunks)) == 6


def test_no_thread_is_left_by_an_open_that_fails_or_a_reading_given_up(tmp_path):
    before = threading.active_count()
    write_image(tmp_path / "a.zarr", TCZYX)
    write_image(tmp_path / "b.zarr", STACK[0], "yx")
    with pytest.raises(SourceError):
        OmeZarrStack(tmp_path / "b.zarr", "name")
    with OmeZarrStack(tmp_path / "a.zarr", "name") as stack:
        next(stack.planes())
    assert threading.active_count() == before


GAPS = [
    pytest.param(2, {"separator": "."}, "0.0.3.0.0", id="0.4, flat"),
    pytest.param(2, {"separator": "/"}, "2/1/4/0/0", id="0.4, nested"),
    pytest.param(3, {"separator": "/"}, "c/0/1/3/0/0", id="0.5, nested"),
    pytest.param(3, {"separator": "."}, "c.0.0.3.0.0", id="0.5, flat"),
    pytest.param(
        3,
        {"chunks": (1, 1, 2, 4, 9), "shards": (1, 1, 4, 8, 9)},
        "c/0/1/1/0/0",
        id="0.5, sharded",
    ),
]


@pytest.mark.parametrize(("zarr_format", "options", "chunk"), GAPS)
def test_a_chunk_that_is_not_there_is_a_gap(zarr_format, options, chunk, tmp_path):
    path = tmp_path / "a.zarr"
    write_image(path, TCZYX, zarr_format=zarr_format, **options)
    assert not gaps(path)
    (path / "0" / chunk).rename(tmp_path / "later")
    (path / "0" / ".DS_Store").write_bytes(b"of a Mac")
    (path / "0" / (chunk + ".partial")).write_bytes(b"on its way")
    assert gaps(path)
    read(path)
    with OmeZarrStack(path, "name") as stack:
        assert stack.has_gaps
        (tmp_path / "later").rename(path / "0" / chunk)
        assert not stack.has_gaps  # looked up anew


@pytest.mark.parametrize("location", ["start", "end"])
def test_a_chunk_missing_in_a_shard_is_a_gap(location, tmp_path):
    import zarr.codecs

    def write(part):
        codecs = zarr.codecs.ShardingCodec(chunk_shape=(1, 1, 2, 4, 9), index_location=location)
        write_group(tmp_path / "a.zarr", multiscales(), 3)
        write_array(
            tmp_path / "a.zarr" / "0",
            TCZYX,
            3,
            chunks=(1, 1, 4, 8, 9),
            part=part,
            serializer=codecs,
            compressors=None,
        )

    write(...)
    assert not gaps(tmp_path / "a.zarr")
    np.testing.assert_array_equal(read(tmp_path / "a.zarr")[0][0], TCZYX)
    write((slice(None), slice(None), slice(0, 4)))  # the last shards aren't there
    assert gaps(tmp_path / "a.zarr")
    write((slice(None), slice(None), slice(None), slice(0, 4)))  # each is there in part
    assert gaps(tmp_path / "a.zarr")


def test_a_position_with_gaps_makes_gaps(tmp_path):
    path = tmp_path / "a.zarr"
    write_group(path, {"bioformats2raw.layout": 3})
    write_image(path / "0", STACK, "zyx")
    write_image(path / "1", STACK, "zyx", part=(slice(0, 3),))
    assert gaps(path)


def test_a_file_without_gaps_says_so(tmp_path):
    import tifffile

    tifffile.imwrite(tmp_path / "a.tif", STACK)
    with open_stack(tmp_path / "a.tif", "name") as stack:
        assert stack.has_gaps is False


def _labels(path):
    write_image(path, STACK, "zyx", 2, multiscales("zyx") | {"image-label": {"version": "0.4"}})


def _rgb(path):
    write_image(path, np.zeros((5, 8, 9, 3), "u1"), "zyxs")


def _twice(path):
    write_image(path, np.zeros((5, 8, 9), "u1"), "zxx")


def _too_many_axes(path):
    write_group(path, multiscales("tczyx"))
    write_array(path / "0", STACK)


def _angles(path):
    attributes = multiscales("czyx")
    attributes["multiscales"][0]["axes"][0]["name"] = "angle"
    write_image(path, TCZYX[0], attributes=attributes)


def _older(path):
    write_image(path, TCZYX, attributes={"multiscales": [{"version": "0.2", "datasets": []}]})


def _no_level(path):
    write_group(path, multiscales(), 3)


def _series_missing(path):
    write_group(path, {"bioformats2raw.layout": 3})
    write_group(path / "OME", {"series": ["0", "1"]})
    write_image(path / "0", STACK, "zyx")


def _no_datasets(path):
    attributes = multiscales()
    attributes["multiscales"][0]["datasets"] = []
    write_image(path, TCZYX, attributes=attributes)


def _level_without_path(path):
    attributes = multiscales()
    attributes["multiscales"][0]["datasets"] = [{}]
    write_image(path, TCZYX, attributes=attributes)


def _strange_codec(path):
    write_image(path, STACK, "zyx", 3)
    metadata = json.loads((path / "0" / "zarr.json").read_text())
    metadata["codecs"].append({"name": "acme.secret"})
    (path / "0" / "zarr.json").write_text(json.dumps(metadata))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(lambda p: p.mkdir(), "no zarr metadata", id="empty folder"),
        pytest.param(lambda p: p.write_bytes(b"PK"), "not a folder", id="a file"),
        pytest.param(lambda p: None, "not a folder", id="not there"),
        pytest.param(lambda p: write_group(p, {}), "no 'multiscales'", id="group only, 0.4"),
        pytest.param(lambda p: write_group(p, {}, 3), "no 'multiscales'", id="group only, 0.5"),
        pytest.param(lambda p: write_array(p, STACK), "bare zarr array", id="array only, zarr 2"),
        pytest.param(lambda p: write_array(p, STACK, 3), "bare zarr array", id="array, zarr 3"),
        pytest.param(lambda p: write_group(p, {"plate": {}}), "a plate of a screen", id="plate"),
        pytest.param(lambda p: write_group(p, {"well": {}}, 3), "a well of a screen", id="well"),
        pytest.param(lambda p: write_group(p, {"labels": ["a"]}), "a segmentation", id="labels"),
        pytest.param(_labels, "a segmentation", id="label image"),
        pytest.param(_rgb, "a colour image", id="RGB"),
        pytest.param(lambda p: write_image(p, STACK[0], "yx"), "2D image (axes (y, x)", id="2D"),
        pytest.param(lambda p: write_image(p, STACK[:1], "zyx"), "2D image", id="one plane"),
        pytest.param(lambda p: write_image(p, STACK, "tyx"), "2D image", id="times only"),
        pytest.param(lambda p: write_image(p, STACK, "tcz"), "not of a z-stack", id="no y and x"),
        pytest.param(lambda p: write_image(p, STACK[:, :, :0], "zyx"), "empty array", id="empty"),
        pytest.param(
            lambda p: write_image(p, STACK.astype("c8"), "zyx"), "complex64 can't", id="complex"
        ),
        pytest.param(lambda p: write_image(p, STACK > 9, "zyx"), "bool can't", id="bool"),
        pytest.param(_twice, "can't be read as times", id="an axis twice"),
        pytest.param(_too_many_axes, "5 axes for an array of shape (5, 8, 9)", id="axes too many"),
        pytest.param(_angles, "angle", id="an unknown axis"),
        pytest.param(_older, "OME-Zarr 0.2", id="older version"),
        pytest.param(_no_level, "isn't there", id="array missing"),
        pytest.param(_series_missing, "no zarr metadata", id="series missing"),
        pytest.param(
            lambda p: write_group(p, {"bioformats2raw.layout": 3}), "holds no image", id="no series"
        ),
        pytest.param(_no_datasets, "incomplete or damaged", id="no datasets"),
        pytest.param(_level_without_path, "incomplete or damaged", id="dataset without path"),
        pytest.param(_strange_codec, "acme.secret", id="unknown codec"),
    ],
)
def test_what_is_not_a_z_stack_is_refused_with_the_reason(make, expected, tmp_path):
    path = tmp_path / "a.zarr"
    make(path)
    with pytest.raises(SourceError) as caught:
        OmeZarrStack(path, "name")
    assert expected in str(caught.value)
    assert "a.zarr" in str(caught.value)


@pytest.mark.parametrize(("zarr_format", "options"), LAYOUTS)
def test_a_folder_cut_short_anywhere_is_never_taken_for_whole(zarr_format, options, tmp_path):
    path = tmp_path / "a.zarr"
    write_image(path, TCZYX, zarr_format=zarr_format, **options)
    files = sorted(p for p in path.rglob("*") if p.is_file())
    metadata = [p for p in files if p.name in ("zarr.json", ".zarray")]
    metadata += [path / ".zattrs"] if zarr_format == 2 else []
    chunks = [p for p in files if not p.name.startswith((".z", "zarr.json"))]
    for file in (*metadata, chunks[0], chunks[-1]):
        content = file.read_bytes()
        for length in sorted({0, *np.linspace(1, len(content) - 1, 12).astype(int).tolist()}):
            file.write_bytes(content[:length])
            try:
                with OmeZarrStack(path, "name") as stack:
                    data = np.array([p.data for p in stack.planes()])
                    is_told = stack.has_gaps
            except SourceError:
                continue
            assert file in chunks
            # zarr takes an empty shard for one that isn't there.
            assert is_told or data.tobytes() == TCZYX.tobytes(), (file, length)
        file.write_bytes(content)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("content", [b"[]", b"null", b'{"multiscales": 3}', b"\xff\xfe{", b"{}"])
def test_metadata_of_the_wrong_kind_are_refused(zarr_format, content, tmp_path):
    for name in ("", "0/"):
        path = tmp_path / f"{len(name)}.zarr"
        write_image(path, TCZYX, zarr_format=zarr_format)
        file = {2: ".zattrs" if not name else ".zarray", 3: "zarr.json"}[zarr_format]
        (path / (name + file)).write_bytes(content)
        with pytest.raises(SourceError):
            OmeZarrStack(path, "name")


def test_a_folder_that_vanishes_while_it_is_read_is_told(tmp_path):
    import shutil

    path = tmp_path / "a.zarr"
    write_image(path, TCZYX)
    with OmeZarrStack(path, "name") as stack:
        shutil.rmtree(path)
        with pytest.raises(SourceError):
            _ = stack.has_gaps
