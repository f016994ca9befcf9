"""Keras files: real ones from Keras 2 and 3, made by tests/data/keras/make_vectors.py, and bent ones."""

import gzip
import io
import json
import os
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from live_restore.convert.keras_file import best_in_folder, read_keras
from live_restore.errors import ModelError
from live_restore.restore.model import build_network
from tests.conftest import DATA

VECTORS = Path(os.environ.get("LIVE_RESTORE_KERAS_VECTORS", DATA / "keras"))
NAMES = sorted(file.name.removesuffix(".hdf5.gz") for file in VECTORS.glob("*.hdf5.gz"))


def unpacked(name):
    return io.BytesIO(gzip.decompress((DATA / "keras" / f"{name}.hdf5.gz").read_bytes()))


def run(imported, volume):
    network = build_network(imported.architecture)
    network.load_state_dict(dict(imported.weights))
    with torch.inference_mode():
        return network.eval()(torch.from_numpy(volume)[None, None])[0, 0].numpy()


def test_there_are_vectors_of_both_keras_versions():
    assert len(NAMES) == 10
    assert {name.rpartition("_")[2] for name in NAMES} == {"keras2", "keras3"}


@pytest.mark.parametrize("name", NAMES)
def test_an_imported_network_gives_what_keras_gave(name):
    vector = np.load(VECTORS / f"{name}.npz")
    architecture = json.loads(str(vector["architecture"]))
    scaling = architecture["residual_scaling"]
    content = io.BytesIO(gzip.decompress((VECTORS / f"{name}.hdf5.gz").read_bytes()))
    imported = read_keras(content, name, None if scaling == 1 else scaling)
    assert architecture.items() <= imported.architecture.model_dump().items()
    assert imported.doubts == ()
    assert imported.source.startswith(f"Keras {name[-1]}.")
    difference = np.abs(run(imported, vector["input"]) - vector["output"]).max()
    # float32 adds up differently in each library: 3e-6 at most at full width and on real stacks.
    assert difference < 1e-5 * np.ptp(vector["output"])


# What follows bends the model_config of a real file, and writes it anew.


def layers_of(config, **wanted):
    """Layers of a configuration whose entries are as wanted."""
    found = config["config"]["layers"]
    return [layer for layer in found if all(layer[k] == v for k, v in wanted.items())]


def rewritten(name, bend=None, as_bytes=False, version=None):
    """The file after `bend` has changed its configuration."""
    file = unpacked(name)
    with h5py.File(file, "r+") as root:
        config = json.loads(root.attrs["model_config"])
        if bend is not None:
            bend(config)
        text = json.dumps(config)
        root.attrs["model_config"] = np.bytes_(text) if as_bytes else text
        if version:
            root.attrs["keras_version"] = np.bytes_(version)
    file.seek(0)
    return file


def as_tensorflow_1(source):
    """The same network as Keras 2.2.4 wrote it: attributes as bytes, class "Model", names from 12 on."""
    with h5py.File(source) as old:
        config = json.loads(old.attrs["model_config"])
        names = {}
        for layer in config["config"]["layers"]:
            stem, _, number = layer["name"].rpartition("_")
            is_numbered = number.isdecimal()
            stem, number = (stem, int(number)) if is_numbered else (layer["name"], 0)
            is_named = "standardize" in layer["name"]
            names[layer["name"]] = layer["name"] if is_named else f"{stem}_{number + 12}"
        text = json.dumps(config)
        for before in names:  # in two steps, so that no new name is taken for an old one
            text = text.replace(f'"{before}"', f'"@{before}"')
        for before, after in names.items():
            text = text.replace(f'"@{before}"', f'"{after}"')
        config = json.loads(text)
        config["class_name"] = "Model"
        for layer in config["config"]["layers"]:
            layer["config"].pop("groups", None)
            layer["config"].pop("keepdims", None)
        file = io.BytesIO()
        with h5py.File(file, "w") as new:
            new.attrs["model_config"] = np.bytes_(json.dumps(config))
            new.attrs["keras_version"] = np.bytes_("2.2.4")
            new.attrs["backend"] = np.bytes_("tensorflow")
            weights = new.create_group("model_weights")
            weights.attrs["layer_names"] = np.array(list(names.values()), dtype="S")
            for before, after in names.items():
                group = weights.create_group(after)
                inside = [
                    name
                    for name in ("kernel:0", "bias:0")
                    if f"model_weights/{before}/{before}" in old
                ]
                group.attrs["weight_names"] = np.array([f"{after}/{n}" for n in inside], dtype="S")
                for name in inside:
                    group[f"{after}/{name}"] = old[f"model_weights/{before}/{before}/{name}"][()]
    file.seek(0)
    return file


@pytest.mark.parametrize("name", ["small_keras2", "one_group_keras2", "scaled_keras2"])
def test_a_file_of_tensorflow_1_is_the_same_network(name):
    scaling = 0.25 if name.startswith("scaled") else None
    new, old = (
        read_keras(unpacked(name), "new", scaling),
        read_keras(as_tensorflow_1(unpacked(name)), "old.hdf5", scaling),
    )
    assert old.source == "Keras 2.2.4 file old.hdf5"
    assert old.architecture == new.architecture
    assert all(torch.equal(old.weights[key], tensor) for key, tensor in new.weights.items())


@pytest.mark.parametrize("name", ["small_keras2", "small_keras3"])
def test_the_order_of_layers_in_the_file_decides_nothing(name):
    def shuffle(config):
        np.random.default_rng(0).shuffle(config["config"]["layers"])

    shuffled, plain = read_keras(rewritten(name, shuffle), "x"), read_keras(unpacked(name), "x")
    assert all(torch.equal(shuffled.weights[key], tensor) for key, tensor in plain.weights.items())


def test_activations_in_layers_of_their_own_are_the_same_network():
    def split(config):
        layers = config["config"]["layers"]
        active = {
            layer["name"]: layer["config"]["activation"]
            for layer in layers_of(config, class_name="Conv3D")
            if layer["config"]["activation"] != "linear"
        }
        for layer in layers:
            if layer["name"] in active:
                layer["config"]["activation"] = "linear"
            for source in (one for node in layer["inbound_nodes"] for one in node):
                if source[0] in active:
                    source[0] += "_active"
        layers += [
            {
                "name": f"{name}_active",
                "class_name": "Activation",
                "config": {"activation": function},
                "inbound_nodes": [[[name, 0, 0, {}]]],
            }
            for name, function in active.items()
        ]

    one = read_keras(rewritten("small_keras2", split), "x")
    assert all(
        torch.equal(one.weights[key], tensor)
        for key, tensor in read_keras(unpacked("small_keras2"), "x").weights.items()
    )


def test_a_residual_scaling_that_the_file_tells_need_not_be_asked_for():
    def rescale(config):
        for layer in layers_of(config, class_name="Lambda"):
            if layer["name"].partition("_")[0] == "lambda" and "standardize" not in layer["name"]:
                layer["class_name"] = "Rescaling"
                layer["config"] = {"scale": 0.25, "offset": 0.0}

    assert (
        read_keras(rewritten("scaled_keras3", rescale), "x").architecture.residual_scaling == 0.25
    )
    with pytest.raises(ModelError, match=r"by 0\.25, and --residual-scaling is 0\.5"):
        read_keras(rewritten("scaled_keras3", rescale), "x", 0.5)


def test_a_residual_scaling_that_only_marshalled_code_tells_is_asked_for():
    for name in ("scaled_keras2", "scaled_keras3"):
        with pytest.raises(ModelError, match="--residual-scaling"):
            read_keras(unpacked(name), name)
    with pytest.raises(ModelError, match="by 1, and --residual-scaling is"):
        read_keras(unpacked("small_keras2"), "x", 0.1)


def _moved_skip(config):  # the long skip starts at the first group's output
    add = layers_of(config, class_name="Add")
    add[-1]["inbound_nodes"][0][1][0] = add[3]["name"]


def _no_block_skip(config):
    adds = layers_of(config, class_name="Add")
    adds[0]["inbound_nodes"][0][1][0] = adds[0]["inbound_nodes"][0][0][0]


def _swapped(config):  # the input isn't standardised
    text = json.dumps(config["config"]["layers"]).replace(
        "lambda_standardize", "lambda_destandardize_1"
    )
    config["config"]["layers"] = json.loads(text)


def _renamed(name):
    def bend(config):
        text = json.dumps(config).replace("lambda_destandardize", name)
        config.update(json.loads(text))

    return bend


def _each(which, /, **settings):
    def bend(config):
        layer = layers_of(config, class_name=which)[-1]
        for key, value in settings.items():
            if key == "class_name":
                layer[key] = value
            else:
                layer["config"][key] = value

    return bend


def _twice(config):
    layers_of(config, class_name="Conv3D")[2]["inbound_nodes"] *= 2


def _two_outputs(config):
    config["config"]["output_layers"] *= 2


def _loop(config):
    first = layers_of(config, class_name="Conv3D")[0]
    first["inbound_nodes"][0][0][0] = layers_of(config, class_name="Add")[0]["name"]


def _relu_on_tail(config):
    layers_of(config, class_name="Conv3D")[-1]["config"]["activation"] = "relu"


def _sequential(config):
    config["class_name"] = "Sequential"


def _nonsense(config):
    config["config"]["layers"] = 3


REFUSED = [
    pytest.param(_moved_skip, "its graph is another one", id="long skip moved"),
    pytest.param(_no_block_skip, "its graph is another one", id="no skip around a block"),
    pytest.param(_swapped, "2 x - 1 in front", id="not standardised"),
    pytest.param(_renamed("lambda_7"), "0.5 x \\+ 0.5 at the end", id="bare lambda at the end"),
    pytest.param(_renamed("clip"), "marshalled Python of unknown meaning", id="unknown lambda"),
    pytest.param(_renamed("pixel_shuffle"), "without upscaling", id="pixel shuffle"),
    pytest.param(_each("Conv3D", class_name="Conv2D"), "2D", id="2D"),
    pytest.param(_each("Conv3D", class_name="UpSampling3D"), "without upscaling", id="upsampling"),
    pytest.param(_each("Conv3D", class_name="Functional"), "inside the model", id="nested"),
    pytest.param(_each("Conv3D", class_name="BatchNormalization"), "normalises", id="batch norm"),
    pytest.param(_each("Conv3D", strides=[1, 2, 2]), "strides", id="strides"),
    pytest.param(_each("Conv3D", dilation_rate=[2, 2, 2]), "dilation_rate", id="dilation"),
    pytest.param(_each("Conv3D", padding="valid"), "padding", id="padding"),
    pytest.param(_each("Conv3D", kernel_size=[5, 5, 5]), "kernel_size", id="kernel"),
    pytest.param(_each("Conv3D", filters=3), "gives 3 channels", id="three channels out"),
    pytest.param(_each("InputLayer", batch_input_shape=[None, None, None, None, 2]), "takes 2 channels", id="channels in"),
    pytest.param(_each("InputLayer", batch_input_shape=[None, None, None, 1]), "only 3D", id="2D input"),
    pytest.param(_each("Multiply", class_name="Add"), "its graph is another one", id="attention adds"),
    pytest.param(_twice, "applied 2 times", id="shared layer"),
    pytest.param(_two_outputs, "2 outputs", id="two outputs"),
    pytest.param(_loop, "loop", id="loop"),
    pytest.param(_relu_on_tail, "its graph is another one", id="ReLU at the end"),
    pytest.param(_sequential, "Sequential", id="sequential"),
    pytest.param(_nonsense, "isn't understood", id="nonsense"),
]  # fmt: skip


@pytest.mark.parametrize(("bend", "reason"), REFUSED)
def test_what_is_not_the_published_network_is_refused_with_the_reason(bend, reason):
    with pytest.raises(ModelError, match=reason) as caught:
        read_keras(rewritten("small_keras2", bend), "bent.hdf5")
    assert str(caught.value).startswith("bent.hdf5: ")
    assert "\n" not in str(caught.value)


def test_a_single_group_with_a_closing_convolution_is_refused():
    """As a port would have it that treats one group as any other."""

    def bend(config):
        layers = config["config"]["layers"]
        conv = layers_of(config, class_name="Conv3D")[-2]  # after all groups
        add = layers_of(config, class_name="Add")[-1]
        more = json.loads(json.dumps([conv, add]))
        more[0]["name"], more[1]["name"] = "more_conv", "more_add"
        more[0]["inbound_nodes"] = [[[add["name"], 0, 0, {}]]]
        more[1]["inbound_nodes"] = [
            [["more_conv", 0, 0, {}], [layers_of(config, class_name="Conv3D")[0]["name"], 0, 0, {}]]
        ]
        tail = layers_of(config, class_name="Conv3D")[-1]
        tail["inbound_nodes"] = [[["more_add", 0, 0, {}]]]
        layers.extend(more)

    with pytest.raises(ModelError, match="only residual group ends with a convolution"):
        read_keras(rewritten("one_group_keras2", bend), "x")


def _hdf5(**attributes):
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root["images"] = np.zeros(3)
        root.attrs.update(attributes)
    return file.getvalue()


def _without_weights(content):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as root:
        del root["model_weights"]["conv3d_5"]
    return file.getvalue()


def _with_nan(content):
    file = io.BytesIO(content)
    with h5py.File(file, "r+") as root:
        root["model_weights/conv3d/conv3d/bias:0"][0] = np.nan
    return file.getvalue()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        pytest.param(lambda content: content[: len(content) // 2], "is it complete", id="truncated"),
        pytest.param(lambda content: b"\0" * 512 + content[512:], "not an HDF5 file", id="corrupted"),
        pytest.param(lambda content: b"hello", "not an HDF5 file", id="text"),
        pytest.param(lambda content: _hdf5(), "not a Keras model", id="unrelated"),
        pytest.param(lambda content: _hdf5(layer_names=["a"]), "without their architecture", id="weights"),
        pytest.param(lambda content: _hdf5(model_config="{"), "isn't understood", id="broken JSON"),
        pytest.param(_without_weights, "without weights", id="a layer's weights missing"),
        pytest.param(_with_nan, "finite", id="NaN"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_one_line_of_reason(spoil, reason):
    content = spoil(unpacked("small_keras2").getvalue())
    with pytest.raises(ModelError, match=reason) as caught:
        read_keras(io.BytesIO(content), "spoilt.hdf5")
    assert "\n" not in str(caught.value)


def test_marshalled_code_is_never_executed(tmp_path, monkeypatch):
    """The code of the lambdas may be anything at all."""

    def bend(config):
        for layer in layers_of(config, class_name="Lambda"):
            layer["config"]["function"] = ["nonsense", None, None]

    monkeypatch.setitem(sys.modules, "marshal", None)
    read_keras(rewritten("small_keras2", bend), "x")


def test_without_h5py_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModelError, match=r'pip install "live-restore\[keras\]"'):
        read_keras(io.BytesIO(), "x.hdf5")


@pytest.mark.parametrize(
    ("names", "best"),
    [
        pytest.param(["weights_001_0.5.hdf5", "weights_002_0.25.hdf5"], 1, id="decimals"),
        pytest.param(["weights_001_-0.5.hdf5", "weights_002_0.1.hdf5"], 0, id="negative"),
        pytest.param(["weights_001_1e-4.hdf5", "weights_002_2.5E-05.hdf5", "weights_003_0.1.hdf5"], 1, id="exponent"),
        pytest.param(["weights_001_1.hdf5", "weights_002_0.hdf5", "weights_010_3.hdf5"], 1, id="whole numbers"),
        pytest.param(["weights_001_0.1.hdf5", "weights_002_nan.hdf5"], 0, id="NaN"),
        pytest.param(["weights_001_0.1.hdf5", "weights_002_0.1.hdf5"], 1, id="later of equals"),
        pytest.param(["final.h5"], 0, id="the only one"),
        pytest.param(["best.hdf5", "weights_001_0.1.hdf5"], 1, id="a numbered one goes first"),
    ],
)  # fmt: skip
def test_the_lowest_loss_of_a_training_folder_wins(names, best, tmp_path):
    for name in (*names, "config.json", "notes.txt"):
        (tmp_path / name).touch()
    assert best_in_folder(tmp_path).name == names[best]


@pytest.mark.parametrize("names", [[], ["a.hdf5", "b.hdf5"], ["notes.txt"]])
def test_a_folder_whose_best_file_is_not_known_is_refused(names, tmp_path):
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match="Name one file"):
        best_in_folder(tmp_path)
