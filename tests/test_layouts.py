"""Acquisitions on disk, finished and growing, read plane by plane."""

import contextlib
import gzip
import io
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import tifffile

from live_restore.sources.layouts import LayoutInfo, recognise
from live_restore.sources.layouts.raw_file import RawFile
from tests import growing_layouts as growing
from tests.conftest import DATA

FORMATS = DATA / "formats"


@pytest.fixture
def sample(tmp_path):
    """Copies a real dataset, unpacked, where nothing else lies."""

    def copy(name):
        folder = tmp_path / name
        for source in (p for p in (FORMATS / name).rglob("*") if p.is_file()):
            target = folder / source.relative_to(FORMATS / name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.suffix == ".gz":
                target.with_suffix("").write_bytes(gzip.decompress(source.read_bytes()))
            else:
                shutil.copy(source, target)
        return folder

    return copy


def open_ndstorage(path):
    from ndstorage import Dataset

    with contextlib.redirect_stdout(io.StringIO()):
        return Dataset(str(path))


def place(plane):
    return plane.position, plane.time, plane.channel, plane.z


def read_all(folder):
    layout = recognise(folder)
    planes = {place(plane): plane.read() for plane in layout.poll()}
    assert not list(layout.poll())
    return layout, planes


@pytest.mark.parametrize(
    ("name", "num_planes", "step"),
    [("ndtiff3.2_multichannel", 256, 0.4), ("ndtiffv2.0_test", 10, None)],
)
def test_a_real_ndtiff_dataset_is_read_as_ndstorage_reads_it(name, num_planes, step, sample):
    folder = sample(name)
    layout, planes = read_all(folder)
    assert layout.name == "NDTiff"
    assert layout.path == folder
    assert len(planes) == num_planes
    assert layout.is_ended() is True
    assert layout.info() == LayoutInfo(None, None, ("DAPI", "FITC"), ("0",), 1.0, step)
    with contextlib.closing(open_ndstorage(folder)) as dataset:
        for (_, time, channel, z), data in planes.items():
            # Version 2 has neither channel names nor, here, z-stacks.
            axes = (
                {"channel": channel, "z": z}
                if step
                else {"channel": ["DAPI", "FITC"].index(channel)}
            )
            np.testing.assert_array_equal(data, dataset.read_image(time=time, **axes))
            assert not data.flags.writeable


def test_real_image_stack_files_of_version_1_4_are_read_as_tifffile_reads_them(sample):
    folder = sample("mm1.4_multifile")
    layout, planes = read_all(folder)
    assert layout.name == "Micro-Manager image stack file"
    positions = ("1-Pos_000_000", "1-Pos_001_000", "1-Pos_001_001", "1-Pos_000_001")
    assert layout.info() == LayoutInfo(2, 2, ("Cy5", "DAPI"), positions, 1.0, 5.0)
    assert layout.is_ended() is True
    assert len(planes) == 4 * 2 * 2 * 2
    for position in positions:
        path = folder / f"1.4compatTest_3_MMStack_{position}.ome.tif"
        with tifffile.TiffFile(path) as tiff:
            pages = iter([page.asarray() for page in tiff.pages])
        for time, c, z in np.ndindex(2, 2, 2):
            data = planes[position, time, ("Cy5", "DAPI")[c], z]
            np.testing.assert_array_equal(data, next(pages), strict=True)


def test_a_real_separate_image_file_is_read_as_tifffile_reads_it(sample):
    folder = sample("mm2_separate_files")
    layout, planes = read_all(folder)
    assert layout.name == "Micro-Manager separate image files"
    assert layout.path == folder
    ((where, data),) = planes.items()
    assert where == ("Pos0", 0, "Alpha", 0)
    np.testing.assert_array_equal(data, tifffile.imread(next(folder.rglob("*.tif"))))
    assert data.dtype == np.uint16
    # Its metadata.txt lacks the brace that ends it.
    assert layout.is_ended() is False


@pytest.mark.parametrize(
    "name", ["ndtiff3.2_multichannel", "ndtiffv2.0_test", "mm1.4_multifile", "mm2_separate_files"]
)
def test_every_file_of_a_dataset_leads_to_the_same_folder(name, sample):
    folder = sample(name)
    for path in [folder, *(p.parent for p in folder.rglob("*.tif")), *folder.rglob("*.tif")]:
        assert recognise(path).path == folder
    assert recognise(folder.parent) is None
    assert recognise(folder / "nothing") is None


NDTIFF, STACK, SEPARATE = growing.write_ndtiff, growing.write_mm_stack, growing.write_separate
GROWING = [
    pytest.param(NDTIFF, {}, {}, id="NDTiff"),
    pytest.param(NDTIFF, {"version": 2, "names": False}, {}, id="NDTiff 2"),
    pytest.param(NDTIFF, {"index": True, "names": False}, {}, id="NDTiff of Micro-Manager itself"),
    pytest.param(
        NDTIFF, {"index": True, "per_file": 5}, {"positions": 2}, id="and in several files"
    ),
    pytest.param(NDTIFF, {"per_file": 5}, {"positions": 2}, id="NDTiff in several files"),
    pytest.param(NDTIFF, {"bits": 16}, {"dtype": "u1"}, id="NDTiff 8 bits called 16"),
    pytest.param(NDTIFF, {}, {"dtype": "u1", "shape": (4, 5, 3)}, id="NDTiff colour"),
    pytest.param(NDTIFF, {"order": ">"}, {"dtype": "u4"}, id="NDTiff big-endian"),
    pytest.param(STACK, {}, {}, id="stack"),
    pytest.param(STACK, {"prefix": ""}, {"dtype": "u1"}, id="stack without prefix"),
    pytest.param(STACK, {"entry_first": False}, {}, id="stack, entries last"),
    pytest.param(STACK, {"per_file": 5}, {"positions": 2}, id="stacks of positions, continued"),
    pytest.param(STACK, {"order": ">"}, {"shape": (4, 5, 3)}, id="stack big-endian colour"),
    pytest.param(SEPARATE, {}, {"positions": 2}, id="separate"),
    pytest.param(SEPARATE, {"order": "<"}, {"dtype": "u1"}, id="separate little-endian"),
    pytest.param(SEPARATE, {"style": "1.4"}, {"positions": 2}, id="separate 1.4"),
    pytest.param(SEPARATE, {"style": "flat"}, {}, id="separate in one folder"),
    pytest.param(SEPARATE, {}, {"dtype": "u1", "shape": (4, 5, 3)}, id="separate colour"),
]


@pytest.mark.parametrize(("write", "options", "acquired"), GROWING)
def test_each_plane_comes_once_and_whole_with_the_piece_that_completes_it(
    write, options, acquired, tmp_path
):
    folder = tmp_path / "run_1"
    folder.mkdir()
    acquired = growing.images(**acquired)
    layout, num_given = None, 0
    for whole in write(folder, acquired, growing.Pieces(), **options):
        layout = layout or recognise(folder)
        given = list(layout.poll()) if layout else []
        assert [place(plane) for plane in given] == ([whole.place] if whole else [])
        for plane in given:
            np.testing.assert_array_equal(plane.read(), whole.data, strict=True)
            assert plane.exposure_ms == growing.EXPOSURES_MS[plane.channel]
            assert plane.z_um == pytest.approx(100 + growing.Z_STEP_UM * plane.z)
            assert plane.pixel_size_um == growing.PIXEL_SIZE_UM
        num_given += len(given)
        assert layout is None or layout.is_ended() in (False, None, num_given == len(acquired))
    assert num_given == len(acquired)
    assert not list(layout.poll())
    assert layout.is_ended() is True
    info = layout.info()
    assert info.channels == ("DAPI", "FITC")
    assert info.positions == tuple(sorted({image.place[0] for image in acquired}))
    assert (info.pixel_size_um, info.z_step_um) == pytest.approx((0.13, 0.4))
    if write is not NDTIFF:
        assert (info.num_slices, info.num_times) == (3, 2)
    layout.close()


@pytest.mark.parametrize(("write", "most_bytes"), [(NDTIFF, 100), (STACK, 1500), (SEPARATE, 100)])
def test_a_poll_costs_what_is_new(write, most_bytes, tmp_path, monkeypatch):
    acquired = growing.images(times=10, slices=4)
    for _ in write(tmp_path, acquired, growing.Pieces(None)):
        pass
    layout = recognise(tmp_path)
    assert len(list(layout.poll())) == len(acquired) == 80
    num_read = 0
    read = RawFile.read

    def count(self, offset, nbytes):
        nonlocal num_read
        data = read(self, offset, nbytes)
        num_read += len(data)
        return data

    monkeypatch.setattr(RawFile, "read", count)
    for _ in range(3):
        num_read = 0
        assert not list(layout.poll())
        assert num_read <= most_bytes


def test_planes_that_are_not_taken_come_with_the_next_poll(tmp_path):
    for write in (NDTIFF, STACK, SEPARATE):
        folder = tmp_path / write.__name__
        folder.mkdir()
        acquired = growing.images(positions=2)
        for _ in write(folder, acquired, growing.Pieces(None)):
            pass
        layout = recognise(folder)
        places = set()
        while not layout.is_ended():
            for plane in layout.poll():
                assert place(plane) not in places
                places.add(place(plane))
                if len(places) % 5 == 0:
                    break
        assert places == {image.place for image in acquired}


def test_two_acquisitions_in_one_folder_are_left_to_others(tmp_path):
    for prefix in ("a_", "b_"):
        for _ in STACK(tmp_path, growing.images(), growing.Pieces(None), prefix=prefix):
            pass
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "a_MMStack_Pos0.ome.tif") is None


def test_mosaics_and_positions_that_share_a_name_stay_apart(tmp_path):
    from live_restore.sources.layouts.metadata import Names

    names = Names()
    assert names.of(0, "cell") == "cell"
    assert names.of(1, "cell") == "cell (1)"
    assert names.of(0, "renamed meanwhile") == "cell"
    assert names.of("dish", others={"row": 1, "column": 2}) == "dish column2 row1"
    assert names.of(5) == "5"
    assert names.known == ("cell", "cell (1)", "dish column2 row1", "5")


ACQUIRE = """
    import sys
    import mm_test_adapters
    from pycromanager import Acquisition, Core, multi_d_acquisition_events, start_headless, stop_headless

    folder, pixel_type = sys.argv[1:]
    num_seen = 0

    def stamp(image, metadata):
        global num_seen
        num_seen += 1
        if num_seen > 4:
            sys.stdin.readline()  # the reader has a plane more
        image = image.copy()
        image[0, :8] = num_seen
        return image, metadata

    start_headless(
        mm_app_path=str(mm_test_adapters.device_adapter_path()), config_file="MMConfig_demo.cfg",
        python_backend=True, buffer_size_mb=64,
    )
    core = Core()
    core.set_property("Camera", "PixelType", pixel_type)
    core.set_exposure(1)
    with Acquisition(directory=folder, name="run", image_process_fn=stamp, show_display=False) as acquisition:
        acquisition.acquire(multi_d_acquisition_events(
            num_time_points=3, channel_group="Channel", channels=["DAPI", "FITC"],
            z_start=0, z_end=2, z_step=0.5, order="tcz",
        ))
    stop_headless()
"""


@pytest.mark.parametrize("pixel_type", ["16bit", "8bit"])
def test_pycromanagers_planes_are_read_while_it_acquires(pixel_type, tmp_path):
    """The acquisition waits for its reader: it only ends when planes are read as they come."""
    pytest.importorskip("mm_test_adapters")
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(ACQUIRE), str(tmp_path), pixel_type],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    planes, layout, is_over = {}, None, False
    try:
        while not is_over:
            is_over = process.poll() is not None
            layout = layout or recognise(tmp_path / "run_1")
            for plane in layout.poll() if layout else ():
                assert place(plane) not in planes
                planes[place(plane)] = plane, plane.read()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write("\n")
        _, complaints = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, complaints
    assert layout.is_ended() is True
    assert set(planes) == {
        ("0", t, c, z) for t in range(3) for c in ("DAPI", "FITC") for z in range(5)
    }
    assert layout.info().z_step_um == pytest.approx(0.5)
    with contextlib.closing(open_ndstorage(tmp_path / "run_1")) as dataset:
        for (_, time, channel, z), (plane, data) in planes.items():
            expected = dataset.read_image(time=time, channel=channel, z=z)
            np.testing.assert_array_equal(data, expected, strict=True)
            np.testing.assert_array_equal(plane.read(), expected)
            assert plane.exposure_ms == 1
            assert plane.z_um == pytest.approx(0.5 * z)
    stamps = {int(data[0, 0]) for _, data in planes.values()}
    assert stamps == set(range(1, 31))
