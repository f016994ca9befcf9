"""napari under Xvfb, in a process of its own: layers of a live publisher, and written files."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from live_restore.sinks.writer import provenance, write_ome_tiff
from tests.browser import SCREENSHOTS
from tests.conftest import make_restored
from tests.test_viewer_page import publishing

VOXEL_UM = (0.3, 0.1, 0.1)
NAPARI = """
import json, os, sys, time, threading
import napari
from qtpy.QtWidgets import QApplication

def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        QApplication.instance().processEvents()
        time.sleep(0.01)
    if not condition():
        print("waited in vain", threading.enumerate(), file=sys.stderr, flush=True)
        os._exit(1)  # whatever threads there are

def wait(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.instance().processEvents()
        time.sleep(0.01)

def about(layer):
    return {"name": layer.name, "shape": list(layer.data.shape), "scale": list(layer.scale),
            "units": [str(one) for one in layer.units], "colormap": layer.colormap.name}
"""


def napari(script: str, *arguments: object) -> dict:
    """What a script prints as JSON, run with napari under Xvfb."""
    lacking = None
    if find_spec("napari") is None:
        lacking = 'needs napari: pip install "live-restore[napari]"'
    elif sys.platform == "linux" and shutil.which("xvfb-run") is None:
        lacking = "needs xvfb-run (Debian's package xvfb)"
    if lacking:
        if os.environ.get("LIVE_RESTORE_NAPARI"):
            pytest.fail(lacking)
        pytest.skip(lacking)
    screen = ["xvfb-run", "-a", "-s", "-screen 0 1400x900x24"] if sys.platform == "linux" else []
    done = subprocess.run(
        [*screen, sys.executable, "-c", NAPARI + script, *(str(one) for one in arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_layers_arrive_with_their_scale_and_follow(endpoints):
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    script = """
from live_restore.viewer.napari_plugin.widget import LiveWidget
viewer = napari.Viewer()
widget = LiveWidget(viewer, sys.argv[1], sys.argv[2])
viewer.window.add_dock_widget(widget, name="live-restore")
widget.connect_daemon()
time_of = lambda: viewer.layers[0].metadata["live_restore"]["time"]
until(lambda: len(viewer.layers) == 4)
first = time_of()
until(lambda: time_of() > first + 2)
found = {"layers": [about(one) for one in viewer.layers], "truth": widget.truth}
viewer.screenshot(sys.argv[3], canvas_only=False)
widget._slider.sliderMoved.emit(1)  # as a user drags it
wait(1)
stood = time_of()
wait(1)
found["stood"] = stood == time_of() and not widget._live.isChecked()
widget._live.click()
until(lambda: time_of() > stood + 2)
found["follows"] = widget._live.isChecked()
viewer.close()
wait(0.2)
found["threads"] = [one.name for one in threading.enumerate()]
print(json.dumps(found))
"""
    with publishing(endpoints):
        found = napari(script, *endpoints, SCREENSHOTS / "napari.png")
    layers = {one["name"]: one for one in found["layers"]}
    assert set(layers) == {"tubulin raw", "tubulin restored", "DNA raw", "DNA restored"}
    for one in layers.values():
        assert one["scale"] == list(VOXEL_UM)
        assert one["units"] == ["micrometer"] * 3
        assert one["shape"] == [12, 64, 64]
    assert layers["tubulin raw"]["colormap"] == layers["tubulin restored"]["colormap"]
    assert layers["tubulin raw"]["colormap"] != layers["DNA raw"]["colormap"]
    assert "this model was shown to hold from 3.0" in found["truth"]
    assert found["stood"]
    assert found["follows"]
    assert "napari-follower" not in found["threads"]


def written(path: Path) -> Path:
    one = make_restored()
    data = np.arange(2 * 3 * 4 * 5, dtype="u2").reshape(1, 2, 3, 4, 5)
    notes = provenance(one.model, "camera")
    write_ome_tiff(path, data, data.shape, data.dtype, VOXEL_UM, ("a", "b"), notes)
    return path


def test_written_files_open_with_their_scale(tmp_path):
    script = """
from npe2 import PluginManifest
manifest = PluginManifest.from_distribution("live-restore")
viewer = napari.Viewer(show=False)
viewer.open(sys.argv[1], plugin="live-restore")
found = {"layers": [about(one) for one in viewer.layers], "last": int(viewer.layers[1].data[2, 3, 4]),
         "model": viewer.layers[0].metadata["live_restore"]["model"],
         "widgets": [one.display_name for one in manifest.contributions.widgets]}
viewer.close()
print(json.dumps(found))
"""
    found = napari(script, written(tmp_path / "cell.ome.tif"))
    assert [one["name"] for one in found["layers"]] == ["cell a", "cell b"]
    assert found["layers"][0]["scale"] == list(VOXEL_UM)
    assert found["layers"][0]["units"] == ["micrometer"] * 3
    assert found["last"] == 119
    assert found["model"] == "m"
    assert found["widgets"] == ["live-restore"]


# The reader, without napari


def test_only_our_own_files_are_read(tmp_path):
    from live_restore.viewer.napari_plugin.reader import get_reader

    ours = str(written(tmp_path / "ours.ome.tif"))
    theirs = tmp_path / "theirs.ome.tif"
    data = np.zeros((1, 1, 2, 4, 5), "u2")
    write_ome_tiff(theirs, data, data.shape, data.dtype, None, ("a",), {})
    broken = tmp_path / "broken.ome.tif"
    broken.write_bytes(b"II*\0nothing")
    assert get_reader(str(theirs)) is None
    assert get_reader(str(broken)) is None
    assert get_reader([ours, str(theirs)]) is None
    assert get_reader([]) is None
    layers = get_reader([ours, ours])([ours, ours])
    assert [about["name"] for _, about, _ in layers] == ["ours a", "ours b"] * 2


def test_without_napari_the_command_says_how_to_get_it(monkeypatch, capsys):
    from live_restore.cli.main import main
    from live_restore.viewer import napari_plugin

    monkeypatch.setattr(napari_plugin, "find_spec", lambda _: None)
    assert main(["view", "--napari"]) == 3
    assert "pip install" in capsys.readouterr().err
