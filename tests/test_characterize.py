"""``live-restore characterize``: ladders, checks, the command and its report."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from live_restore.characterize.build import moved_errors
from live_restore.characterize.ladder import Pusher, Step, as_volume, blur_steps, doses_for
from live_restore.characterize.stacks import HighDose, read_stacks, survey, truth_kind
from live_restore.characterize.suitable import check_files, check_noise, check_stack
from live_restore.characterize.summary import bound_in_words, holding
from live_restore.cli.main import main
from live_restore.errors import CalibrationError, SourceError
from live_restore.guard.camera import find_camera
from live_restore.guard.envelope import Envelope, Rung, Specimen
from live_restore.profile import load_profile
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation import Camera, Optics
from live_restore.simulation import Specimen as Structure
from live_restore.simulation.microscope import photon_rate
from live_restore.simulation.specimen import Grid
from tests.conftest import live_restore

DEMO = find_camera("demo")
CAMERA = Camera()
VOXEL = (0.3, 0.13, 0.13)
NUM_FIELDS = 4


def light(seed, shape=(10, 40, 40), kind="nuclei", peak=300):
    """Photons per voxel, noise-free."""
    rate = photon_rate(((Structure(kind, 50 + seed, 1.5), 1.0),), Optics(), Grid(shape, VOXEL))
    return rate * np.float32(peak)


def expose(photons, seed=0):
    return CAMERA.expose(photons, np.random.default_rng(seed))


def write(path, data, um=VOXEL):
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("PhysicalSizeZ", "PhysicalSizeY", "PhysicalSizeX")
    metadata = {"axes": "ZYX", **dict(zip(names, um, strict=True))}
    tifffile.imwrite(path, data, ome=True, metadata=metadata)
    return path


def high_dose(counts, truth=None, name="cell", channel=""):
    return HighDose(name, name, channel, counts, truth, VOXEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Fields of view, raw and noise-free."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(NUM_FIELDS):
        photons = light(number)
        write(folder / "stacks" / f"cell_{number}.ome.tif", expose(photons, number))
        write(folder / "truth" / f"cell_{number}.ome.tif", CAMERA.expected_counts(photons))
    return folder


@pytest.fixture(scope="module")
def pusher():
    return Pusher(DEMO)


@pytest.fixture(scope="module")
def restorer(pusher):
    with RcanRestorer(load_model("default"), "cpu", "auto", "float32", examiner=pusher) as made:
        yield made


# The command


@pytest.fixture(scope="module")
def characterized(folder, tmp_path_factory):
    """What the command said and wrote."""
    output = tmp_path_factory.mktemp("made")
    done = live_restore(
        "characterize", "default", "--stacks", folder / "stacks", "--camera", "demo",
        "--channel", "nuclei", "--output", output / "mine.envelope", "--report", output / "report",
        "--device", "cpu", "--json", timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done, output


def test_the_envelope_is_written_and_says_what_was_found(characterized):
    done, output = characterized
    told = json.loads(done.stdout)
    envelope = Envelope.load(output / "mine.envelope")
    assert told["envelope"] == envelope.card.model_dump(mode="json")
    (specimen,) = envelope.card.specimens
    assert (specimen.channel, specimen.num_acquisitions) == ("nuclei", NUM_FIELDS)
    assert envelope.card.model_sha256 == load_model("default").sha256
    assert envelope.card.camera == DEMO
    assert not envelope.card.sharpens
    assert set(envelope.likeness) == {"nuclei"}
    # Too few fields for a coverage: said, and none is stated.
    assert (envelope.card.num_acquisitions, envelope.coverage) == (NUM_FIELDS, None)
    assert "no coverage can be stated" in done.stderr
    assert told["coverage"] is None
    ladder = specimen.photon_ladder
    assert [rung.signal for rung in ladder] == sorted((r.signal for r in ladder), reverse=True)
    assert ladder[0].nrmse < 0.2 < 0.35 < ladder[-1].nrmse
    blurs = specimen.blur_ladder
    assert [rung.blur for rung in blurs] == [0.7, 1.0, 1.5, 2.0, 3.0]
    assert [rung.nrmse for rung in blurs] == sorted(rung.nrmse for rung in blurs)
    # ... which the estimate doesn't see: at the strongest blur it is far too low.
    assert blurs[-1].estimate < 0.7 * blurs[-1].nrmse


def test_it_ends_with_what_holds_and_with_the_profile(characterized, tmp_path):
    done, output = characterized
    said = " ".join(done.stderr.split())
    assert "photoelectrons true NRMSE worst tenth guard says flagged" in said
    assert "photoelectrons per voxel for an NRMSE of 0.35" in said
    assert "Blur isn't seen by the error estimate" in said
    profile = tmp_path / "my.toml"
    pasted = done.stderr[done.stderr.rindex("[guard]") :]
    profile.write_text('[source]\nkind = "simulated"\n' + pasted, encoding="utf-8")
    guard = load_profile(profile).guard
    assert (str(guard.camera), guard.target_nrmse) == ("demo", 0.35)
    assert guard.envelope == output / "mine.envelope"


def test_the_report_is_one_page_with_pictures(characterized):
    _, output = characterized
    names = {"light.png", "examples.png", "blur.png", "blur_examples.png", "bound.png"}
    assert {one.name for one in (output / "report").iterdir()} == {"report.html", *names}
    page = (output / "report" / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == len(names)
    words = re.sub(r"base64,[^\"]*", "", page)  # a picture's letters may spell anything
    assert "http" not in words  # needs nothing else
    for text in ("Blur isn&#x27;t seen", "photoelectrons", "no coverage can be stated", "nuclei"):
        assert text in page
    for name in names:
        from matplotlib.image import imread

        height, width, _ = imread(output / "report" / name).shape
        assert 300 < height < 2000
        assert 700 < width < 2000


@pytest.mark.parametrize(
    ("arguments", "code", "expected"),
    [
        pytest.param([], 2, "--output FILE.envelope", id="shipped model"),
        pytest.param(["--output", "."], 2, "is a folder", id="folder"),
        pytest.param(["--output", "stacks/a.tif/x"], 2, "can't be written", id="in a file"),
        pytest.param(["--target", "35"], 2, "between 0 and 1", id="target"),
        pytest.param(["--output", "o", "--report", "stacks/a.tif"], 2, "is a file", id="report"),
        pytest.param(["--output", "o", "--camera", "none"], 3, "live-restore calibrate", id="cam"),
        pytest.param(["--output", "o", "--stacks", "gone"], 3, "no such file", id="no stacks"),
        pytest.param(["--output", "o", "--truth", "empty"], 3, "holds no TIFF file", id="truth"),
        pytest.param(["--output", "o", "--stacks", "8bit.tif"], 3, "8 bit", id="8 bit"),
    ],
)
def test_what_cannot_be_done_is_said_at_once(
    arguments, code, expected, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "stacks" / "a.tif", np.full((8, 32, 32), 400, "u2"))
    write(tmp_path / "8bit.tif", np.full((8, 32, 32), 100, "u1"))
    (tmp_path / "empty").mkdir()
    usual = ["characterize", "default", "--stacks", "stacks", "--camera", "demo"]
    assert main([*usual, *arguments]) == code
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# The truth


def test_unseen_light_tells_the_error_to_a_noise_free_truth(pusher, restorer):
    photons = light(1, (16, 64, 64), "filaments")
    counts, truth = expose(photons), CAMERA.expected_counts(photons)
    doses = doses_for(high_dose(counts), DEMO)[1:6:2]
    steps = [*map(Step, doses), *blur_steps(doses, 100)[1:5:3]]
    found = [
        [one.nrmse for one in pusher.push(restorer, high_dose(counts, known), steps)]
        for known in (None, truth)
    ]
    # 65,536 voxels: the standard error of NRMSE² is 0.002 at the brightest step, of 0.02.
    np.testing.assert_allclose(found[0], found[1], rtol=0.06)
    assert found[1][0] < found[1][1] < found[1][2]
    assert found[1][3] < found[1][4]


def test_a_second_exposure_is_a_truth_as_well(pusher, restorer):
    photons = light(1)
    counts, truth = expose(photons, 1), CAMERA.expected_counts(photons)
    steps = [Step(0.1), Step(0.03)]
    found = [
        [one.nrmse for one in pusher.push(restorer, high_dose(counts, known), steps)]
        for known in (expose(photons, 2), truth)
    ]
    # 16,000 voxels, and the noise of the second exposure.
    np.testing.assert_allclose(found[0], found[1], rtol=0.1)


# The ladder


def test_stacks_begin_their_ladders_at_different_places_within_a_step():
    stack = high_dose(expose(light(1)))
    ladders = np.array([doses_for(stack, DEMO, number) for number in range(8)])
    steps = np.diff(np.log(ladders), axis=1)
    np.testing.assert_allclose(steps, steps[0, 0])
    assert ladders.max() == pytest.approx(0.8)
    within = np.sort((np.log(ladders[0, 0]) - np.log(ladders[:, 0])) / -steps[0, 0])
    assert (np.diff(within) < 0.25).all()  # evenly: no gap of a quarter of a step
    assert within[-1] < 1


def test_the_worst_of_a_rung_are_not_those_with_the_least_light():
    rng = np.random.default_rng(0)
    signals = np.geomspace(3, 6, 24)
    scatter = np.exp(0.05 * rng.standard_normal(24))
    errors = 0.3 * np.sqrt(4 / signals) * scatter
    moved = moved_errors(signals, errors, 4.0)
    # The slope is found from errors that scatter by a twentieth.
    np.testing.assert_allclose(moved, 0.3 * scatter, rtol=0.03)
    same = np.full(24, 5.0)
    np.testing.assert_array_equal(moved_errors(same, errors, 5.0), errors)
    few = moved_errors(signals[:3], errors[:3], 4.0)
    np.testing.assert_array_equal(few, errors[:3])


# Reading


def test_stacks_have_names_fields_and_channels_of_their_own(tmp_path):
    data = np.arange(4 * 32 * 32, dtype="u2").reshape(4, 32, 32)
    for name in ("a/cell_t001.ome.tif", "a/cell_t002.ome.tif", "b/cell_t001.ome.tif"):
        write(tmp_path / name, data)
    write(tmp_path / "truth" / "cell_t001.ome.tif", data.astype("f4"))
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "a" / "cell_t001.ome.tif"]
    stacks = list(read_stacks(paths, channel="GFP"))
    assert len(stacks) == 3
    assert len({one.name for one in stacks}) == 3
    assert len({one.field_of_view for one in stacks}) == 2
    assert {one.channel for one in stacks} == {"GFP"}
    assert stacks[0].label.shape_zyx == (4, 32, 32)
    # What lies among the stacks as their truth is none of them.
    some = list(read_stacks([tmp_path / "b", tmp_path / "truth"], tmp_path / "truth"))
    assert [one.truth.dtype.kind for one in some] == ["f"]
    assert truth_kind(tmp_path / "truth") == "simulation"
    assert truth_kind(tmp_path / "a") == "matched stacks"
    assert truth_kind(None) == "unseen photons"


def test_of_several_channels_one_can_be_chosen(tmp_path):
    data = np.zeros((2, 4, 32, 32), "u2")
    metadata = {"axes": "CZYX", "Channel": {"Name": ["DAPI", "GFP"]}}
    tifffile.imwrite(tmp_path / "two.ome.tif", data, ome=True, metadata=metadata)
    (file,) = survey([tmp_path])
    assert file.num_volumes == 2
    assert [one.channel for one in read_stacks([tmp_path])] == ["DAPI", "GFP"]
    assert [one.channel for one in read_stacks([tmp_path], channel="GFP")] == ["GFP"]
    assert survey([tmp_path], channel="GFP")[0].num_volumes == 1
    with pytest.raises(SourceError, match="no channel Cy5, only DAPI, GFP"):
        survey([tmp_path], channel="Cy5")


def test_different_voxels_are_refused_with_their_groups(tmp_path):
    data = np.zeros((4, 32, 32), "u2")
    for name, um in (("a", VOXEL), ("b", VOXEL), ("c", (0.3, 0.2, 0.2))):
        write(tmp_path / f"{name}.ome.tif", data, um)
    with pytest.raises(SourceError, match=r"0\.13 µm: a, b; 0\.3 x 0\.2 x 0\.2 µm: c"):
        survey([tmp_path])


def test_different_shapes_are_for_an_attention_that_sees_all(tmp_path):
    for name, shape in (("a", (4, 32, 32)), ("b", (5, 32, 32))):
        write(tmp_path / f"{name}.tif", np.zeros(shape, "u2"))
    files = survey([tmp_path])
    (warning,) = check_files(files, DEMO, "whole")
    assert "4x32x32, 5x32x32" in warning
    with pytest.raises(CalibrationError, match="one after the other"):
        check_files(files, DEMO, "tile")


# What is no raw high-dose stack


def test_a_dim_or_saturated_stack_is_refused():
    photons = light(0)
    bright = expose(photons)
    assert check_stack(high_dose(bright), DEMO) == []
    with pytest.raises(CalibrationError, match="no high dose"):
        check_stack(high_dose(expose(photons / 100)), DEMO)
    (warning,) = check_stack(high_dose(expose(photons / 8)), DEMO)
    assert "aren't many" in warning
    with pytest.raises(CalibrationError, match="saturated"):
        check_stack(high_dose(np.minimum(bright, 300)), DEMO)


def floats(files):
    return [replace(one, dtype=np.dtype("f4")) for one in files]


def test_stacks_of_no_camera_are_refused(tmp_path):
    write(tmp_path / "a.tif", np.zeros((4, 32, 32), "u1"))
    (file,) = survey([tmp_path])
    with pytest.raises(CalibrationError, match="8 bit"):
        check_files([file], DEMO, "whole")
    eight_bit = DEMO.model_copy(update={"saturation": 255.0, "gain": 0.2})
    assert check_files([file], eight_bit, "whole") == []
    with pytest.raises(CalibrationError, match="whole counts"):
        check_files(floats([file]), DEMO, "whole")


@pytest.mark.parametrize(
    ("change", "camera", "expected"),
    [
        pytest.param(lambda counts: counts, {}, None, id="raw"),
        pytest.param(
            lambda counts: ndimage.gaussian_filter(counts, (0, 1, 1)), {}, "correlated", id="filter"
        ),
        pytest.param(
            lambda counts: ndimage.shift(counts, (0, 0.5, 0.5), order=1), {}, "correlated", id="shift"
        ),
        pytest.param(lambda counts: counts, {"gain": 4.34}, r"its noise is 0\.", id="twice the gain"),
        pytest.param(lambda counts: counts, {"gain": 1.08}, r"its noise is 1\.", id="half the gain"),
        pytest.param(lambda counts: counts / 2, {}, "far below the 100 counts", id="halved"),
    ],
)  # fmt: skip
def test_noise_that_is_not_the_cameras_is_refused(change, camera, expected):
    camera = DEMO.model_copy(update=camera)
    counts = np.rint(change(expose(light(1)).astype("f4"))).astype("u2")
    stack, pusher = high_dose(counts), Pusher(camera)
    with RcanRestorer(load_model("default"), "cpu", "auto", "float32", examiner=pusher) as restorer:
        restorer.restore(as_volume(stack, counts, "whole"))
    if expected is None:
        assert check_noise(stack, pusher.measured.indicators, camera) == []
    else:
        with pytest.raises(CalibrationError, match=f"cell: .*{expected}"):
            check_noise(stack, pusher.measured.indicators, camera)


# In words


def specimen(curve, worst):
    rungs = [Rung(signal=s, nrmse=w, worst=w, estimate=w) for s, w in worst.items()]
    return Specimen(channel="", num_acquisitions=9, curve=curve, photon_ladder=tuple(rungs))


@pytest.mark.parametrize(
    ("curve", "worst", "expected"),
    [
        pytest.param(
            (0.01, 0.2, 0.0),
            {100: 0.1, 1.6: 0.35, 1: 0.5},
            "holds from 1.6 photoelectrons per voxel for an NRMSE of 0.35; more light than 95 gains next to "
            "nothing (an NRMSE of about 0.10 remains)",
            id="holds, floor",
        ),
        pytest.param(
            (0.0, 0.2, 0.0),
            {100: 0.04, 2: 0.3},
            "holds from 2 photoelectrons per voxel for an NRMSE of 0.35 (the least that was tried); more light "
            "gained up to the brightest that was tried, 100",
            id="always holds",
        ),
        pytest.param(
            (0.25, 0.2, 0.0),
            {100: 0.5, 2: 0.6},
            "at no light that was tried (up to 100 photoelectrons per voxel) nine of ten fields had an NRMSE of "
            "0.35; more light than 3.8 gains next to nothing (an NRMSE of about 0.50 remains)",
            id="never holds",
        ),
    ],
)
def test_where_it_holds_is_said_in_a_sentence(curve, worst, expected):
    assert str(holding(specimen(curve, worst), 0.35)) == expected


def test_a_bound_is_said_with_its_n(characterized):
    envelope = Envelope.load(characterized[1] / "mine.envelope")
    assert f"the largest of {NUM_FIELDS} fields" in bound_in_words(envelope)
    assert "none is stated" in bound_in_words(envelope)
    more = envelope.card.model_copy(update={"excesses": tuple(np.linspace(-0.1, 0.05, 12))})
    assert "in 90% of acquisitions like these (n = 12" in bound_in_words(Envelope(more, {}, {}))
