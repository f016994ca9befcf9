"""What light volumes and positions got."""

from dataclasses import replace

import tifffile

from live_restore.dose_control import DoseControl
from live_restore.light import Light
from live_restore.profile import DoseSettings, WriteSettings
from live_restore.sinks.streams import Streams
from live_restore.sinks.volume_frames import described
from live_restore.sinks.writer import Writer
from live_restore.volume import Plane
from tests.conftest import make_restored, make_volume


def test_a_position_s_dose_is_the_sum_of_all_its_channels_and_times():
    control = DoseControl(DoseSettings(power_property="Laser-Power"))
    lights = []
    for time, channel, power in ((0, "DAPI", 2.0), (0, "FITC", 3.0), (1, "DAPI", 2.0)):
        volume = make_volume(time=time, channel=channel)
        for z in range(3):
            plane = Plane(volume.key, z, volume.data[z], exposure_ms=10.0, power=power)
            control.plane(plane)
        restored = make_restored(replace(volume, exposure_ms=10.0, power=power))
        lights.append(control.restored(restored).light)
        control.settle(volume.key)
    assert [(one.dose, one.total) for one in lights] == [(60, 60), (90, 150), (60, 210)]
    assert lights[0].unit == "ms x Laser-Power"


def test_a_dose_of_which_something_is_unknown_is_unknown():
    control = DoseControl(DoseSettings())
    volume = make_volume()
    control.plane(Plane(volume.key, 0, volume.data[0], exposure_ms=10.0))
    control.plane(Plane(volume.key, 1, volume.data[1]))
    light = control.restored(make_restored(volume)).light
    assert (light.dose, light.total) == (None, None)


def test_light_travels_in_headers_and_files(tmp_path):
    light = Light(10.0, 2.5, "ms x Laser-Power", 75.0, 300.0, 0.5)
    restored = replace(make_restored(), light=light)
    header = described("s", "restored", Streams(2**20).keep(restored))
    assert header.light.model_dump() == {
        "exposure_ms": 10.0,
        "power": 2.5,
        "unit": "ms x Laser-Power",
        "dose": 75.0,
        "total": 300.0,
        "of_own": 0.5,
    }
    with Writer(WriteSettings(folder=tmp_path)) as writer:
        writer.send(restored)
    (file,) = tmp_path.glob("*.ome.tif")
    with tifffile.TiffFile(file) as tiff:
        for text in ("dose_of_position", "300", "light_of_own", "0.5", "ms x Laser-Power"):
            assert text in tiff.ome_metadata
