"""``live-restore import-model | export-model | models``, as a user runs them."""

import json
import shutil

import pytest
import torch

from live_restore.cli.main import main
from live_restore.restore.model import Normalisation, load_model
from tests.test_convert_keras_file import unpacked


@pytest.fixture
def keras_file(tmp_path):
    path = tmp_path / "weights_003_0.125.hdf5"
    path.write_bytes(unpacked("scaled_keras2").getvalue())
    return path


def test_a_keras_file_becomes_a_model_with_a_card(keras_file, tmp_path, capsys):
    output = tmp_path / "nuclei.safetensors"
    arguments = ["import-model", str(keras_file), str(output), "--residual-scaling", "0.25"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "2 groups of 2 blocks" in out
    assert f"written to {output}" in out
    model = load_model(output)
    card = model.card
    assert card.name == "nuclei"
    assert card.source == "Keras 2.21.0 file weights_003_0.125.hdf5"
    assert card.training_data == f"not known: imported from {card.source}"
    assert card.normalisation == Normalisation(target="own")
    assert card.architecture.residual_scaling == 0.25
    assert card.licence == "not known"
    # Stored as it came, in float32.
    from safetensors.torch import load_file

    assert {tensor.dtype for tensor in load_file(output).values()} == {torch.float32}

    assert main(arguments) == 2
    assert "--force" in capsys.readouterr().err
    more = ["--name", "N", "--description", "D", "--licence", "CC0-1.0", "--force"]
    more += ["--low-percent", "1", "--high-percent", "99", "--voxel-size", "0.3", "0.1", "0.1"]
    assert main([*arguments, *more]) == 0
    card = load_model(output).card
    assert (card.name, card.description, card.licence) == ("N", "D", "CC0-1.0")
    assert (card.normalisation.low_percent, card.normalisation.high_percent) == (1, 99)
    assert card.voxel_size_um == (0.3, 0.1, 0.1)


def test_a_training_folder_gives_its_best_file(keras_file, tmp_path, capsys):
    shutil.copy(keras_file, tmp_path / "weights_002_0.5.hdf5")
    output = tmp_path / "a.safetensors"
    assert main(["import-model", str(tmp_path), str(output), "--residual-scaling", "0.25"]) == 0
    assert "weights_003_0.125.hdf5" in capsys.readouterr().out


def test_a_state_dict_is_imported_with_a_note(tiny_model, tmp_path, capsys):
    state = tiny_model.network.state_dict()
    foreign = {
        key.replace("groups", "rgs").replace("attention", "ca"): v for key, v in state.items()
    }
    torch.save({"epoch": 1, "state_dict": foreign}, tmp_path / "a.pth")
    output = tmp_path / "a.safetensors"
    assert main(["import-model", str(tmp_path / "a.pth"), str(output)]) == 0
    assert "can't be checked" in capsys.readouterr().err
    for key, tensor in load_model(output).network.state_dict().items():
        assert torch.equal(tensor, state[key])


def _output(name):
    return lambda folder, file: ["import-model", file, folder / name, "--residual-scaling", "0.25"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        pytest.param(lambda d, f: ["import-model", f, d / "a.safetensors"], "--residual-scaling", id="scaling"),
        pytest.param(lambda d, f: ["import-model", d / "none.h5", d / "a.safetensors"], "no such file", id="missing"),
        pytest.param(lambda d, f: ["import-model", d / "notes.txt", d / "a.safetensors"], "known are Keras", id="unknown kind"),
        pytest.param(lambda d, f: ["import-model", d / "cut.hdf5", d / "a.safetensors"], "is it complete", id="truncated"),
        pytest.param(lambda d, f: ["import-model", d / "model.keras", d / "a.safetensors"], "model.save", id=".keras"),
        pytest.param(_output("a.pth"), "must end in .safetensors", id="suffix"),
        pytest.param(_output("none/a.safetensors"), "folder that exists", id="folder"),
        pytest.param(lambda d, f: [*_output("a.safetensors")(d, f), "--low-percent", "100", "--high-percent", "3"], "must lie below", id="percentiles"),
        pytest.param(lambda d, f: [*_output("a.safetensors")(d, f), "--low-percent", "-3"], "low_percent", id="percentile"),
        pytest.param(lambda d, f: ["export-model", d / "notes.txt", d / "a.zip"], "not a safetensors file", id="export"),
        pytest.param(lambda d, f: ["export-model", "default", d / "a.tar"], "must end in .zip", id="export suffix"),
        pytest.param(lambda d, f: ["models", d / "none"], "no such folder", id="models"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_one_line_and_exit_code_2(
    arguments, reason, keras_file, tmp_path, capsys
):
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "model.keras").write_text("hello")
    (tmp_path / "cut.hdf5").write_bytes(keras_file.read_bytes()[:9000])
    assert main([str(one) for one in arguments(tmp_path, keras_file)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert said.count("\n") == 1
    assert not list(tmp_path.glob("*.safetensors"))


def test_an_exported_model_is_imported_again(tiny_model, tmp_path, capsys):
    package, output = tmp_path / "a.zip", tmp_path / "a.safetensors"
    assert main(["export-model", str(tiny_model.path), str(package), "--author", "Me"]) == 0
    assert main(["export-model", str(tiny_model.path), str(package)]) == 2
    assert main(["import-model", str(package), str(output)]) == 0
    again = load_model(output)
    assert again.card.normalisation == tiny_model.card.normalisation
    for key, tensor in tiny_model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], tensor)


@pytest.fixture
def folders(tiny_model, tmp_path, monkeypatch):
    mine, others = tmp_path / "mine", tmp_path / "others"
    mine.mkdir()
    others.mkdir()
    shutil.copy(tiny_model.path, mine / "nuclei [60x].safetensors")
    shutil.copy(tiny_model.path, others / "b.safetensors")
    (others / "a.safetensors").write_text("hello")
    monkeypatch.setenv("LIVE_RESTORE_MODELS", str(mine))
    monkeypatch.setenv("COLUMNS", "400")
    return mine, others


def test_models_are_listed_and_a_broken_one_does_not_stop_the_list(folders, capsys):
    assert main(["models", str(folders[1])]) == 0
    lines = capsys.readouterr().out.splitlines()
    heads = [i for i, line in enumerate(lines[:-1]) if not line.startswith(" ")]
    names = ["default", "nuclei [60x]", "a", "b"]
    for name, i in zip(names, heads, strict=True):
        assert lines[i].startswith(f"{name} /")
    assert "PSNR" in "".join(lines[: heads[1]])
    assert "can't be used: not a safetensors file" in lines[heads[2] + 1]
    assert str(folders[0]) in lines[-1]


def test_models_are_listed_as_json(folders, tiny_model, capsys):
    assert main(["models", str(folders[1]), "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capsys.readouterr().out)}
    assert list(found) == ["default", "nuclei [60x]", "a", "b"]
    assert found["b"]["sha256"] == tiny_model.sha256
    assert found["b"]["card"] == tiny_model.card.model_dump(mode="json")
    assert "not a safetensors file" in found["a"]["error"]
    assert found["default"]["path"].endswith("default.safetensors")
