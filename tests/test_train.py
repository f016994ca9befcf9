import json

import numpy as np
import pytest

from live_restore.errors import ProfileError
from live_restore.restore.model import Normalisation, load_model
from live_restore.simulation import Camera
from live_restore.train.config import SimulatedPairs, TrainConfig, load_config
from live_restore.train.loop import train
from live_restore.train.pairs import expose_pair, simulate_volume
from tests.conftest import live_restore

CONFIG = """
seed = 3
[card]
name = "small"
description = "a test"
[network]
num_channels = 4
num_residual_groups = 1
num_residual_blocks = 1
channel_reduction = 2
[simulation]
num_volumes = 3
num_validation = 2
shape_zyx = [8, 32, 32]
[schedule]
steps = 40
batch = 1
patch_zyx = [6, 24, 24]
learning_rate = 5e-3
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(CONFIG)
    return path


def test_training_lowers_the_loss_and_writes_a_model(config, tmp_path):
    losses = []
    card = train(
        load_config(config), tmp_path / "a.safetensors", on_progress=lambda p: losses.append(p.loss)
    )
    assert losses[-1] < 0.8 * losses[0]
    model = load_model(tmp_path / "a.safetensors")
    assert model.card == card
    assert card.quality.keys() >= {"psnr_raw_db_at_10_photons", "ssim_restored_at_20_photons"}
    assert "3 simulated volumes" in card.training_data


def test_the_same_seed_gives_the_same_model(config, tmp_path):
    for name in ("a", "b"):
        train(load_config(config), tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_the_command_writes_the_model_and_prints_its_quality(config, tmp_path):
    done = live_restore("train", config, "--output", tmp_path / "m.safetensors", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "psnr_restored_db_at_5_photons" in done.stdout
    assert load_model(tmp_path / "m.safetensors").card.name == "small"


@pytest.mark.parametrize(
    ("change", "expected"),
    [(("steps = 40", "stepps = 40"), "schedule.stepps"), (("[card]", "[card"), "can't be read")],
)
def test_a_wrong_configuration_is_refused(change, expected, config):
    config.write_text(CONFIG.replace(*change))
    with pytest.raises(ProfileError, match=expected):
        load_config(config)


def test_an_output_that_cannot_be_is_refused_before_training(config, tmp_path):
    done = live_restore("train", config, "--output", tmp_path / "model.pth")
    assert done.returncode == 2
    assert "must end in .safetensors" in done.stderr


def test_a_pair_is_in_the_units_of_its_noisy_half():
    rng = np.random.default_rng(0)
    rate = simulate_volume(SimulatedPairs(shape_zyx=(8, 40, 40)), rng)
    assert np.percentile(rate, 99.9) == pytest.approx(1, abs=0.6)
    pair = expose_pair(rate, 50.0, Camera(), Normalisation(), rng)
    # The noise has no mean, so that both halves have the same.
    assert pair.noisy.mean() == pytest.approx(pair.truth.mean(), abs=0.01)
    assert pair.noisy.std() > pair.truth.std()


def test_the_schema_of_a_configuration_documents_each_key():
    schema = TrainConfig.model_json_schema()
    for table in [schema, *schema["$defs"].values()]:
        for name, entry in table["properties"].items():
            assert "description" in entry or "$ref" in json.dumps(entry), name
