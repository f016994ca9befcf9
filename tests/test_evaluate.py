import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from scipy import ndimage

from live_restore.errors import SourceError
from live_restore.evaluate import baselines, picture, scoring
from live_restore.evaluate.psf import read_psf
from live_restore.evaluate.report import as_document, as_json
from live_restore.evaluate.scoring import Score
from live_restore.evaluate.summary import summarise
from live_restore.matched import MatchedFiles, MatchedPair
from live_restore.quality import psnr
from live_restore.simulation import Camera
from live_restore.volume import ModelUse

from .conftest import live_restore

CAMERA = Camera()
UM = {"PhysicalSizeZ": 0.3, "PhysicalSizeY": 0.1, "PhysicalSizeX": 0.1}


def truth_and_noisy(seed=0, photons=20.0, shape=(12, 40, 44)):
    """Blobs, and their photograph."""
    rng = np.random.default_rng(seed)
    density = (rng.random(shape) > 0.995).astype(float)
    rate = ndimage.gaussian_filter(density, (1, 2, 2))
    rate *= photons / rate.max()
    return CAMERA.expected_counts(rate), CAMERA.expose(rate, rng)


TRUTH, NOISY = truth_and_noisy()


def pair(low=NOISY, high=TRUTH, voxel=(0.3, 0.1, 0.1), name="cell"):
    return MatchedPair(name, name, low, high, voxel, MatchedFiles(name, None, None))


# Baselines


@pytest.mark.parametrize(
    "method", [baselines.gaussian, baselines.total_variation, baselines.richardson_lucy]
)
def test_a_baseline_is_better_than_raw_and_says_what_it_chose(method):
    before = NOISY.copy()
    made = method(NOISY, TRUTH)
    assert psnr(made.volume, TRUTH) > psnr(NOISY, TRUTH) + 2
    assert made.volume.shape == NOISY.shape
    assert any(letter.isdigit() for letter in made.parameter)
    np.testing.assert_array_equal(NOISY, before)


def test_the_best_of_the_grid_is_taken(monkeypatch):
    monkeypatch.setattr(baselines, "_WIDTHS", (0.7, 1.0))
    monkeypatch.setattr(baselines, "_AXIAL_SHARES", (0.6,))
    image = NOISY.astype("f4")
    each = [psnr(ndimage.gaussian_filter(image, (0.6 * s, s, s)), TRUTH) for s in (0.7, 1.0)]
    assert psnr(baselines.gaussian(NOISY, TRUTH).volume, TRUTH) == pytest.approx(max(each))


def test_deconvolution_undoes_a_blur_and_knows_no_dark_edge():
    psf = baselines.gaussian_psf((1.0, 1.5, 1.5))
    assert psf.sum() == pytest.approx(1)
    sharp = np.full((12, 32, 32), 50.0)
    sharp[6, 16, 16] = sharp[6, 16, 21] = sharp[6, 1, 16] = 5000.0
    blurred = ndimage.gaussian_filter(sharp, (1.0, 1.5, 1.5)) + 100
    made = baselines.richardson_lucy(blurred, sharp, psf)
    assert psnr(made.volume, sharp) > psnr(blurred, sharp) + 1
    flat = made.volume[0, 16]  # far from the points, edges included
    assert np.ptp(flat) < 0.02 * made.volume.max()


def test_parameters_of_a_large_volume_are_searched_on_a_part(monkeypatch):
    monkeypatch.setattr(baselines, "_SEARCHED_ZYX", (8, 16, 16))
    made = baselines.gaussian(NOISY, TRUTH)
    assert made.volume.shape == NOISY.shape
    assert psnr(made.volume, TRUTH) > psnr(NOISY, TRUTH) + 2


def test_without_scikit_image_the_gaussian_remains(monkeypatch):
    monkeypatch.setattr(baselines, "has_scikit_image", lambda: False)
    assert list(scoring.classical_methods()) == ["raw", "Gaussian"]


@pytest.mark.parametrize("dtype", ["u1", "f4"])
def test_noise_free_and_constant_volumes_are_filtered_too(dtype):
    for volume in (np.zeros((3, 16, 16), dtype), np.full((3, 16, 16), 7, dtype)):
        for method in scoring.classical_methods().values():
            assert np.isfinite(method(volume, TRUTH[:3, :16, :16]).volume).all()


# Point spread functions


def write_psf(path, peak=(4, 6, 9), um=UM):
    image = np.full((9, 15, 17), 20.0)
    image[peak] = 1000.0
    image = ndimage.gaussian_filter(image, 1.0)
    tifffile.imwrite(path, image.astype("u2"), ome=True, metadata={"axes": "ZYX", **um})


def test_a_psf_is_centred_and_its_background_taken_off(tmp_path):
    write_psf(tmp_path / "psf.ome.tif")
    psf = read_psf(tmp_path / "psf.ome.tif")
    assert psf.kernel.shape == (9, 13, 15)
    assert np.unravel_index(psf.kernel.argmax(), psf.kernel.shape) == (4, 6, 7)
    assert psf.kernel.sum() == pytest.approx(1, rel=1e-5)
    assert psf.kernel[0, 0, 0] == 0
    psf.check_voxels(pair())
    psf.check_voxels(pair(voxel=None))
    with pytest.raises(
        SourceError, match=r"0\.3 x 0\.1 x 0\.1 µm .* 0\.3 x 0\.2 x 0\.1 µm; resample"
    ):
        psf.check_voxels(pair(voxel=(0.3, 0.2, 0.1)))


def test_what_is_no_psf_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such file"):
        read_psf(tmp_path / "gone.tif")
    tifffile.imwrite(tmp_path / "flat.tif", np.full((5, 8, 8), 9, "u2"))
    with pytest.raises(SourceError, match="no bright point"):
        read_psf(tmp_path / "flat.tif")


# Scores


def test_methods_are_scored_in_their_order():
    methods = {
        "raw": scoring.classical_methods()["raw"],
        "perfect": lambda _, truth: baselines.Filtered(truth),
    }
    (raw, _), (perfect, result) = scoring.score_methods(NOISY, TRUTH, methods, "v", "f")
    assert (raw.method, raw.volume, raw.field_of_view, raw.ssim_kind) == ("raw", "v", "f", "3D")
    assert raw.psnr_db == psnr(NOISY, TRUTH)
    assert perfect.ssim == pytest.approx(1)
    assert result is TRUTH
    ((flat, _),) = scoring.score_methods(NOISY[:4], TRUTH[:4], {"raw": methods["raw"]})
    assert flat.ssim_kind == "per plane"


def test_a_flat_truth_is_refused():
    flat = [pair(high=np.full_like(TRUTH, 100.0))]
    with pytest.raises(SourceError, match="of cell is flat"):
        list(scoring.evaluate_pairs(flat, scoring.classical_methods()))


def score(method, value, volume="v", field="f"):
    return Score(volume, field, method, value, value / 100, 1 / value, "3D")


def test_time_points_of_one_field_are_no_independent_evidence():
    rng = np.random.default_rng(0)
    of_field = rng.normal(20, 3, 6)
    scores = [
        score("raw", of_field[field] + rng.normal(0, 0.01), f"{field} {t}", field_name)
        for field in range(6)
        for t in range(50)
        for field_name in [f"field{field}"]
    ]
    (clustered,) = summarise(scores)
    (naive,) = summarise([score("raw", s.psnr_db, s.volume, s.volume) for s in scores])
    assert (clustered.num_volumes, clustered.num_fields) == (300, 6)

    def width(summary):
        low, high = summary.scores["psnr_db"].interval
        return high - low

    assert width(clustered) > 4 * width(naive)
    # The standard error of six fields, within the spread of a small sample.
    assert width(clustered) == pytest.approx(2 * 1.96 * of_field.std() / np.sqrt(6), rel=0.1)


def test_gains_are_paired_and_seeded():
    scores = [
        one
        for field, raw in enumerate([10.0, 20.0, 30.0, 40.0])
        for one in (
            score("raw", raw, f"v{field}", f"f{field}"),
            score("restored", raw + 5, f"v{field}", f"f{field}"),
        )
    ]
    raw, restored = summarise(scores, seed=1)
    assert raw.gains == {}
    assert restored.gains["psnr_db"].mean == pytest.approx(5)
    assert restored.gains["psnr_db"].interval == pytest.approx((5, 5))
    assert restored.scores["psnr_db"].sd == pytest.approx(np.std([15, 25, 35, 45], ddof=1))
    assert summarise(scores, seed=1) == [raw, restored]


def test_below_three_fields_there_is_no_interval():
    (two,) = summarise([score("raw", 10.0, "a", "a"), score("raw", 12.0, "b", "b")])
    assert two.scores["psnr_db"].interval is None
    (one,) = summarise([score("raw", 10.0)])
    assert one.scores["psnr_db"].sd is None


def test_the_document_is_strict_json():
    scores = [score("raw", 10.0), score("restored", float("inf"))]
    use = ModelUse("m", "0" * 64, "float32", "cpu", (3, 4, 5))
    document = as_document(scores, summarise(scores), use, {"seed": 0})
    back = json.loads(as_json(document))
    assert back["volumes"][1]["psnr_db"] is None
    assert back["model"]["name"] == "m"
    assert "oracles" in back["baselines"]


# Picture


@pytest.mark.parametrize("voxel", [(0.3, 0.1, 0.1), None, (3.0, 0.2, 0.1)])
def test_a_picture_shows_each_volume(tmp_path, voxel):
    scores = [score("raw", 10.0), score("restored", 20.0)]
    rows = [picture.Row.of(pair(voxel=voxel, name=f"cell{i}"), TRUTH, scores) for i in range(2)]
    assert rows[0].from_above[0].shape == (40, 44)
    assert rows[0].from_the_side[0].shape == (12, 44)
    assert rows[0].from_above[3].max() == pytest.approx(0, abs=1e-3)
    picture.draw(tmp_path / "p.png", rows, "caption")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_the_picture_touches_no_global_state():
    check = (
        "import sys, live_restore.evaluate.picture; sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", check], check=False).returncode == 0


# Command


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("matched")
    for seed in range(3):
        truth, noisy = truth_and_noisy(seed, shape=(5, 30, 34))
        for name, data in (("low", noisy), ("high", truth)):
            path = folder / name / f"cell{seed}_{name}.ome.tif"
            path.parent.mkdir(exist_ok=True)
            tifffile.imwrite(path, data, metadata={"axes": "ZYX", **UM})
    return folder


def test_evaluate_prints_json_and_writes_csv_json_and_picture(folders, tiny_model, tmp_path):
    output = tmp_path / "out"
    write_psf(tmp_path / "psf.ome.tif")
    run = live_restore(
        "evaluate", tiny_model.path, "--low", folders / "low", "--high", folders / "high",
        "--output", output, "--device", "cpu", "--psf", tmp_path / "psf.ome.tif", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    document = json.loads(run.stdout)
    assert document == json.loads((output / "evaluation.json").read_text(encoding="utf-8"))
    names = ["raw", "Gaussian", "total variation", "Richardson-Lucy", "restored"]
    assert [one["method"] for one in document["methods"]] == names
    assert document["methods"][1]["num_fields"] == 3
    assert document["methods"][1]["gains"]["psnr_db"]["mean"] > 2
    with (output / "evaluation.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows[:5]] == names
    assert rows[0]["volume"] == "cell0"
    assert len(rows) == 15
    assert sorted(path.name for path in output.iterdir()) == [
        "evaluation.csv", "evaluation.json", "evaluation.png",
    ]  # fmt: skip
    for said in ("oracles", "PSNR with range 1", "3 fields of view", "over planes for 3 volumes"):
        assert said in run.stderr


def test_a_file_that_cannot_be_read_is_one_line_and_nothing_is_written(
    folders, tiny_model, tmp_path
):
    for name in ("low", "high"):
        (tmp_path / name).mkdir()
        whole = folders / name / f"cell0_{name}.ome.tif"
        (tmp_path / name / "a.ome.tif").write_bytes(whole.read_bytes())
        (tmp_path / name / "b.ome.tif").write_bytes(whole.read_bytes()[:4000])
    output = tmp_path / "out"
    run = live_restore(
        "evaluate", tiny_model.path, "--low", tmp_path / "low", "--high", tmp_path / "high",
        "--output", output, "--device", "cpu",
    )  # fmt: skip
    assert run.returncode == 3
    assert "b.ome.tif: " in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not output.exists()
