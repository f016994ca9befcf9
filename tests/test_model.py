import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from live_restore.errors import ModelError
from live_restore.restore.model import (
    Architecture,
    build_network,
    load_model,
    save_model,
    shipped_model,
)
from live_restore.train.config import load_config
from live_restore.train.loop import describe
from live_restore.train.origins import open_origin


def rewrite(model, path, weights=None, card=None):
    """The tiny model with other weights or another card."""
    weights = (
        {k: v.half().contiguous() for k, v in model.network.state_dict().items()}
        if weights is None
        else weights
    )
    save_file(weights, path, metadata={"live_restore.card": card or model.card.model_dump_json()})
    return path


def test_a_model_survives_its_file(tiny_model, tmp_path):
    path = tmp_path / "again.safetensors"
    save_model(path, tiny_model.network, tiny_model.card)
    again = load_model(path)
    assert again.card == tiny_model.card
    assert again.sha256 == tiny_model.sha256
    for name, tensor in tiny_model.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name])
    assert [p.name for p in tmp_path.iterdir()] == ["again.safetensors"]


def test_the_default_model_says_what_it_is():
    model = load_model("default")
    assert shipped_model().stat().st_size < 2_000_000
    assert "Demonstration" in model.card.description
    assert "simulat" in model.card.description
    for photons in (5, 10, 20):
        quality = model.card.quality
        gain = (
            quality[f"psnr_restored_db_at_{photons}_photons"]
            - quality[f"psnr_raw_db_at_{photons}_photons"]
        )
        assert gain > 5


def test_the_default_model_was_trained_by_the_shipped_configuration():
    config = load_config(shipped_model().with_suffix(".toml"))
    card = load_model("default").card
    assert card.architecture == config.network
    assert card.normalisation == config.normalisation
    assert card.training_data == describe(config, open_origin(config))
    assert card.description == config.card.description


class Bomb:
    def __reduce__(self):
        return (Path("exploded").touch, ())


def _pickled(model, path):
    torch.save({"state_dict": Bomb()}, path)


def _bare(model, path):
    save_file({"a": torch.zeros(1)}, path)


def _truncated(model, path):
    path.write_bytes(model.path.read_bytes()[:-100])


def _misfit(model, path):
    rewrite(model, path, {k: v for k, v in load_file(model.path).items() if k != "head.bias"})


def _nan(model, path):
    weights = load_file(model.path)
    weights["head.bias"][0] = torch.nan
    rewrite(model, path, weights)


def _newer_card(model, path):
    rewrite(model, path, card=json.dumps(json.loads(model.card.model_dump_json()) | {"later": 1}))


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(lambda model, path: None, "no such file", id="missing"),
        pytest.param(lambda model, path: path.write_text("x"), "not a safetensors file", id="text"),
        pytest.param(
            lambda model, path: path.write_bytes(pickle.dumps(Bomb())),
            "not a safetensors",
            id="pickle",
        ),
        pytest.param(_pickled, "not a safetensors file", id="torch pickle"),
        pytest.param(_truncated, "not a safetensors file", id="truncated"),
        pytest.param(_bare, "without a live_restore card", id="no card"),
        pytest.param(_misfit, "head.bias, should be (4,) and is absent", id="misfit"),
        pytest.param(_nan, "finite", id="NaN"),
        pytest.param(_newer_card, "'later'", id="newer card"),
    ],
)
def test_what_is_not_a_model_is_refused_with_the_reason(
    spoil, expected, tiny_model, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.safetensors"
    spoil(tiny_model, path)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert expected in str(caught.value)
    assert not Path("exploded").exists()


@pytest.mark.parametrize(
    ("groups", "blocks", "radius"), [(5, 3, 38), (3, 3, 24), (2, 3, 17), (5, 5, 58), (1, 1, 5)]
)
def test_the_receptive_radius_is_how_far_a_voxel_reaches(groups, blocks, radius):
    architecture = Architecture(
        num_channels=2, num_residual_groups=groups, num_residual_blocks=blocks, channel_reduction=1
    )
    assert architecture.receptive_radius == radius
    if radius > 20:
        return
    network = build_network(architecture)
    for block in (b for group in network.groups for b in group.blocks):
        # Attention sees everything; a constant one leaves the convolutions alone.
        torch.nn.init.zeros_(block.attention.expand.weight)
    line = torch.zeros(1, 1, 1, 1, 2 * radius + 5, requires_grad=True)
    network(line)[0, 0, 0, 0, radius + 2].backward()
    reached = line.grad[0, 0, 0, 0].nonzero().flatten()
    assert reached.min() >= 2
    assert reached.max() <= 2 * radius + 2
