"""The ImageJ plugin in docs/clients, in ImageJ itself, on a screen that nobody sees."""

import os
import subprocess
from contextlib import contextmanager

import numpy as np
import pytest
import tifffile

from live_restore.profile import PublishSettings
from live_restore.sinks.publisher import Publisher
from tests.conftest import make_restored, make_volume, wait_for


class ImageJ:
    """ImageJ that runs, and does what it is told."""

    def __init__(self, process, out):
        self._process, self._out, self._told = process, out, 0

    def __call__(self, command):
        """Have it do something; its answer."""
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        self._told += 1

        def answer():
            assert self._process.poll() is None, self._out.read_text()
            lines = self._out.read_text(encoding="utf-8").split("\n")[:-1]
            return lines[self._told - 1 :]

        return wait_for(answer, f"the answer to {command!r}: {self._out.read_text()}")[0]

    def stack(self, path):
        """What its first window has: voxels, and ImageJ's description of them."""
        assert self(f"save {path}") == "saved"
        with tifffile.TiffFile(path) as file:
            (series,) = file.series
            return series.axes, series.asarray(), file.imagej_metadata, file.pages[0].tags


@contextmanager
def screen():
    """An X server; its display."""
    read, write = os.pipe()
    command = ["Xvfb", "-displayfd", str(write), "-screen", "0", "1024x768x24", "-nolisten", "tcp"]
    server = subprocess.Popen(command, pass_fds=[write], stderr=subprocess.DEVNULL)
    try:
        os.close(write)
        with os.fdopen(read) as told:
            yield f":{told.readline().strip()}"
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def imagej(built_client, tmp_path):
    command, out = built_client("imagej"), tmp_path / "answers.txt"
    with screen() as display, out.open("wb") as file:
        environment = os.environ | {"DISPLAY": display}
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, env=environment
        ) as process:
            try:
                yield ImageJ(process, out)
            finally:
                process.kill()


@pytest.fixture
def publisher(endpoints):
    data, control = endpoints
    with Publisher(PublishSettings(endpoint=data, control=control)) as publisher:
        yield publisher


def restored(seed, shape=(3, 6, 8), dtype="u2", **changes):
    data = np.random.default_rng(seed).integers(0, 256 if dtype == "u1" else 60000, shape)
    return make_restored(make_volume(data.astype(dtype), time=seed, **changes))


def is_on_screen(imagej, one):
    """Whether a voxel of the third plane has the grey that its counts have between 100 and 20000."""
    grey = np.clip((float(one.data[2, 1, 2]) - 100) / 19900 * 255, 0, 255)
    return abs(int(imagej("shown").split()[-1]) - grey) <= 1.5


def test_volumes_appear_calibrated_and_are_kept_up_to_date_as_the_user_looks(
    imagej, publisher, endpoints, tmp_path
):
    size = (0.5, 0.125, 0.25)
    publisher.send(restored(0, voxel_size_um=size))
    imagej(f"watch data={endpoints[0]} control={endpoints[1]} volumes=restored")
    wait_for(lambda: imagej("titles") == "run, position 0, time 0;", "the volume from before")
    axes, data, about, tags = imagej.stack(tmp_path / "0.tif")
    assert (axes, data.dtype) == ("ZYX", np.uint16)
    np.testing.assert_array_equal(data, restored(0).data)
    assert (about["spacing"], about["unit"]) == (0.5, "\\u00B5m")
    per_um = [tags[name].value for name in ("YResolution", "XResolution")]
    assert [pixels / um for pixels, um in per_um] == [8, 4]
    low, high = np.percentile(restored(0).data, [0.1, 99.9])
    assert (about["min"], about["max"]) == (pytest.approx(low, abs=1), pytest.approx(high, abs=1))

    imagej("slice 3")
    imagej("limits 100 20000")
    wait_for(lambda: is_on_screen(imagej, restored(0)), "the contrast on the screen")
    window = imagej("shown").split()[0]
    publisher.send(restored(1, voxel_size_um=size))
    wait_for(lambda: imagej("titles") == "run, position 0, time 1;", "the next volume")
    np.testing.assert_array_equal(imagej.stack(tmp_path / "1.tif")[1], restored(1).data)
    wait_for(lambda: is_on_screen(imagej, restored(1)), "the next volume on the screen")
    # The window, the slice and the contrast are what they were.
    assert imagej("shown").split()[:4] == [window, "3", "100.0", "20000.0"]

    assert imagej("threads") == "1"
    imagej("close")
    wait_for(lambda: imagej("threads") == "0", "the end of watching")


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_channels_become_one_composite_of_any_type(imagej, publisher, endpoints, tmp_path, dtype):
    imagej(f"watch data={endpoints[0]} control={endpoints[1]} volumes=raw")
    sent = {
        channel: restored(seed, dtype=dtype, channel=channel)
        for seed, channel in enumerate(("DAPI", "µ 2"))
    }
    wait_for(lambda: publisher.viewers, "ImageJ")
    for count, one in enumerate(sent.values()):
        publisher.send(one)
        title = f"run, position 0, time {count};"
        wait_for(lambda title=title: imagej("titles") == title, title)
    axes, data, about, _ = imagej.stack(tmp_path / "both.tif")
    assert (axes, data.dtype, about["channels"]) == ("ZCYX", np.dtype(dtype), 2)
    for number, one in enumerate(sent.values()):
        np.testing.assert_array_equal(data[:, number], one.raw.data)
    assert about["Labels"][:3] == ["DAPI", "µ 2", "DAPI"]
    assert about["mode"] == "composite"
    newer = restored(5, dtype=dtype, channel="µ 2")
    publisher.send(newer)
    wait_for(lambda: imagej("titles") == "run, position 0, time 5;", "the newer volume")
    _, data, _, _ = imagej.stack(tmp_path / "newer.tif")
    np.testing.assert_array_equal(data[:, 0], sent["DAPI"].raw.data)
    np.testing.assert_array_equal(data[:, 1], newer.raw.data)
    other = restored(6, (2, 5, 4), dtype, channel="µ 2")  # of another acquisition
    publisher.send(other)
    wait_for(lambda: imagej("titles") == "run, position 0, time 6;", "another size")
    axes, data, _, _ = imagej.stack(tmp_path / "other.tif")
    assert axes == "ZYX"
    np.testing.assert_array_equal(data, other.raw.data)
