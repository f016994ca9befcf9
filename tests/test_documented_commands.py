"""Each command of README and docs is executed: as it stands there, but for what its story says."""

import threading
import zipfile
from contextlib import contextmanager
from importlib.util import find_spec
from urllib.request import urlopen

import pytest
import tifffile

from live_restore.cli.status import ask_daemon
from live_restore.client import ClientKeys
from live_restore.guard.camera import find_camera
from live_restore.guard.envelope import Envelope
from live_restore.keys import KeyFolder, default_key_folder
from live_restore.record import open_ledger
from live_restore.restore.model import load_model
from tests.conftest import wait_for
from tests.documented import (
    Story,
    Workspace,
    camera,
    daemon,
    dask_cluster,
    documented,
    earlier_ladders,
    failed_volume,
    folder,
    frames,
    in_a_window,
    in_its_own,
    keys,
    micro_manager,
    model,
    no_keys,
    profile,
    raw_stack,
    specimens,
    stacks,
    step,
    until,
)

# What they leave


@step
def opens(at, file):
    """A restored volume of ours."""
    with tifffile.TiffFile(at.folder / file) as tiff:
        assert tiff.asarray().shape == (6, 48, 48)
        assert 'K="model">' in tiff.ome_metadata


@step
def has(at, *files):
    """Files that aren't empty."""
    for file in files:
        assert (at.folder / file).stat().st_size


@step
def is_model(at, file):
    assert load_model(at.folder / file).card.name == file.removesuffix(".safetensors")


@step
def is_envelope(at, file, num_fields):
    assert Envelope.load(at.folder / file).card.num_acquisitions == num_fields


@step
def is_profile(at, file, kind):
    assert at.settings(file).source.kind == kind


@step
def is_camera(at, name, gain, within=0.05):
    """A calibration, with the gain that its frames were made with."""
    assert find_camera(name).gain == pytest.approx(gain, rel=within)


@step
def allowed(at, **roles):
    """Who may connect as what, and the files of keys are this daemon's."""
    folder = KeyFolder(default_key_folder())
    assert {one.name: one.role for one in folder.clients()} == roles
    for file in at.folder.glob("*.keys"):
        assert ClientKeys.load(file).server == folder.public()


def has_author(at):
    with zipfile.ZipFile(at.folder / "mitochondria.zip") as package:
        assert b"A. Author" in package.read("rdf.yaml")


def has_ended(at):
    at.daemon.join(60)
    assert not at.daemon.is_alive()


def page_opens(found):
    with urlopen(found[1], timeout=60) as page:
        assert b"<html" in page.read().lower()


@step
def uses_the_default_model(at, file):
    told = lambda: ask_daemon(at.settings(file))["model"]["name"]  # noqa: E731
    wait_for(lambda: told() == "demonstration-denoiser", "the other model")


# What they find

TINY = {'path = "default"': "path = '{tiny}'"}  # an untrained model
SMALL = TINY | {"[24, 144, 144]": "[6, 48, 48]", "interval_s = 4.0": "interval_s = 0.2"}
KEYS = {"[publish]": '[publish]\nkeys = "default"'}
MY_FOLDER = (folder("today"), stacks("today/cell.ome.tif"), profile("my.toml", "watched-folder"))
MY_SCOPE = (profile("scope.toml", "micromanager"),)
SIMULATED = (profile("small.toml", "demo", SMALL),)
WITH_KEYS = (keys(), profile("profile.toml", "demo", SMALL | KEYS))

# Micro-Manager's demonstration camera. NOISE is even light, which bears a calibration and holds no specimen. The light
# of WAVES is that of the exposure, and they repeat after eight images, a stack; that of BEADS is a property, 8 at most.
PIXELS = '"Camera-PixelType" = "16bit"\n'
CAMERA = PIXELS + '"Camera-OnCameraCCDXSize" = "64"\n"Camera-OnCameraCCDYSize" = "64"\n'
NOISE = CAMERA + (
    '"Camera-Mode" = "Noise"\n"Camera-Photon Flux" = "20"\n'
    '"Camera-Photon Conversion Factor" = "0.5"\n"Camera-ReadNoise (electrons)" = "4.0"\n'
)
WAVES = CAMERA + '"Camera-Mode" = "Artificial Waves"\n'
BEADS = CAMERA + (
    '"Camera-Mode" = "Fluorescent Beads"\n"Camera-BeadBrightness" = "8"\n'
    '"Camera-BeadSize" = "4"\n"Camera-BeadDensity" = "100"\n'
)
GUARD = {"# [guard]": "[guard]", '# camera = "my-camera"': 'camera = "demo"'}
DOSE = '[dose]\ncontrol = "dry-run"\ndevice_property = "exposure"\nleast = 2.0\ninterval_s = 30\n'


def democam(file, scene, more=None, exposure_ms=80.0, num_times=1):
    changes = {
        'channels = ["DAPI", "FITC"]': 'channels = ["DAPI"]',
        "num_slices = 10": "num_slices = 8",
        "exposure_ms = 10.0": f"exposure_ms = {exposure_ms}",
        "num_times = 3": f"num_times = {num_times}",
        "interval_s = 1.0": "interval_s = 0.02",
        PIXELS: scene,
    }
    return profile(file, "democam", changes | (more or {}))


MY_CAMERA = (democam("my.toml", NOISE),)
DOSED = (keys(), democam("profile.toml", NOISE + DOSE, TINY | GUARD | KEYS, 10.0, 5000))

# What runs beside them


@contextmanager
def saving(at):
    """Somebody saves series of exposures, into another folder first, so that each is whole when it appears."""
    frames(dark=0, light_1=50, light_2=100, light_3=400)(Workspace(at.folder / "other", at.model))

    def save():
        for file in sorted((at.folder / "other").iterdir()):
            file.rename(at.folder / "calibration" / file.name)

    thread = threading.Thread(target=save)
    thread.start()
    yield
    thread.join()


def is_written(at, told):
    with open_ledger(at.settings("my.toml")) as ledger:
        return ledger.counts().written == 1


def knows_its_light(at, told):
    return (told.get("dose") or {}).get("lights")


@step
def wants_the_default_model(at, file):
    text = (at.folder / file).read_text(encoding="utf-8")
    text = text.replace(f"'{at.model.path.as_posix()}'", '"default"')
    (at.folder / file).write_text(text, encoding="utf-8")


SHOWS_LAYERS = {"runs": in_a_window, "says": (str([[6, 48, 48]] * 4),)}
LACKS_NAPARI = {"ends": 3, "says": ('pip install "live-restore[napari]"',)}

ORCA = 'live-restore calibrate --camera "Orca Flash" --mode "16 bit, slow scan"'
STORIES = {
    # README, index
    "live-restore demo": Story(more="--volumes 2 --rungs 1", says=("Restoration gains", "watched-folder")),
    "live-restore run demo": Story(
        finds=(profile("demo.toml", "demo"),), instead={"run demo": "run demo.toml"},  # on ports that are free
        more="--verbose", runs=until("restored in"), says=("done: volumes",),
    ),
    "live-restore restore stacks/ --output restored/": Story(
        finds=(stacks("stacks/cell.tif"),), leaves=(opens("restored/cell.ome.tif"),),
    ),
    "live-restore profiles watched-folder > my.toml": Story(leaves=(is_profile("my.toml", "folder"),)),
    "live-restore check my.toml": Story(finds=MY_FOLDER, says=(" ok ",)),
    "live-restore run my.toml": Story(
        finds=MY_FOLDER, more="--verbose", runs=until("restored in"), says=("done: volumes",),
        leaves=(opens("today-restored/cell.ome.tif"),),
    ),
    "live-restore profiles micromanager > scope.toml": Story(leaves=(is_profile("scope.toml", "micromanager"),)),
    "live-restore check scope.toml": Story(finds=MY_SCOPE, beside=micro_manager, says=(" ok ",)),
    "live-restore run scope.toml": Story(
        finds=MY_SCOPE, beside=micro_manager, more="--verbose", runs=until("restored in"), says=("done: volumes",),
    ),
    "live-restore view": Story(
        finds=SIMULATED, beside=daemon("small.toml"), more="{data} --control {control} --port 0",
        runs=until(r"opened (http://127.0.0.1:\d+\S*)", page_opens, BROWSER="echo opened %s"), says=("Ctrl-C ends",),
    ),
    "live-restore listen": Story(
        finds=SIMULATED, beside=daemon("small.toml"), more="{data} --count 1", says=("(6, 48, 48) uint16",),
    ),
    "live-restore import-model weights_243_0.0021.hdf5 mine.safetensors": Story(
        finds=(model("weights_243_0.0021.hdf5", "keras"),), leaves=(is_model("mine.safetensors"),),
    ),
    "live-restore train --low data/low --high data/high --output mine.safetensors": Story(
        finds=(specimens("data/low", "data/high"),), more="--network tiny --epochs 1 --steps-per-epoch 1 --device cpu",
        says=("psnr_restored_db",), leaves=(is_model("mine.safetensors"), has("mine.csv")),
    ),
    "live-restore evaluate mine.safetensors --low test/low --high test/high --output report/": Story(
        finds=(model("mine.safetensors"), specimens("test/low", "test/high")), says=("2 fields of view", "restored"),
        leaves=(has("report/evaluation.csv", "report/evaluation.json", "report/evaluation.png"),),
    ),
    'live-restore calibrate --camera "my camera" --dark dark.tif --light light_10ms.tif light_40ms.tif': Story(
        finds=(frames(dark=0, light_10ms=100, light_40ms=400),), says=('camera = "my-camera"',),
        leaves=(is_camera("my-camera", 0.46),),
    ),
    "live-restore characterize mine.safetensors --stacks high_dose/ --camera my-camera --report report/": Story(
        finds=(model("mine.safetensors", "default"), specimens(high="high_dose", num=1), camera("my camera")),
        leaves=(is_envelope("mine.envelope", 1), has("report/report.html")),
    ),
    'live-restore ladder my.toml --camera "my camera"': Story(
        finds=MY_CAMERA, more="--steps 2 --dark-exposure 0.01 --output taken --yes",  # its light can't be turned off
        ends=3, says=("no signal to restore", "ladder my.toml --again taken"),  # with signal: --exposures, --property
        leaves=(is_camera("my-camera", 2.0), has("taken/ladder.json", "taken/camera.png")),
    ),
    "live-restore bench --shape 64,512,512": Story(
        more="--shape 4,48,48 --repeats 1", says=("Your microscope may acquire",),
    ),
    # docs/calibration.md
    f"{ORCA} --dark dark.tif --light light_10ms.tif light_50ms.tif": Story(
        finds=(frames(dark=0, light_10ms=80, light_50ms=400),), says=('camera = "orca-flash-16-bit-slow-scan"',),
        leaves=(is_camera("orca-flash-16-bit-slow-scan", 0.46),),
    ),
    f"{ORCA} --folder calibration --levels 3": Story(
        finds=(folder("calibration"),), beside=saving, says=("light_3.tif, 4 frames",),
        leaves=(is_camera("orca-flash-16-bit-slow-scan", 0.46),),
    ),
    f"{ORCA} --profile my.toml --exposures 5 10 20 40": Story(
        finds=MY_CAMERA, more="--dark-exposure 0.01 --frames 4 --yes",
        leaves=(is_camera("orca-flash-16-bit-slow-scan", 2.0),),
    ),
    'live-restore calibrate --camera "unknown" --stack raw.tif --read-noise 1.6': Story(
        finds=(raw_stack,), says=("An estimate from one stack",), leaves=(is_camera("unknown", 2.17, 0.15),),
    ),
    # docs/dose-control.md
    "live-restore dose status profile.toml": Story(
        finds=DOSED, beside=daemon("profile.toml", knows_its_light),
        says=("dose control: dry-run", "exposure of DAPI: 10"),
    ),
    "live-restore dose off profile.toml": Story(
        finds=DOSED, beside=daemon("profile.toml", knows_its_light), says=("your own light comes back",),
    ),
    "live-restore dose on profile.toml": Story(
        finds=DOSED, beside=daemon("profile.toml", knows_its_light), says=("dose control is on (dry-run)",),
    ),
    # docs/files.md
    "live-restore status my.toml": Story(
        finds=MY_FOLDER, beside=daemon("my.toml", is_written), says=("watching", "model: demonstration-denoiser"),
    ),
    "live-restore retry my.toml": Story(finds=(*MY_FOLDER, failed_volume), says=("1 volumes are restored again",)),
    "live-restore restore archive/ --output restored/": Story(
        finds=(stacks("archive/a/cell.tif", "archive/b/c/cell.tif"),),
        leaves=(opens("restored/a/cell.ome.tif"), opens("restored/b/c/cell.ome.tif")),
    ),
    "live-restore restore archive/ --output restored/ --scheduler local": Story(
        finds=(stacks("archive/a/cell.tif"),), more="--workers 1", runs=in_its_own,
        leaves=(opens("restored/a/cell.ome.tif"),),
    ),
    "live-restore restore archive/ --output restored/ --scheduler tcp://host:8786": Story(
        finds=(stacks("archive/a/cell.tif"),), instead={"tcp://host:8786": "{scheduler}"}, beside=dask_cluster,
        runs=in_its_own, leaves=(opens("restored/a/cell.ome.tif"),),
    ),
    # docs/keys.md
    "live-restore keys init": Story(finds=(no_keys,), says=('keys = "default"',), leaves=(allowed(),)),
    "live-restore keys add alice": Story(finds=(keys(),), leaves=(allowed(alice="viewer"), has("alice.keys"))),
    "live-restore listen tcp://microscope:5556 --keys alice.keys": Story(
        finds=(keys("alice"), *WITH_KEYS[1:]), instead={"tcp://microscope:5556": "{data}"},
        beside=daemon("profile.toml"), more="--count 1", says=("(6, 48, 48) uint16",),
    ),
    "live-restore keys add here": Story(finds=(keys(),), leaves=(allowed(here="viewer"), has("here.keys"))),
    "live-restore view --keys here.keys": Story(
        finds=(keys("here"), *WITH_KEYS[1:]), beside=daemon("profile.toml"),
        more="{data} --control {control} --port 0",
        runs=until(r"opened (http://127.0.0.1:\d+\S*)", page_opens, BROWSER="echo opened %s"), says=("Ctrl-C ends",),
    ),
    "live-restore keys add camera-pc --role sender": Story(
        finds=(keys(),), leaves=(allowed(**{"camera-pc": "sender"}), has("camera-pc.keys")),
    ),
    "live-restore keys list": Story(finds=(keys("alice"),), says=("(this daemon)", "alice")),
    "live-restore keys remove alice": Story(finds=(keys("alice", "bob"),), leaves=(allowed(bob="viewer"),)),
    "live-restore reload profile.toml": Story(
        finds=WITH_KEYS, beside=daemon("profile.toml", then=wants_the_default_model("profile.toml")),
        says=("loading model",), leaves=(uses_the_default_model("profile.toml"),),
    ),
    "live-restore drain profile.toml": Story(
        finds=WITH_KEYS, beside=daemon("profile.toml"), says=("nothing more is taken",), leaves=(has_ended,),
    ),
    # docs/ladder.md
    'live-restore ladder my.toml --camera "Orca Flash" --mode "16 bit, slow scan"': Story(
        finds=MY_CAMERA, more="--steps 2 --dark-exposure 0.01 --output taken --yes",
        ends=3, says=("no signal to restore", "ladder my.toml --again taken"),
        leaves=(is_camera("orca-flash-16-bit-slow-scan", 2.0), has("taken/ladder.json")),
    ),
    "live-restore ladder my.toml --exposures 2 5 12 30 80 --repeats 3": Story(
        finds=(democam("my.toml", WAVES, GUARD),), more="--output taken --yes", says=("is enough",),
        leaves=(is_envelope("taken/ladder.envelope", 1), has("taken/ladder.png")),
    ),
    'live-restore ladder my.toml --property "Laser-Power" --values 1 2 5 10 20': Story(
        finds=(democam("my.toml", BEADS, GUARD),),
        instead={"Laser-Power": "Camera-BeadBrightness", "5 10 20": "4 8"}, more="--output taken --yes",
        says=("is enough",), leaves=(is_envelope("taken/ladder.envelope", 1), has("taken/ladder.png")),
    ),
    "live-restore ladder my.toml --again ladder-monday ladder-tuesday --report together": Story(
        finds=(democam("my.toml", NOISE, GUARD), earlier_ladders), says=("is enough",),
        leaves=(is_envelope("together/ladder.envelope", 2), has("together/ladder.png")),
    ),
    # docs/models.md
    "live-restore import-model weights_250_0.0123.hdf5 mitochondria.safetensors": Story(
        finds=(model("weights_250_0.0123.hdf5", "keras"),), leaves=(is_model("mitochondria.safetensors"),),
    ),
    "live-restore restore stacks/ --model mitochondria.safetensors --output restored/": Story(
        finds=(stacks("stacks/cell.tif"), model("mitochondria.safetensors")), leaves=(opens("restored/cell.ome.tif"),),
    ),
    'live-restore export-model mitochondria mitochondria.zip --author "A. Author"': Story(
        finds=(model("models/mitochondria.safetensors"),), leaves=(has_author,),
    ),
    # docs/operations.md
    "live-restore doctor my.toml": Story(
        finds=MY_FOLDER, beside=daemon("my.toml", is_written), says=("```\n[program]", "somebody listens", "1 seen"),
    ),
    "live-restore reload my.toml": Story(
        finds=(keys(), profile("my.toml", "demo", SMALL | KEYS)),
        beside=daemon("my.toml", then=wants_the_default_model("my.toml")),
        says=("loading model",), leaves=(uses_the_default_model("my.toml"),),
    ),
    # docs/trust.md
    "live-restore characterize mine.safetensors --stacks high_dose/ --camera orca-flash-16-bit-slow-scan "
    "--report report/": Story(
        finds=(
            model("mine.safetensors", "default"), specimens(high="high_dose", num=1), camera("Orca Flash", "16 bit, slow scan")
        ),
        says=('camera = "orca-flash-16-bit-slow-scan"', 'envelope = "default"'),
        leaves=(is_envelope("mine.envelope", 1), has("report/report.html")),
    ),
    "live-restore characterize mine.safetensors --stacks low/ --truth noise_free/ --camera demo --channel nuclei "
    "--output nuclei.envelope --json": Story(
        finds=(model("mine.safetensors", "default"), specimens(high="low", truth="noise_free", num=1)),
        says=('"envelope": {',), leaves=(is_envelope("nuclei.envelope", 1),),
    ),
    # docs/viewer.md
    "live-restore view --napari": Story(
        finds=SIMULATED, beside=daemon("small.toml"), more="{data} --control {control}",
        **(SHOWS_LAYERS if find_spec("napari") else LACKS_NAPARI),
    ),
    "live-restore view --terminal": Story(
        finds=SIMULATED, beside=daemon("small.toml"), more="{data}", ends=130,
        runs=until("nuclei.*RED", FORCE_COLOR="1"),  # as on a terminal, where it is redrawn in place
    ),
}  # fmt: skip

# Commands that can't be executed without hardware that no test machine has, and which. No other reason counts.
NEED_HARDWARE: dict[str, str] = {}


@pytest.fixture
def workspace(tmp_path, tiny_model, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIVE_RESTORE_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("LIVE_RESTORE_CAMERAS", str(tmp_path / "cameras"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("COLUMNS", "200")
    return Workspace(tmp_path, tiny_model)


def test_each_documented_command_is_in_the_table_and_no_other():
    where, known = documented(), STORIES.keys() | NEED_HARDWARE.keys()
    untried = {one: files for one, files in where.items() if one not in known}
    assert untried == {}, "documented, and executed by no test: give it a story"
    assert known - where.keys() == set(), "not documented any more"
    assert not STORIES.keys() & NEED_HARDWARE.keys()


@pytest.mark.parametrize("command", STORIES, ids=str)
def test_it_does_what_the_docs_say(command, workspace):
    STORIES[command].execute(command, workspace)
