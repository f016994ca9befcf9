import copy

import numpy as np
import pytest
import torch

from live_restore.errors import RestoreError
from live_restore.quality import psnr
from live_restore.restore.devices import choose_device
from live_restore.restore.manner import Manner
from live_restore.restore.model import Model, Normalisation, load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.simulation import SimulatedMicroscope
from tests.conftest import make_volume

TILED = Manner((12, 56, 56))
MICROSCOPE = SimulatedMicroscope(shape_zyx=(12, 72, 80), seed=3)


@pytest.fixture(scope="module")
def noisy():
    return make_volume(MICROSCOPE.stack(0, "nuclei"))


@pytest.fixture(scope="module")
def restored(noisy):
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32") as restorer:
        return restorer.restore(noisy)


def test_restoring_brings_a_volume_closer_to_its_truth(noisy, restored):
    truth = MICROSCOPE.truth(0, "nuclei")
    assert psnr(restored.data, truth) > psnr(noisy.data, truth) + 4


def test_restored_intensities_are_in_the_raw_volumes_counts(restored):
    truth = MICROSCOPE.truth(0, "nuclei")
    # No fit before this comparison: offset and gain must be right by themselves.
    assert restored.data.mean() == pytest.approx(truth.mean(), rel=0.02)
    slope, _ = np.polyfit(truth.ravel(), restored.data.ravel(), 1)
    assert slope == pytest.approx(1, abs=0.15)
    assert np.percentile(restored.data, 1) == pytest.approx(np.percentile(truth, 1), rel=0.05)


def test_a_restored_volume_says_how_it_was_made(noisy, restored):
    assert restored.raw is noisy
    assert restored.model.sha256 == load_model("default").sha256
    assert restored.model.precision == "float32"
    assert restored.model.tile_zyx == (12, 72, 80)
    assert not restored.data.flags.writeable
    assert restored.timing_s["restoring"] > 0


def test_whole_numbers_are_the_rounded_restoration(noisy, restored):
    with RcanRestorer(load_model("default"), "cpu", "float32", "uint16") as restorer:
        whole = restorer.restore(noisy)
    assert whole.data.dtype == np.uint16
    # Half a count, and what float32 adds up differently.
    assert np.abs(whole.data - restored.data).max() <= 0.51


@pytest.mark.parametrize(
    ("counts", "dtype", "warned"), [(30, "uint16", 1), (30, "float32", 0), (3000, "uint16", 0)]
)
def test_rounding_away_a_dim_signal_is_warned_of_once(counts, dtype, warned, tiny_model, caplog):
    data = np.random.default_rng(0).integers(100, 100 + counts, (4, 16, 16)).astype("u2")
    with RcanRestorer(tiny_model, "cpu", output_dtype=dtype) as restorer:
        for _ in range(3):
            restorer.restore(make_volume(data))
    assert len([r for r in caplog.records if "rounding" in r.getMessage()]) == warned


def test_bfloat16_costs_less_than_a_tenth_of_a_decibel(noisy, restored):
    truth = MICROSCOPE.truth(0, "nuclei")
    with RcanRestorer(load_model("default"), "cpu", "bfloat16", "float32") as restorer:
        fast = restorer.restore(noisy)
    assert fast.model.precision == "bfloat16"
    assert psnr(fast.data, truth) == pytest.approx(psnr(restored.data, truth), abs=0.1)


def test_a_model_keeps_its_weights_whatever_precision_it_ran_in(tiny_model):
    before = {name: tensor.clone() for name, tensor in tiny_model.network.state_dict().items()}
    with RcanRestorer(tiny_model, "cpu", "bfloat16"):
        pass
    for name, tensor in tiny_model.network.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_tiles_leave_no_seam(noisy, restored):
    with RcanRestorer(load_model("default"), "cpu", "float32", "float32", TILED) as restorer:
        tiled = restorer.restore(noisy)
        assert len(restorer.plan(noisy.info.shape_zyx)) == 4
    # Each tile pools its attention over itself, so that they agree closely and not exactly.
    span = restored.intensity[1] - restored.intensity[0]
    difference = np.abs(tiled.data - restored.data) / span
    assert difference.mean() < 0.005
    assert difference.max() < 0.15


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4", "f8", ">u2"])
def test_any_real_dtype_is_restored(dtype, tiny_model):
    data = np.random.default_rng(0).integers(0, 120, (3, 9, 11)).astype(dtype)
    with RcanRestorer(tiny_model, "cpu", output_dtype="float32") as restorer:
        out = restorer.restore(make_volume(data)).data
        as_float = restorer.restore(make_volume(data.astype("f4"))).data
    np.testing.assert_allclose(out, as_float, rtol=1e-3, atol=0.05)  # percentiles are interpolated


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (70, 5, 5), (1, 200, 3)])
@pytest.mark.parametrize("value", [0, 65535])
def test_odd_shapes_and_flat_volumes_are_restored(shape, value, tiny_model):
    with RcanRestorer(tiny_model, "cpu", manner=Manner((16, 64, 64))) as restorer:
        out = restorer.restore(make_volume(np.full(shape, value, "u2"))).data
    assert out.shape == shape
    assert out.dtype == np.uint16


def test_counts_beyond_sixteen_bits_are_clipped(tiny_model):
    data = np.random.default_rng(0).integers(0, 65536, (4, 16, 16)).astype("u2")
    with RcanRestorer(tiny_model, "cpu") as restorer:
        wide = restorer.restore(make_volume(data)).data
    with RcanRestorer(tiny_model, "cpu", output_dtype="float32") as restorer:
        exact = restorer.restore(make_volume(data)).data
    np.testing.assert_allclose(wide, np.clip(exact, 0, 65535), atol=0.51)


def test_nan_in_the_raw_volume_is_a_restore_error(tiny_model):
    data = np.ones((3, 8, 8), "f4")
    data[1, 2, 3] = np.nan
    for model in (tiny_model, as_published(tiny_model)):
        with (
            RcanRestorer(model, "cpu") as restorer,
            pytest.raises(RestoreError, match="finite"),
        ):
            restorer.restore(make_volume(data))


def as_published(model, gain=1.0, offset=0.0):
    """The model as if its targets had been normalised on their own, its output moved affinely."""
    network = copy.deepcopy(model.network)
    with torch.no_grad():
        network.tail.weight *= gain
        network.tail.bias.mul_(gain).add_(gain - 1 + 2 * offset)  # around its 0.5 x + 0.5
    normalisation = model.card.normalisation.model_copy(update={"target": "own"})
    card = model.card.model_copy(update={"normalisation": normalisation})
    return Model(card, network, model.sha256, model.path)


def restore_whole(model, data, dtype="float32", **settings):
    with RcanRestorer(model, "cpu", "float32", dtype, **settings) as restorer:
        return restorer.restore(make_volume(data)).data


@pytest.fixture(scope="module")
def own_unit(noisy, tiny_model):
    """A small model whose output rises with the raw counts, in a unit of its own."""
    out = restore_whole(tiny_model, noisy.data).ravel()
    sign = np.sign(np.corrcoef(out, noisy.data.ravel())[0, 1])
    return as_published(tiny_model, float(sign))


def test_a_network_in_units_of_its_own_still_restores(noisy):
    out = restore_whole(as_published(load_model("default")), noisy.data)
    assert (
        psnr(out, MICROSCOPE.truth(0, "nuclei"))
        > psnr(noisy.data, MICROSCOPE.truth(0, "nuclei")) + 4
    )


@pytest.mark.parametrize("manner", [Manner(), TILED])
def test_a_network_in_units_of_its_own_is_fitted_to_the_raw_counts(noisy, own_unit, manner):
    out = restore_whole(own_unit, noisy.data, manner=manner).astype(float)
    # Least squares keeps the mean (up to float32), and leaves nothing that a line could explain.
    assert out.mean() == pytest.approx(noisy.data.mean(dtype=float), rel=1e-5)
    slope, offset = np.polyfit(out.ravel(), noisy.data.ravel().astype(float), 1)
    assert slope == pytest.approx(1, abs=1e-3)
    assert offset == pytest.approx(0, abs=float(1e-3 * out.mean()))


@pytest.mark.parametrize(("gain", "offset"), [(0.01, 0.0), (3.0, -2.0), (100.0, 40.0)])
def test_the_fit_takes_any_unit_of_the_networks_output(noisy, own_unit, gain, offset):
    plain = restore_whole(own_unit, noisy.data)
    moved = restore_whole(as_published(own_unit, gain, offset), noisy.data)
    # float32 keeps seven digits; offset and the network's small spread cost up to four of them.
    np.testing.assert_allclose(moved, plain, atol=1e-3 * np.ptp(plain))


def test_fitted_whole_numbers_are_the_rounded_fit(noisy, own_unit):
    whole = restore_whole(own_unit, noisy.data, "uint16")
    assert whole.dtype == np.uint16
    assert not whole.flags.writeable
    assert np.abs(whole - restore_whole(own_unit, noisy.data)).max() <= 0.51


@pytest.mark.parametrize(
    ("gain", "is_flat"),
    [
        pytest.param(1.0, True, id="flat volume"),
        pytest.param(-1.0, False, id="anticorrelated"),
        pytest.param(0.0, False, id="constant output"),
    ],
)
@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_what_cannot_be_fitted_falls_back_to_the_raw_range_with_one_warning(
    gain, is_flat, dtype, noisy, own_unit, caplog
):
    data = np.full((4, 20, 20), 700, "u2") if is_flat else noisy.data
    model = as_published(own_unit, gain)
    card = model.card.model_copy(update={"normalisation": Normalisation(target="input")})
    with RcanRestorer(model, "cpu", "float32", dtype) as restorer:
        for _ in range(2):
            out = restorer.restore(make_volume(data)).data
    warnings = [r.getMessage() for r in caplog.records if "can't be fitted" in r.getMessage()]
    assert len(warnings) == 1
    as_input = restore_whole(Model(card, model.network, model.sha256, model.path), data, dtype)
    np.testing.assert_allclose(out, as_input, rtol=1e-5, atol=1e-3)


def test_half_precision_on_the_processor_is_refused(tiny_model):
    with pytest.raises(RestoreError, match="needs a GPU"):
        RcanRestorer(tiny_model, "cpu", "float16")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(RestoreError, match="nvidia-smi"):
        choose_device("cuda:3")
    assert choose_device("auto").type == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_a_gpu_gives_what_the_processor_gives(precision, noisy, restored):
    with RcanRestorer(load_model("default"), "cuda", precision, "float32") as restorer:
        on_gpu = restorer.restore(noisy)
    span = restored.intensity[1] - restored.intensity[0]
    difference = np.abs(on_gpu.data - restored.data) / span
    # TF32 and float16 keep ten bits; about thirty layers add up.
    assert difference.max() < 0.02
    assert on_gpu.model.device.startswith("cuda")


@pytest.mark.gpu
def test_tiles_on_a_gpu_agree_with_the_whole(noisy):
    with RcanRestorer(load_model("default"), "cuda", "float16", "float32") as restorer:
        whole = restorer.restore(noisy)
    with RcanRestorer(load_model("default"), "cuda", "float16", "float32", TILED) as restorer:
        tiled = restorer.restore(noisy)
    span = whole.intensity[1] - whole.intensity[0]
    assert (np.abs(tiled.data - whole.data) / span).mean() < 0.005
