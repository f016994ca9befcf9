from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

from live_restore.assessment import Assessment
from live_restore.errors import SinkError
from live_restore.profile import WriteSettings
from live_restore.sinks.writer import Writer, output_path, write_ome_tiff
from live_restore.sources.stacks.tiff import TiffStack
from live_restore.volume import AcquisitionEnd, Skipped, VolumeKey
from tests.conftest import make_info, make_restored, make_volume

STACK = np.arange(4 * 5 * 6, dtype="u2").reshape(4, 5, 6)


def test_a_written_volume_tells_all_to_another_program(tmp_path):
    restored = make_restored(make_volume(STACK, acquisition="day/run", origin="a camera"))
    with Writer(WriteSettings(folder=tmp_path / "new" / "out")) as writer:
        writer.send(make_info())
        writer.send(restored)
        writer.send(Skipped(restored.key, "x"))
        writer.send(AcquisitionEnd("day/run"))
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert files == [tmp_path / "new" / "out" / "day" / "run.ome.tif"]
    with tifffile.TiffFile(files[0]) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), restored.data)
        root = ElementTree.fromstring(tiff.ome_metadata)
    pixels = root.find("{*}Image/{*}Pixels")
    assert [pixels.get(f"PhysicalSize{a}") for a in "ZYX"] == ["0.5", "0.1", "0.1"]
    assert pixels.get("PhysicalSizeZUnit") == "µm"
    assert pixels.find("{*}Channel").get("Name") == "DAPI"
    told = {m.get("K"): m.text for m in root.findall(".//{*}M")}
    assert told["model"] == "m"
    assert told["model_sha256"] == "0" * 64
    assert told["raw"] == "a camera"
    assert told["acquisition"] == "day/run"
    with TiffStack(files[0], "again") as stack:
        assert stack.info.voxel_size_um == (0.5, 0.1, 0.1)
        assert stack.info.channels == ("DAPI",)


def test_a_written_volume_tells_what_the_guard_found(tmp_path):
    found = Assessment("amber", ("hazy", "dim"), signal=3.25, error=0.31, error_bound=0.4)
    restored = replace(make_restored(make_volume(STACK)), assessment=found)
    with Writer(WriteSettings(folder=tmp_path)) as writer:
        writer.send(restored)
    (file,) = tmp_path.rglob("*.tif")
    with tifffile.TiffFile(file) as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata)
    told = {m.get("K"): m.text for m in root.findall(".//{*}M")}
    assert (told["verdict"], told["verdict_reasons"]) == ("amber", "hazy; dim")
    assert (told["signal_photoelectrons"], told["nrmse_estimate"]) == ("3.25", "0.31")
    assert "nrmse_bound_coverage" not in told


def key(position="0", time=0, channel="DAPI", acquisition="run"):
    return VolumeKey(acquisition, position, time, channel)


@pytest.mark.parametrize(
    ("volume", "info", "expected"),
    [
        (key(), make_info(), "run.ome.tif"),
        (key(time=12), make_info(num_times=None), "run/run_t0012_DAPI.ome.tif"),
        (
            key(channel="camera"),
            make_info(num_times=None, channels=("camera",)),
            "run/run_t0000.ome.tif",
        ),
        (
            key("Pos0"),
            make_info(num_times=None, positions=("Pos0",)),
            "run/run_Pos0_t0000_DAPI.ome.tif",
        ),
        (key(channel="µ/2"), make_info(channels=("a", "µ/2")), "run/run_µ_2.ome.tif"),
        (
            key("B:3", 1, "a", "x/y"),
            make_info(acquisition="x/y", positions=("A", "B:3"), num_times=3, channels=("a", "b")),
            "x/y/y_B_3_t0001_a.ome.tif",
        ),
        (key("Pos1", channel="GFP"), make_info(), "run/run_Pos1_GFP.ome.tif"),
        (key(time=2), make_info(), "run/run_t0002.ome.tif"),
        (key(acquisition=".."), make_info(), "_.ome.tif"),
        (key(acquisition="a/../../b?"), make_info(), "a/_/_/b_.ome.tif"),
    ],
)
def test_a_file_is_named_after_what_tells_volumes_apart(volume, info, expected):
    assert output_path(volume, info).as_posix() == expected


def test_the_same_volume_gives_the_same_file(tmp_path):
    restored = make_restored()
    for name in ("a", "b"):
        with Writer(WriteSettings(folder=tmp_path / name)) as writer:
            writer.send(restored)
    assert (tmp_path / "a" / "run.ome.tif").read_bytes() == (
        tmp_path / "b" / "run.ome.tif"
    ).read_bytes()


def test_no_output_leaves_its_folder(tmp_path):
    for name in ("/etc/passwd", "../../x", "C:\\x", "a/./b"):
        path = (tmp_path / output_path(key(acquisition=name), make_info())).resolve()
        assert tmp_path in path.parents


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.ome.tif"
    path.write_text("older")

    def planes():
        yield STACK[0]
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_ome_tiff(path, planes(), (1, 1, 4, 5, 6), STACK.dtype, None, ("c",), {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.ome.tif"]
    assert path.read_text() == "older"


def test_a_folder_that_cannot_be_written_to_is_an_error_with_a_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SinkError, match=r"another one in \[write\]"):
        Writer(WriteSettings(folder=tmp_path / "file" / "out")).__enter__()


def test_a_volume_that_cannot_be_written_is_a_sink_error_and_the_next_is_written(tmp_path):
    with Writer(WriteSettings(folder=tmp_path)) as writer:
        (tmp_path / "run.ome.tif").mkdir()
        with pytest.raises(SinkError, match="raw data is untouched"):
            writer.send(make_restored())
        (tmp_path / "run.ome.tif").rmdir()
        writer.send(make_restored())
    assert (tmp_path / "run.ome.tif").is_file()
    assert not list(Path(tmp_path).rglob("*.part"))


@pytest.mark.parametrize("acquisition", [".", "./.", "/", "..", "../..", "./"])
def test_a_name_that_is_no_file_name_stays_in_the_folder(tmp_path, acquisition):
    folder = tmp_path / "out"
    with Writer(WriteSettings(folder=folder)) as writer:
        writer.send(make_restored(make_volume(STACK, acquisition=acquisition)))
    (file,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert folder in file.parents
    assert file.name.startswith("_")
