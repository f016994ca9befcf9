"""bioimage.io packages: ours, validated and run by bioimageio.core, and others'."""

import json
import shutil
import socket
import zipfile

import numpy as np
import pytest
import torch
import yaml

from live_restore.convert.bioimageio_read import read_package
from live_restore.convert.bioimageio_write import export_model
from live_restore.convert.importing import Wishes, import_model, read_foreign
from live_restore.errors import ModelError
from live_restore.restore.model import Model, Normalisation, load_model
from live_restore.restore.restorer import RcanRestorer
from tests.conftest import make_volume
from tests.test_convert_keras_file import unpacked


@pytest.fixture(scope="module")
def model(tiny_model):
    """The tiny model with a card that has everything to keep."""
    card = tiny_model.card.model_copy(
        update={
            "name": "tiny: nuclei, 60×",
            "normalisation": Normalisation(low_percent=1.5, high_percent=99.5, epsilon=1e-5),
            "voxel_size_um": (0.25, 0.1, 0.1),
            "quality": {"psnr_restored_db": 30.5},
            "citation": "me",
        }
    )
    return Model(card, tiny_model.network, tiny_model.sha256, tiny_model.path)


@pytest.fixture(scope="module")
def package(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("package") / "tiny.zip"
    export_model(model, path, ("A. Author",))
    return path


def unzipped(package, folder, change=None):
    """The package as a folder, its description changed."""
    with zipfile.ZipFile(package) as archive:
        archive.extractall(folder)
    if change is not None:
        description = yaml.safe_load((folder / "rdf.yaml").read_text("utf-8"))
        change(description)
        (folder / "rdf.yaml").write_text(yaml.safe_dump(description), "utf-8")
    return folder


def without_card(description):
    del description["config"]


def test_a_package_holds_what_others_need(package):
    with zipfile.ZipFile(package) as archive:
        assert {"rdf.yaml", "weights.pt", "rcan.py", "test_input.npy", "test_output.npy",
                "cover.png", "README.md"} == set(archive.namelist())  # fmt: skip
        readme = archive.read("README.md").decode()
        description = yaml.safe_load(archive.read("rdf.yaml"))
    assert "30.5" in readme
    assert description["authors"] == [{"name": "A. Author"}]
    assert description["license"] == "BSD-3-Clause"
    z = description["inputs"][0]["axes"][2]
    assert (z["id"], z["unit"], z["scale"]) == ("z", "micrometer", 0.25)


@pytest.mark.filterwarnings("ignore")  # bioimageio.core's own
def test_bioimageio_core_validates_and_runs_a_package(package, model, monkeypatch, tmp_path):
    def refuse(*arguments, **settings):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setenv("BIOIMAGEIO_CACHE_PATH", str(tmp_path))
    from bioimageio.core import load_model_description, predict, test_model

    summary = test_model(package, weight_format="pytorch_state_dict")
    assert summary.status == "passed", summary.format()
    with zipfile.ZipFile(package) as archive:
        raw = np.load(archive.open("test_input.npy"))
    other = np.random.default_rng(0).poisson(40, (1, 1, 9, 33, 35)).astype(np.uint16)
    for volume in (raw, other):
        result = predict(model=load_model_description(package), inputs={"raw": volume})
        theirs = result.members["restored"].data.to_numpy()[0, 0]
        with RcanRestorer(model, "cpu", "float32", "float32") as restorer:
            ours = restorer.restore(make_volume(volume[0, 0]))
        low, high = ours.intensity
        counts = theirs * (high - low + 1e-5) + low
        # Percentiles and sums in float32 or float64, and counts in the thousands of a percent.
        np.testing.assert_allclose(counts, ours.data, atol=1e-4 * (high - low))


@pytest.mark.parametrize("target", ["input", "own"])
def test_a_package_comes_back_as_the_same_model(target, model, tmp_path):
    norm = model.card.normalisation.model_copy(update={"target": target})
    card = model.card.model_copy(update={"normalisation": norm})
    export_model(Model(card, model.network, "", model.path), tmp_path / "a.zip")
    import_model(tmp_path / "a.zip", tmp_path / "b.safetensors")
    again = load_model(tmp_path / "b.safetensors")
    assert again.card.source == "bioimage.io 0.5.4 package a.zip"
    assert again.card.model_copy(update={"source": None}) == card
    for key, tensor in model.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[key], tensor)
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".part"] == []


def test_anothers_package_fills_the_card(package, tmp_path):
    imported = read_foreign(unzipped(package, tmp_path / "p", without_card))
    known = imported.known
    assert known.name == "tiny- nuclei- 60-"
    assert known.description == "untrained"
    assert known.licence == "BSD-3-Clause"
    assert "Nature Methods" in known.citation
    assert "10.1038/s41592-021-01155-x" in known.citation
    assert known.voxel_size_um == (0.25, 0.1, 0.1)
    assert known.normalisation == Normalisation(
        low_percent=1.5, high_percent=99.5, epsilon=1e-5, target="own"
    )
    card, _ = import_model(tmp_path / "p", tmp_path / "a.safetensors")
    assert card.training_data.startswith("not known: imported from bioimage.io 0.5.4 package")
    # The description itself is a name for the package, too.
    assert read_foreign(tmp_path / "p" / "rdf.yaml").known == known


def as_format_0_4(folder, name="small_keras2"):
    """A package of format 0.4 with Keras weights."""
    (folder / "weights.hdf5").write_bytes(unpacked(name).getvalue())
    scale = {"mode": "per_sample", "axes": "zyxc", "min_percentile": 2, "max_percentile": 99.9}
    tensor = {"axes": "bzyxc", "data_type": "float32", "shape": [1, 16, 64, 64, 1]}
    description = {
        "format_version": "0.4.9",
        "type": "model",
        "name": "old",
        "license": "CC-BY-4.0",
        "cite": [{"text": "Somebody", "url": "https://example.org"}],
        "inputs": [
            {"name": "raw", **tensor, "preprocessing": [{"name": "scale_range", "kwargs": scale}]}
        ],
        "outputs": [{"name": "out", **tensor}],
        "weights": {"keras_hdf5": {"source": "weights.hdf5"}},
    }
    (folder / "rdf.yaml").write_text(yaml.safe_dump(description))
    return folder


def test_a_package_of_format_0_4_with_keras_weights_is_imported(tmp_path):
    imported = read_package(as_format_0_4(tmp_path))
    assert imported.architecture.num_residual_groups == 3
    assert imported.known.citation == "Somebody, https://example.org"
    assert imported.known.normalisation == Normalisation(target="own")
    assert imported.known.licence == "CC-BY-4.0"
    assert imported.known.voxel_size_um is None
    shutil.make_archive(str(tmp_path / "zipped"), "zip", tmp_path, ".")
    assert read_package(tmp_path / "zipped.zip").architecture == imported.architecture


def _step(name, where="inputs", **kwargs):
    which = "preprocessing" if where == "inputs" else "postprocessing"

    def change(description):
        description[where][0][which] = [{"id": name, "kwargs": kwargs}] if name else []

    return change


def _set(*path, value):
    def change(description):
        *where, last = path
        for key in where:
            description = description[key]
        description[last] = value

    return change


def _axes(description):
    axes = description["inputs"][0]["axes"]
    axes[2], axes[4] = axes[4], axes[2]


WEIGHTS = ("weights", "pytorch_state_dict")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(_step("zero_mean_unit_variance"), "zero_mean_unit_variance.*no counterpart", id="other preprocessing"),
        pytest.param(_step(None), "none.*--low-percent", id="no preprocessing"),
        pytest.param(_step("scale_range", axes=["y", "x"]), "whole volumes", id="planes"),
        pytest.param(_step("scale_range", reference_tensor="other"), "another tensor", id="other tensor"),
        pytest.param(_step("scale_range", min_percentile=50, max_percentile=20), "must lie below", id="percentiles"),
        pytest.param(_step("sigmoid", "outputs"), "postprocessing sigmoid", id="postprocessing"),
        pytest.param(_step("scale_linear", "outputs", gain=-1), "rising lines", id="falling line"),
        pytest.param(_set("weights", value={"torchscript": {}, "onnx": {}}), "as onnx, torchscript alone; keras_hdf5 or", id="no weights that are understood"),
        pytest.param(_set(*WEIGHTS, "sha256", value="0" * 64), "SHA-256 differs", id="other weights"),
        pytest.param(_set(*WEIGHTS, "source", value="https://example.org/w.pt"), "download the whole package", id="web"),
        pytest.param(_set(*WEIGHTS, "source", value="../../w.pt"), "missing from the package", id="outside"),
        pytest.param(_set(*WEIGHTS, "architecture", "kwargs", "num_residual_groups", value=7), "says num_residual_groups = 7", id="other architecture"),
        pytest.param(_set("format_version", value="0.3.2"), "0.4 or 0.5 is needed", id="older"),
        pytest.param(_set("type", value="dataset"), "describes a dataset", id="dataset"),
        pytest.param(_set("inputs", value=[{}, {}]), "several inputs", id="two inputs"),
        pytest.param(_set("inputs", value=3), "isn't understood", id="nonsense"),
        pytest.param(_axes, "in this order", id="axes"),
        pytest.param(_set("config", "live_restore", "card", "later", value=1), "newer version", id="newer card"),
    ],
)  # fmt: skip
def test_what_has_no_counterpart_is_refused_with_the_reason(change, reason, package, tmp_path):
    with pytest.raises(ModelError, match=reason) as caught:
        read_package(unzipped(package, tmp_path / "p", change))
    assert str(caught.value).startswith("p: ")
    assert "\n" not in str(caught.value)


def test_a_package_without_preprocessing_takes_the_users_percentiles(package, tmp_path):
    def change(description):
        without_card(description)
        _step(None)(description)

    folder = unzipped(package, tmp_path / "p", change)
    imported = read_foreign(folder, Wishes(low_percent=3.0, high_percent=99.0))
    assert imported.known.normalisation == Normalisation(
        low_percent=3.0, high_percent=99.0, target="own"
    )


@pytest.mark.parametrize(
    "change",
    [
        _step("scale_range", axes=["batch", "channel", "z", "y", "x"], max_percentile=99.0),
        _step("scale_range", mode="per_dataset", axes="czyx", max_percentile=99.0),
    ],
)
def test_percentiles_of_a_whole_data_set_are_a_doubt(change, package, tmp_path):
    imported = read_package(unzipped(package, tmp_path / "p", change))
    assert any("whole data set" in doubt for doubt in imported.doubts)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(lambda data: data[:300], id="truncated"),
        pytest.param(lambda data: b"hello", id="text"),
    ],
)
def test_a_damaged_package_is_one_line_of_reason(content, package, tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(content(package.read_bytes()))
    with pytest.raises(ModelError, match="is it complete") as caught:
        read_package(path)
    assert "\n" not in str(caught.value)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", json.dumps({}))
    with pytest.raises(ModelError, match=r"no rdf\.yaml"):
        read_package(path)
