import csv
import itertools
import json
import math
import signal
import subprocess
import sys
from threading import Event

import numpy as np
import pytest
import tifffile
import torch

from live_restore.errors import ModelError, ProfileError, RestoreError
from live_restore.restore.model import Normalisation, load_model
from live_restore.simulation import Camera
from live_restore.train.config import (
    Schedule,
    SimulatedPairs,
    TrainConfig,
    check_config,
    load_config,
)
from live_restore.train.loop import Training, TrainingStoppedError, learning_rate
from live_restore.train.loss import measure_loss
from live_restore.train.origins import open_origin
from live_restore.train.simulated import SimulatedOrigin
from tests.conftest import live_restore, wait_for

CONFIG = """
seed = 3
[card]
name = "small"
description = "a test"
licence = "CC0-1.0"
[network]
num_channels = 4
num_residual_groups = 1
num_residual_blocks = 1
channel_reduction = 2
[simulation]
num_volumes = 3
num_validation = 2
shape_zyx = [8, 32, 32]
[patches]
shape_zyx = [6, 24, 24]
[schedule]
epochs = 4
steps_per_epoch = 30
batch = 1
learning_rate = 5e-3
checkpoint_steps = 7
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Eight matched pairs of 16 x 64 x 64 voxels, at 8 and 400 photons."""
    root = tmp_path_factory.mktemp("pairs")
    camera = Camera()
    settings = SimulatedPairs(shape_zyx=(16, 64, 64))
    lively = SimulatedOrigin(settings, Normalisation(), 9).lively()
    rates = [rate.astype("f4") for rate in itertools.islice(lively, 8)]
    for name, photons in (("low", 8.0), ("high", 400.0)):
        (root / name).mkdir()
        for i in range(8):
            rng = np.random.default_rng([9, i])
            tifffile.imwrite(
                root / name / f"cell_{i}.tif",
                camera.expose(rates[i] * np.float32(photons), rng),
                imagej=True,
                metadata={"axes": "ZYX", "spacing": 0.3, "unit": "um"},
                resolution=(10, 10),
            )
    return root


def training(config, output, **changes):
    if not isinstance(config, TrainConfig):
        config = load_config(config)
    if changes:
        schedule = config.schedule.model_copy(update=changes)
        config = config.model_copy(update={"schedule": schedule})
    return Training(config, open_origin(config), output)


class After(Event):
    """Set after it was asked a number of times."""

    def __init__(self, times):
        super().__init__()
        self.left = times

    def is_set(self):
        self.left -= 1
        return self.left < 0


def test_training_lowers_the_loss_and_writes_a_model(config, tmp_path):
    run = training(config, tmp_path / "a.safetensors")
    card = run.run()
    losses = [one.scores.loss for one in run.history]
    assert losses[-1] < losses[0] + math.log(0.8)  # logarithms: see Schedule.balance
    model = load_model(tmp_path / "a.safetensors")
    assert model.card == card
    assert card.quality.keys() >= {
        "psnr_raw_db",
        "psnr_raw_db_at_10_photons",
        "ssim_restored_at_20_photons",
    }
    assert "3 simulated volumes" in card.training_data
    assert not run.checkpoint.exists()


def test_a_model_knows_what_it_was_shown(config, tmp_path):
    card = training(config, tmp_path / "a.safetensors", epochs=1).run()
    assert card.statistics.patch_zyx == (6, 24, 24)
    low, high = card.statistics.photoelectrons
    assert 2 < low < high < 20  # 5 to 20 photons at a quantum efficiency of 0.6 to 0.95
    tensors = load_model(tmp_path / "a.safetensors").statistics
    count = card.statistics.num_patches
    assert tensors["pooled"].shape == (
        count,
        2 * 1 * 4,
    )  # means and deviations, a block, 4 channels
    assert tensors["spectrum"].shape == (count, 24)
    assert tensors["signal"].shape == (count, 2)
    assert all(torch.isfinite(tensor).all() for tensor in tensors.values())


def test_the_same_seed_gives_the_same_model(config, tmp_path):
    for name in ("a", "b"):
        training(config, tmp_path / f"{name}.safetensors", epochs=1).run()
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_stopped_run_goes_on_exactly_where_it_was(config, tmp_path):
    whole = training(config, tmp_path / "whole.safetensors")
    whole.run()
    first = training(config, tmp_path / "parts.safetensors")
    with pytest.raises(TrainingStoppedError, match="step 44 of 120"):
        first.run(After(44))
    second = training(config, tmp_path / "parts.safetensors")
    assert second.resume() == 44
    second.run()
    assert second.history == whole.history
    assert (tmp_path / "whole.safetensors").read_bytes() == (
        tmp_path / "parts.safetensors"
    ).read_bytes()


def test_a_killed_run_resumes_to_the_same_weights(folders, tmp_path):
    config = CONFIG.replace(
        CONFIG[CONFIG.index("[simulation]") : CONFIG.index("[patches]")],
        f'[pairs]\nlow = "{folders}/low"\nhigh = "{folders}/high"\n',
    )
    path = tmp_path / "pairs.toml"
    path.write_text(config)
    done = live_restore("train", path, "--output", tmp_path / "whole.safetensors")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "live_restore", "train", str(path), "--output"]
    output = tmp_path / "killed.safetensors"
    checkpoint = output.with_suffix(".checkpoint")
    process = subprocess.Popen([*command, str(output)], stderr=subprocess.DEVNULL)
    wait_for(checkpoint.exists, "a checkpoint")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 7 <= torch.load(checkpoint, weights_only=True)["step"] < 120
    again = live_restore("train", path, "--output", output)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    done = live_restore("train", path, "--output", output, "--resume")
    assert done.returncode == 0, done.stderr
    assert output.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    curves = [
        list(csv.DictReader((tmp_path / f"{name}.csv").read_text().splitlines()))
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]
    assert [row["epoch"] for row in curves[0]] == ["1", "2", "3", "4"]
    assert float(curves[0][-1]["validation_loss"]) < float(curves[0][0]["validation_loss"])
    assert list((tmp_path / "killed.tensorboard").glob("events.*"))


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(config, tmp_path):
    config.write_text(CONFIG.replace("epochs = 4", "epochs = 4000"))
    output = tmp_path / "m.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "live_restore", "train", str(config), "--output", str(output)],
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(output.exists, "a first model")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in stderr
    assert "Traceback" not in stderr
    assert load_model(output).card.name == "small"
    assert output.with_suffix(".checkpoint").exists()


def test_two_folders_are_enough(folders, tmp_path):
    done = live_restore(
        *("train", "--low", folders / "low", "--high", folders / "high", "--epochs", 1),
        *("--output", tmp_path / "mine.safetensors", "--network", "tiny", "--steps-per-epoch", 2),
    )
    assert done.returncode == 0, done.stderr
    assert "psnr_restored_db" in done.stdout
    assert "epoch    1 of 1" in done.stderr
    card = load_model(tmp_path / "mine.safetensors").card
    assert card.name == "mine"
    assert card.voxel_size_um == pytest.approx((0.3, 0.1, 0.1))
    assert "matched low- and high-dose volumes" in card.training_data
    assert card.statistics.photoelectrons is None


def test_high_dose_stacks_and_a_camera_are_enough(folders, tmp_path):
    table = TrainConfig.model_validate(
        {
            "card": {"name": "thinned", "description": "a test"},
            "network": {
                "num_channels": 4,
                "num_residual_groups": 1,
                "num_residual_blocks": 1,
                "channel_reduction": 2,
            },
            "thinning": {
                "high": folders / "high",
                "camera": {
                    "gain_counts_per_electron": 2.17,
                    "offset_counts": 100,
                    "read_noise_electrons": 1.6,
                },
                "psf": {"numerical_aperture": 1.2, "refractive_index": 1.33, "wavelength_um": 0.52},
            },
            "patches": {"shape_zyx": (8, 32, 32)},
            "schedule": {"epochs": 2, "steps_per_epoch": 20, "learning_rate": 3e-3},
        }
    )
    run = training(table, tmp_path / "m.safetensors")
    card = run.run()
    assert run.history[1].scores.loss < run.history[0].scores.loss
    assert {"psnr_restored_db_at_dose_0.02", "psnr_restored_db_at_dose_0.3"} <= card.quality.keys()
    assert "thinned to 0.02 to 0.3 of their light and blurred" in card.training_data


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"loss": "mae", "decay": "published", "average": 0, "clip_norm": 0, "balance": False}, id="as published"),
        pytest.param({"loss": "charbonnier", "optimiser": "adamw"}, id="other loss and optimiser"),
        pytest.param({"precision": "bfloat16"}, id="bfloat16"),
    ],
)  # fmt: skip
def test_each_option_trains(changes, config, tmp_path):
    run = training(config, tmp_path / "m.safetensors", epochs=2, **changes)
    run.run()
    assert run.history[1].scores.loss < run.history[0].scores.loss


def test_a_truth_normalised_by_itself_is_an_option(config, tmp_path):
    table = load_config(config)
    norm = table.normalisation.model_copy(update={"target": "own"})
    run = training(table.model_copy(update={"normalisation": norm}), tmp_path / "m.safetensors")
    assert run.run().normalisation.target == "own"
    for one in run.origin.held_out:
        assert one.pair.contrast == 1


def test_the_published_schedule_halves_each_quarter(config):
    schedule = load_config(config).schedule.model_copy(update={"decay": "published", "epochs": 8})
    rates = [learning_rate(schedule, step) / schedule.learning_rate for step in (1, 60, 61, 240)]
    assert rates == [1, 1, 0.5, 0.125]


def test_the_cosine_starts_warm_and_ends_at_zero(config):
    schedule = load_config(config).schedule
    assert learning_rate(schedule, 1) < 0.02 * schedule.learning_rate
    assert learning_rate(schedule, 120) == pytest.approx(0, abs=1e-9)


def test_a_restarted_cosine_begins_again_at_a_share_of_the_rate():
    schedule = Schedule(epochs=6, restarts=(4,), steps_per_epoch=1000, restart_rate=0.25)
    rate = {step: learning_rate(schedule, step) / schedule.learning_rate for step in range(1, 6001)}
    assert rate[4000] == pytest.approx(0, abs=1e-9)
    assert rate[4001] < 0.01
    assert max(rate[step] for step in range(4001, 6001)) == pytest.approx(0.25, rel=0.01)
    assert rate[5000] == pytest.approx(0.125)
    assert rate[6000] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("restarts", [(0,), (6,), (4, 3), (7,)])
def test_restarts_lie_between_the_first_and_the_last_epoch(restarts):
    with pytest.raises(ValueError, match="ascending order"):
        Schedule(epochs=6, restarts=restarts)


def test_the_loss_is_in_units_of_the_truths_contrast():
    plain = Schedule(balance=False)
    truth = torch.rand(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    error = 0.1 * torch.ones_like(truth)
    one = measure_loss(truth + error, truth, torch.tensor([2.0, 2.0]), plain)
    half = measure_loss(truth / 2 + error / 2, truth / 2, torch.tensor([1.0, 1.0]), plain)
    assert one.item() == pytest.approx(0.05**2, rel=1e-4)
    assert half.item() == pytest.approx(one.item(), rel=1e-4)


def test_no_patch_outweighs_the_others_in_a_balanced_loss():
    truth = torch.zeros(2, 1, 4, 8, 8)
    restored = torch.ones_like(truth, requires_grad=True)
    scale = torch.tensor([1.0, 100.0]).view(2, 1, 1, 1, 1)
    weights = []
    for balance in (False, True):
        loss = measure_loss(restored * scale, truth, torch.ones(2), Schedule(balance=balance))
        (gradient,) = torch.autograd.grad(loss, restored)
        mild, wild = gradient.abs().sum((1, 2, 3, 4)).tolist()
        weights.append(wild / mild)
    assert weights == pytest.approx([1e4, 1], rel=1e-3)


def test_a_loss_that_explodes_ends_the_run_with_advice(config, tmp_path):
    with pytest.raises(RestoreError, match="learning_rate"):
        training(config, tmp_path / "m.safetensors", learning_rate=1e30, clip_norm=0).run()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param(("steps_per_epoch", "stepps"), "schedule.stepps", id="misspelt"),
        pytest.param(("[card]", "[card"), "can't be read", id="not TOML"),
        pytest.param(("[simulation]", "[pairs]\nlow='a'\nhigh='b'\n[simulation]"), "needs one of", id="two"),
        pytest.param(("learning_rate = 5e-3", 'loss = "huber"'), "schedule.loss", id="loss"),
        pytest.param(("num_volumes = 3", "haze = 1.0\npeak_photons = [9, 3]"), "peak_photons", id="range"),
    ],
)  # fmt: skip
def test_a_wrong_configuration_is_refused(change, expected, config):
    config.write_text(CONFIG.replace(*change))
    with pytest.raises(ProfileError, match=expected):
        load_config(config)


def test_a_configurations_folders_are_relative_to_it(tmp_path):
    path = tmp_path / "train.toml"
    path.write_text('[card]\nname = "a"\ndescription = "b"\n[pairs]\nlow = "low"\nhigh = "/h"\n')
    pairs = load_config(path).pairs
    assert (pairs.low, str(pairs.high)) == (tmp_path / "low", "/h")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param(["c.toml", "--output", "m.pth"], "must end in .safetensors", id="suffix"),
        pytest.param(["--output", "m.safetensors"], "nothing to learn from", id="nothing"),
        pytest.param(["--low", "l", "--output", "m.safetensors"], "nothing to learn", id="half"),
        pytest.param(["c.toml", "--low", "l", "--output", "m.safetensors"], "not both", id="both"),
        pytest.param(["c.toml", "--output", "old.safetensors"], "--force", id="exists"),
    ],
)
def test_a_wrong_command_is_refused_before_training(
    arguments, expected, config, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    config.rename("c.toml")
    (tmp_path / "old.safetensors").touch()
    done = live_restore("train", *arguments)
    assert done.returncode == 2
    assert expected in done.stderr
    assert not (tmp_path / "old.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda path: path.unlink(), "no checkpoint", id="missing"),
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:999]), "damaged", id="cut"),
        pytest.param(lambda path: path.write_text("x"), "damaged", id="text"),
        pytest.param(lambda path: torch.save({"step": 1}, path), "damaged", id="other"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_refused(spoil, expected, config, tmp_path):
    run = training(config, tmp_path / "m.safetensors")
    with pytest.raises(TrainingStoppedError):
        run.run(After(2))
    spoil(run.checkpoint)
    with pytest.raises(ModelError, match=expected):
        training(config, tmp_path / "m.safetensors").resume()


def test_a_checkpoint_of_another_configuration_is_refused(config, tmp_path):
    with pytest.raises(TrainingStoppedError):
        training(config, tmp_path / "m.safetensors").run(After(2))
    with pytest.raises(ModelError, match=r"schedule.batch was 1 and is 2"):
        training(config, tmp_path / "m.safetensors", batch=2).resume()


def test_values_from_the_command_line_are_checked():
    with pytest.raises(ProfileError, match=r"command line: schedule\.epochs"):
        check_config(
            {
                "card": {"name": "a", "description": "b"},
                "simulation": {},
                "schedule": {"epochs": 0},
            },
            "command line",
        )


def test_the_schema_of_a_configuration_documents_each_key():
    schema = TrainConfig.model_json_schema()
    for table in [schema, *schema["$defs"].values()]:
        for name, entry in table["properties"].items():
            assert "description" in entry or "$ref" in json.dumps(entry), name
