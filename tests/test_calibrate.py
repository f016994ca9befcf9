"""``live-restore calibrate``: from files, from a folder that fills, from a real MMCore."""

import json
import subprocess
import sys
import threading

import numpy as np
import pytest
import tifffile

from live_restore.calibration_frames import CalibrationFolder, read_series
from live_restore.cli.main import main
from live_restore.errors import CalibrationError, SourceError
from live_restore.guard.camera import CameraCalibration, find_camera
from live_restore.profile import load_profile
from live_restore.simulation.camera import Camera
from live_restore.simulation.microscope import SimulatedMicroscope
from live_restore.sources.frames import find_frame_files, read_frames
from tests.conftest import live_restore, wait_for

CAMERA = Camera(1.0, 0.46, 100.0, 1.4, 16)


@pytest.fixture(autouse=True)
def camera_folder(tmp_path_factory, monkeypatch):
    """Where calibrations are known by name, for this test alone."""
    folder = tmp_path_factory.mktemp("cameras")
    monkeypatch.setenv("LIVE_RESTORE_CAMERAS", str(folder))
    return folder


def frames(photons, num_frames=4, seed=0, size=96):
    rng = np.random.default_rng([seed, num_frames])
    field = np.full((num_frames, size, size), float(photons))
    return CAMERA.expose(field, rng)


def save(path, photons, num_frames=4, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, frames(photons, num_frames, seed), photometric="minisblack", **options)
    return path


def test_files_become_a_calibration_that_profiles_name(tmp_path, camera_folder):
    dark = save(tmp_path / "no light.tif", 0, 10)
    light = [save(tmp_path / f"{p}.tif", p, seed=p) for p in (50, 400)]
    done = live_restore(
        "calibrate", "--camera", "Orca", "--mode", "16 bit", "--dark", dark, "--light", *light
    )
    assert done.returncode == 0, done.stderr
    assert 'camera = "orca-16-bit"' in done.stdout
    assert "counts per photoelectron" in done.stdout
    made = find_camera("orca-16-bit")
    assert (made.camera, made.mode, made.method) == ("Orca", "16 bit", "photon transfer")
    assert made.gain == pytest.approx(0.46, abs=4 * made.gain_error * made.gain)
    assert made.offset == pytest.approx(100, abs=0.05)
    assert made.read_noise == pytest.approx(1.4, abs=4 * made.read_noise_error)
    assert (camera_folder / "orca-16-bit.png").read_bytes().startswith(b"\x89PNG")
    # What it says to paste is a profile's.
    profile = tmp_path / "my.toml"
    pasted = done.stdout[done.stdout.index("[guard]") :]
    profile.write_text('[source]\nkind = "simulated"\n' + pasted, encoding="utf-8")
    assert str(load_profile(profile).guard.camera) == "orca-16-bit"


def test_the_result_is_json_and_goes_where_it_is_told(tmp_path, capsys):
    dark, light = save(tmp_path / "d.tif", 0, 6), save(tmp_path / "l.tif", 90)
    output = tmp_path / "new" / "mine.json"
    arguments = ["--dark", dark, "--light", light, "--output", output, "--json"]
    assert main(["calibrate", "--camera", "c", *map(str, arguments)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == str(output)
    assert told["gain"] == pytest.approx(CameraCalibration.load(output).gain)
    assert any("about the same level" in one for one in told["warnings"])
    assert sorted(one.name for one in output.parent.iterdir()) == ["mine.json", "mine.png"]


def test_a_blind_estimate_says_that_it_is_one(tmp_path):
    stack = tmp_path / "stack.tif"
    tifffile.imwrite(stack, SimulatedMicroscope(peak_photons=40).stack(0, "nuclei"))
    done = live_restore("calibrate", "--camera", "c", "--stack", stack, "--read-noise", 1.6)
    assert done.returncode == 0, done.stderr
    assert "An estimate from one stack" in done.stdout
    made = find_camera("c")
    assert made.method == "blind"
    assert made.gain == pytest.approx(2.17, rel=0.15)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], "no frames given", id="nothing"),
        pytest.param(["--dark", "d.tif"], "--dark without --light", id="dark only"),
        pytest.param(["--light", "l.tif", "--stack", "s.tif"], "expected one of", id="two ways"),
        pytest.param(
            ["--dark", "d.tif", "--light", "l.tif", "--offset", "1"], "leave them out", id="both"
        ),
        pytest.param(["--profile", "micromanager"], 'backend = "java"', id="follower"),
        pytest.param(["--profile", "watched-folder"], "--folder DIR", id="folder profile"),
        pytest.param(["--profile", "democam", "--frames", "1"], "2 or more", id="one frame"),
        pytest.param(["--profile", "democam", "--exposures", "0"], "more than 0", id="exposure"),
        pytest.param(["--stack", "s.tif", "--read-noise", "-1"], "0 or more", id="noise"),
    ],
)
def test_what_does_not_go_together_is_a_mistake(arguments, expected, capsys):
    assert main(["calibrate", "--camera", "c", *arguments]) == 2
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["--light", "none.tif"], "No such file", id="missing"),
        pytest.param(["--light", "text.tif"], "not a readable TIFF", id="no TIFF"),
        pytest.param(["--light", "cut.tif"], "save it again", id="cut short"),
        pytest.param(["--light", "one.tif"], "a single frame", id="one frame"),
        pytest.param(["--light", "rgb.tif"], "grey frames", id="colour"),
        pytest.param(["--light", "two.tif"], "several channels", id="channels"),
        pytest.param(["--light", "l.tif"], "no dark frames", id="no dark"),
        pytest.param(["--folder", "none"], "isn't there", id="no folder"),
        pytest.param(
            ["--folder", ".", "--timeout", "0.1"], "0 dark and 0 lit series", id="timeout"
        ),
        pytest.param(["--stack", "l.tif"], "can't be told", id="flat stack"),
    ],
)
def test_what_cannot_be_used_is_told(arguments, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.tif").write_text("no image", encoding="utf-8")
    save(tmp_path / "l.tif", 50)
    (tmp_path / "cut.tif").write_bytes((tmp_path / "l.tif").read_bytes()[:50_000])
    save(tmp_path / "one.tif", 50, 1)
    tifffile.imwrite("rgb.tif", np.zeros((64, 64, 3), "u1"), photometric="rgb")
    both = np.zeros((2, 2, 64, 64), "u2")
    tifffile.imwrite("two.tif", both, imagej=True, metadata={"axes": "TCYX"})
    assert main(["calibrate", "--camera", "c", *arguments]) == 3
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("num_frames", [2, 3, 4, 5])
@pytest.mark.parametrize("photometric", ["minisblack", None])
def test_frames_are_read_however_a_program_calls_them(tmp_path, num_frames, photometric):
    """Without being told, three and four planes are taken for those of a colour image by tifffile."""
    data, path = frames(50, num_frames), tmp_path / "light.tif"
    options = {"photometric": photometric} if photometric else {}
    if photometric is None and num_frames in (3, 4):
        options = {"photometric": "rgb", "planarconfig": "separate"}
    tifffile.imwrite(path, data, **options)
    np.testing.assert_array_equal(read_frames(path), data)
    for axes in ("TYX", "ZYX"):
        tifffile.imwrite(path, data, imagej=True, metadata={"axes": axes})
        np.testing.assert_array_equal(read_frames(path), data)
        tifffile.imwrite(path, data, ome=True, metadata={"axes": axes}, photometric="minisblack")
        np.testing.assert_array_equal(read_frames(path), data)


def test_files_of_one_frame_are_a_series_together(tmp_path):
    folder = tmp_path / "light_1" / "Default"
    paths = [save(folder / f"img_time{t:09}_z000.tif", 50, 1, t) for t in range(4)]
    (series,) = read_series(paths)
    assert series.frames.shape == (4, 96, 96)
    found = find_frame_files(tmp_path, ("dark", "light"))
    assert found == {"dark": [], "light": paths}
    small = folder / "img_time000000004_z000.tif"
    tifffile.imwrite(small, frames(50, 1, size=64))
    with pytest.raises(CalibrationError, match="different shapes"):
        read_series([*paths, small])


def test_a_folder_is_watched_until_there_is_enough(tmp_path):
    folder = tmp_path / "frames"
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "live_restore", "calibrate", "--camera", "c", "--folder", str(folder),
         "--timeout", "60", "--output", str(tmp_path / "c.json")],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        said = []
        reader = threading.Thread(target=lambda: said.extend(iter(process.stdout.readline, "")))
        reader.start()
        wait_for(lambda: any("Ctrl-C ends" in line for line in said), "the instructions")
        save(folder / "light_1.tif", 50)
        save(folder / "note.tif", 50)
        save(folder / "Dark.tif", 0, 8)
        wait_for(lambda: any("Dark.tif, 8 frames" in line for line in said), "the dark frames")
        # A file that is being written counts when it is whole.
        save(tmp_path / "whole.tif", 400, seed=2)
        whole = (tmp_path / "whole.tif").read_bytes()
        with (folder / "light_2.tif").open("wb") as file:
            file.write(whole[:40_000])
            file.flush()
            wait_for(lambda: any("light_2.tif" in line for line in said), "that it isn't whole")
            assert process.poll() is None
            file.write(whole[40_000:])
        assert process.wait(60) == 0
        reader.join()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    made = CameraCalibration.load(tmp_path / "c.json")
    assert made.gain == pytest.approx(0.46, abs=4 * made.gain_error * made.gain)
    assert not any("note.tif" in line for line in said)


def test_a_folder_that_has_enough_is_taken_at_once(tmp_path):
    save(tmp_path / "light_1.tif", 50)
    save(tmp_path / "light_2" / "light_2_MMStack_Pos0.ome.tif", 90, metadata={"axes": "TYX"})
    told = []
    dark, light = CalibrationFolder(tmp_path, settle_s=0).await_series(2, False, told.append, 1.0)
    assert (dark, len(light), len(told)) == ([], 2, 2)
    with pytest.raises(SourceError, match="0 dark and 2 lit"):
        CalibrationFolder(tmp_path, settle_s=0).await_series(2, True, told.append, 0.0)


DEMO_CAMERA = """
[source]
kind = "acquisition"
channels = ["DAPI"]
exposure_ms = 10.0

[source.properties]
"Camera-PixelType" = "16bit"
"Camera-Mode" = "Noise"
"Camera-Photon Flux" = "20"
"Camera-Photon Conversion Factor" = "{factor}"
"Camera-ReadNoise (electrons)" = "{noise}"
"""


@pytest.mark.parametrize(("factor", "noise"), [(0.5, 4.0), (2.0, 2.5)])
def test_a_real_core_with_a_camera_that_is_known(tmp_path, factor, noise, capsys):
    """MMCore's demonstration camera: photons / factor + 100 counts, cut off to whole ones twice.

    Its light can't be turned off: at 0.01 ms it is 0.2 photoelectrons per pixel.
    """
    pytest.importorskip("mm_test_adapters")
    profile = tmp_path / "demo.toml"
    profile.write_text(DEMO_CAMERA.format(factor=factor, noise=noise), encoding="utf-8")
    arguments = ["--profile", str(profile), "--dark-exposure", "0.01", "--frames", "4", "--yes"]
    assert main(["calibrate", "--camera", "democam", *arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["warnings"] == []
    assert told["exposure_ms"] == 0.01
    assert {one["series"] for one in told["levels"]} == {
        "light 2.5 ms", "light 5 ms", "light 10 ms", "light 20 ms"
    }  # fmt: skip
    gain = 1 / factor
    assert told["gain"] == pytest.approx(gain, abs=4 * told["gain_error"] * gain)
    assert told["gain_error"] < 0.01
    # Cutting off the noise itself adds a few per cent where that is little more than a count.
    dark = noise**2 + 0.2 + 1 / (12 * gain**2)
    assert told["read_noise"] == pytest.approx(np.sqrt(dark), rel=0.01 if factor < 1 else 0.04)
    assert told["offset"] == pytest.approx(99.5, abs=0.5)


def test_nobody_at_the_terminal_is_told_of(tmp_path):
    pytest.importorskip("mm_test_adapters")
    done = subprocess.run(
        [sys.executable, "-m", "live_restore", "calibrate", "--camera", "c", "--profile", "democam"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    assert "nobody is there to see to the light" in done.stderr
