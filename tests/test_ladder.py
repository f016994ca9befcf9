"""``live-restore ladder``: on a real core with its demonstration camera, and again on stacks that were taken before."""

import json
import re
import signal
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from live_restore.characterize.ladder_folder import LadderCard, LadderFolder, TakenStack
from live_restore.characterize.ladder_taking import plan_ladder
from live_restore.cli.main import main
from live_restore.errors import SinkError, SourceError
from live_restore.guard.camera import find_camera
from live_restore.guard.envelope import Envelope
from live_restore.profile import AcquisitionSource, DoseSettings
from live_restore.simulation.microscope import SimulatedMicroscope
from live_restore.sources.variation import Variation, borrowed_light
from tests.test_exposure_ladder import VOXEL, ladder

# Its light is even noise: nothing in it is a specimen, so that a ladder has to say so. The photon flux is a laser.
DEMO_CAMERA = """
[source]
kind = "acquisition"
channels = ["DAPI", "FITC"]
exposure_ms = [8.0, {exposure}]
num_slices = 3
num_times = 7
z_step_um = 0.3
pixel_size_um = 0.1

[source.properties]
"Camera-PixelType" = "16bit"
"Camera-Mode" = "Noise"
"Camera-Photon Flux" = "20"
"Camera-Photon Conversion Factor" = "0.5"
"Camera-ReadNoise (electrons)" = "4.0"

[guard]
camera = "demo"

[model]
device = "cpu"
"""


@pytest.fixture(autouse=True)
def camera_folder(tmp_path_factory, monkeypatch):
    """Where calibrations are known by name, for this test alone."""
    folder = tmp_path_factory.mktemp("cameras")
    monkeypatch.setenv("LIVE_RESTORE_CAMERAS", str(folder))
    return folder


@pytest.fixture
def profile(tmp_path):
    path = tmp_path / "demo.toml"
    path.write_text(DEMO_CAMERA.format(exposure=4.0), encoding="utf-8")
    return path


def start(profile, output, *arguments):
    command = [
        sys.executable,
        "-m",
        "live_restore",
        "ladder",
        str(profile),
        "--yes",
        "--output",
        str(output),
    ]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_real_core_is_climbed_low_to_high_and_back(tmp_path, profile):
    """Exposures, the light given back after each, stacks, a calibration; and no envelope of noise."""
    pytest.importorskip("mm_test_adapters")
    output = tmp_path / "ladder"
    process = start(
        profile, output, "--channel", "FITC", "--exposures", 16, 1, 4, "--camera", "dc", "--dark-exposure", 0.01
    )  # fmt: skip
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 3, said
    # (1 + 4 + 16 + 1) / 4, twice.
    assert "11.0 times that of one normal stack (4 ms)" in said
    assert "no signal to restore" in said
    assert "--again" in said
    card = LadderFolder.open(output).card
    assert (card.channel, card.fields, card.reference) == ("FITC", ("0",), 4.0)
    assert card.voxel_size_um == (0.3, 0.1, 0.1)
    taken = [(one.kind, one.asked, one.stood_at) for one in card.stacks if one.repeat == 0]
    dark = [("dark", 0.01, 0.01)] * 2
    assert taken == [*dark, ("step", 1, 1), ("step", 4, 4), ("step", 16, 16), ("bracket", 1, 1)]
    assert len(card.stacks) == 2 * len(taken)
    # What it stood at before each step is the user's own: it had been given back after the one before.
    assert {one.own for one in card.stacks} == {10.0}
    (field,) = LadderFolder.open(output).fields()
    assert [step.stacks[0].shape for step in field.steps] == [(3, 512, 512)] * 3
    means = [float(np.mean(step.stacks)) for step in (*field.steps, field.bracket)]
    # 20 photons per millisecond over a conversion factor of 0.5.
    np.testing.assert_allclose(means, [100 + 40 * ms for ms in (1, 4, 16, 1)], rtol=0.02)
    made = find_camera("dc")
    assert made.gain == pytest.approx(2.0, abs=4 * made.gain_error * 2)
    assert (output / "camera.png").is_file()
    assert not (output / "ladder.envelope").exists()


@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_a_property_is_given_back_when_it_is_stopped_or_killed(tmp_path, profile, name):
    """The acquiring process says what it read back; it outlives a program that was killed."""
    pytest.importorskip("mm_test_adapters")
    profile.write_text(DEMO_CAMERA.format(exposure=400.0), encoding="utf-8")
    output = tmp_path / "ladder"
    steps = ["--channel", "FITC", "--property", "Camera-Photon Flux", "--values", "2", "5"]
    with start(profile, output, *steps, "--repeats", 1) as process:
        said = []
        for line in process.stdout:  # until the acquiring process, which has the same, ends too
            said.append(line)
            if "acquiring" in line and sum("acquiring" in one for one in said) == 2:
                process.send_signal(getattr(signal, name))
    said = "".join(said)
    assert process.returncode == (130 if name == "SIGINT" else -9), said
    assert len(re.findall("Camera-Photon Flux is at 20 again", said)) == 2, said
    taken = LadderFolder.open(output).card.stacks
    assert [(one.asked, one.stood_at, one.own) for one in taken] == [(2, 2, 20)]
    if name == "SIGINT":
        assert "stopped; 1 stacks are in" in said
        assert "Traceback" not in said


class FakeCore:
    """As Micro-Manager's core, with one laser."""

    def __init__(self, preset_sets=False, follows=True):
        self.preset_sets, self.follows, self.value, self.exposure = (
            preset_sets,
            follows,
            "10.0",
            20.0,
        )

    def get_property(self, device, name):
        return self.value

    def set_property(self, device, name, text):
        if float(text) > 50:
            raise RuntimeError("out of range")
        self.value = text if self.follows else self.value

    def wait_for_device(self, device):
        return None

    def is_property_read_only(self, device, name):
        return False

    def get_property_type(self, device, name):
        return 2

    def has_property_limits(self, device, name):
        return device == "Laser"

    def get_property_lower_limit(self, device, name):
        return 2.0

    def get_property_upper_limit(self, device, name):
        return 50.0

    def get_camera_device(self):
        return "Camera"

    def get_exposure(self):
        return self.exposure

    def set_exposure(self, value):
        self.exposure = value

    def get_config_data(self, group, preset):
        return self

    def is_property_included(self, device, name):
        return self.preset_sets


SOURCE = AcquisitionSource.model_validate({"kind": "acquisition", "channels": ("DAPI",)})


@pytest.mark.parametrize("error", [None, RuntimeError("camera unplugged"), KeyboardInterrupt()])
def test_light_is_given_back_whatever_happens(error):
    core, told = FakeCore(), []
    variation = Variation(5.0, None, "Laser-Power", 30.0)
    expected = pytest.raises(type(error)) if error else nullcontext()
    word = variation.as_word()
    with expected, borrowed_light(core, SOURCE, Variation.from_word(word), told.append):
        core.exposure = 5.0
        assert core.value == "30"
        if error:
            raise error
    assert (float(core.value), core.exposure) == (10.0, 20.0)
    if error is None:
        assert [(one.channel, one.value, one.own) for one in told] == [
            ("DAPI", 5, 20),
            ("", 30, 10),
        ]


@pytest.mark.parametrize(
    ("core", "value", "expected"),
    [
        (FakeCore(preset_sets=True), 30.0, "the preset 'DAPI' of 'Channel' sets it too"),
        (FakeCore(follows=False), 30.0, "set to 30, it stands at 10"),
        (FakeCore(), 80.0, "can't be set to 80"),
    ],
)
def test_light_that_cannot_be_set_is_refused(core, value, expected):
    variation = Variation(None, None, "Laser-Power", value)
    with (
        pytest.raises(SourceError, match=re.escape(expected)),
        borrowed_light(core, SOURCE, variation, print),
    ):
        pass
    assert float(core.value) == 10.0


def test_a_plan_protects_the_specimen():
    source = SOURCE.model_copy(update={"exposure_ms": 80.0, "positions": (), "num_times": 100})
    plan = plan_ladder(source, DoseSettings(), None, 2, 6)
    assert plan.values[0] == 5.0
    assert plan.values[-1] == 80.0
    assert len(plan.values) == 6
    assert plan.settings.num_times == 2
    assert plan.dose_of_a_field == pytest.approx(4.66, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["watched-folder", "--camera", "c"], 'kind = "acquisition"', id="folder"),
        pytest.param(["micromanager", "--camera", "c"], 'backend = "java"', id="follower"),
        pytest.param(["democam"], "Give --camera NAME", id="no camera"),
        pytest.param(["democam", "--camera", "c", "--repeats", "1"], "--repeats 2", id="repeats"),
        pytest.param(["democam", "--camera", "c", "--values", "1"], "belong together", id="values"),
        pytest.param(["democam", "--camera", "c", "--exposures", "1"], "two different", id="one"),
        pytest.param(["democam", "--camera", "c", "--no-dark"], "--offset", id="no dark"),
        pytest.param(["democam", "--camera", "c", "--channel", "X"], "DAPI, FITC", id="channel"),
        pytest.param(
            ["democam", "--camera", "c", "--property", "A-b", "--values", "1", "2", "--exposures", "3"],
            "not both",
            id="both",
        ),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_mistake(arguments, expected, capsys):
    assert main(["ladder", *arguments, "--yes"]) == 2
    assert expected in capsys.readouterr().err


def save(path, field):
    """As the microscope would have left it."""
    card = LadderCard(
        control="exposure", reference=10.0, channel="DAPI", fields=("0",), voxel_size_um=VOXEL
    )
    folder = LadderFolder.create(path, card)
    dark = SimulatedMicroscope().camera.expose(np.zeros((10, 96, 96)), np.random.default_rng(0))
    everything = [("dark", 0, 0.01, [dark])]
    everything += [("step", i, step.value, step.stacks) for i, step in enumerate(field.steps)]
    everything += [("bracket", 0, field.bracket.value, field.bracket.stacks)]
    for kind, step, value, stacks in everything:
        for repeat, counts in enumerate(stacks):
            taken = TakenStack(
                file=f"{kind}{step}_{repeat}.ome.tif", kind=kind, field=0, step=step, repeat=repeat,
                asked=value, stood_at=value, own=10.0,
            )  # fmt: skip
            folder.add(taken, counts)
    return path


def test_stacks_that_were_taken_become_camera_envelope_advice_and_picture(
    tmp_path, profile, capsys
):
    """Two ladders together: two fields, one of which bleached away and isn't used."""
    good = save(tmp_path / "monday", ladder(0.02, doses=(1 / 8, 1.0), peak=300.0))
    gone = save(tmp_path / "tuesday", ladder(0.3, doses=(1 / 8, 1.0), peak=300.0, seed=8))
    report = tmp_path / "report"
    arguments = ["--again", good, gone, "--camera", "scope", "--report", report, "--json"]
    assert main(["ladder", str(profile), *map(str, arguments)]) == 0
    heard = capsys.readouterr()
    told = json.loads(heard.out)
    (channel,) = told["channels"]
    assert channel["enough"] == pytest.approx(1.25)
    assert [one["field"] for one in told["fields"]] == ["monday"]
    assert told["coverage"] is None
    assert any("tuesday: the specimen bleached" in one for one in told["warnings"])
    assert "1.25 ms is enough, 8.0 times less light than a normal stack's 10 ms" in heard.err
    assert 'camera = "scope"' in heard.err
    envelope = Envelope.load(report / "ladder.envelope")
    assert envelope.card.truth == "matched stacks"
    assert envelope.card.camera == find_camera("scope")
    assert (envelope.card.num_acquisitions, envelope.card.specimens[0].channel) == (1, "DAPI")
    assert envelope.card.voxel_size_um == VOXEL
    names = sorted(one.name for one in report.iterdir())
    assert names == ["camera.png", "ladder.envelope", "ladder.png", "report.json"]
    assert (report / "ladder.png").read_bytes().startswith(b"\x89PNG")


def test_folders_that_are_none_or_taken_are_refused(tmp_path, profile, capsys):
    assert main(["ladder", str(profile), "--again", str(tmp_path)]) == 3
    assert "isn't a ladder's" in capsys.readouterr().err
    path = tmp_path / "one"
    path.mkdir()
    (path / "ladder.json").write_text("{}", encoding="utf-8")
    card = LadderCard(
        control="exposure", reference=1.0, channel="", fields=("0",), voxel_size_um=None
    )
    with pytest.raises(SinkError, match="holds a ladder already"):
        LadderFolder.create(path, card)
