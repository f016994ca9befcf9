"""Makes the files that tests/test_convert_keras_file.py compares imported networks with.

Builds the published 3D RCAN from its description, in today's Keras 3 and in tf-keras (Keras 2's
format), gives it random weights, saves it as HDF5 and records what it makes of a random volume.
TensorFlow isn't among the program's dependencies; run this in an environment of its own::

    python -m venv keras-vectors
    keras-vectors/bin/pip install tensorflow-cpu tf-keras
    cd tests/data/keras && python make_vectors.py

The committed files hold narrow networks, to be small. At full width, and on a real stack::

    python make_vectors.py --num-channels 32 --output full --volume ../stardist_img3d.tif
    LIVE_RESTORE_KERAS_VECTORS=full pytest tests/test_convert_keras_file.py

Each configuration gives ``<name>_<keras>.hdf5.gz``, and in ``<name>_<keras>.npz`` the arrays
``input`` and ``output`` (Z, Y, X), and ``architecture`` as JSON. ``--volume`` takes a TIFF stack
(with tifffile installed) instead of random numbers.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tempfile
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

CONFIGURATIONS = {
    "default": {"num_residual_groups": 5, "num_residual_blocks": 3},
    "small": {"num_residual_groups": 3, "num_residual_blocks": 3},
    "large": {"num_residual_groups": 5, "num_residual_blocks": 5},
    "one_group": {"num_residual_groups": 1, "num_residual_blocks": 4},
    "scaled": {"num_residual_groups": 2, "num_residual_blocks": 2, "residual_scaling": 0.25},
}


def placeless(function: FunctionType) -> FunctionType:
    """The function without the path of this file, which Keras would store along with its code."""
    function.__code__ = function.__code__.replace(co_filename=Path(__file__).name)
    return function


def build(keras: Any, architecture: dict[str, Any]) -> Any:
    """The published network, its layers named as in published files."""
    layers = keras.layers
    channels = architecture["num_channels"]
    hidden = channels // architecture["channel_reduction"]
    scaling = architecture["residual_scaling"]
    num_groups = architecture["num_residual_groups"]

    def conv(x: Any, filters: int, size: int = 3, activation: str | None = None) -> Any:
        return layers.Conv3D(filters, size, padding="same", activation=activation)(x)

    def block(x: Any) -> Any:
        residual = conv(conv(x, channels, activation="relu"), channels)
        gate = layers.GlobalAveragePooling3D()(residual)
        gate = layers.Reshape((1, 1, 1, channels))(gate)
        gate = conv(conv(gate, hidden, 1, "relu"), channels, 1, "sigmoid")
        residual = layers.Multiply()([residual, gate])
        if scaling != 1:
            residual = layers.Lambda(placeless(lambda t: t * scaling))(residual)
        return layers.Add()([residual, x])

    x = inputs = layers.Input((None, None, None, 1))
    x = layers.Lambda(placeless(lambda t: 2 * t - 1), name="lambda_standardize")(x)
    x = head = conv(x, channels)
    for _ in range(num_groups):
        skip = x
        for _ in range(architecture["num_residual_blocks"]):
            x = block(x)
        if num_groups > 1:
            x = layers.Add()([conv(x, channels), skip])
    x = layers.Add()([conv(x, channels), head])
    x = conv(x, 1)
    last = layers.Lambda(placeless(lambda t: 0.5 * t + 0.5), name="lambda_destandardize")
    return keras.Model(inputs, last(x))


def randomise(model: Any, seed: int) -> None:
    """Weights of a scale that keeps activations about 1, and biases that matter."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        if layer.get_weights():
            kernel, bias = layer.get_weights()
            scale = np.sqrt(0.8 / np.prod(kernel.shape[:-1]))
            layer.set_weights([rng.normal(0, scale, kernel.shape), rng.normal(0, 0.3, bias.shape)])


def read_volume(path: Path | None, seed: int) -> np.ndarray:
    """Normalised intensities, float32 (Z, Y, X)."""
    if path is None:
        return np.random.default_rng(seed).random((7, 17, 19)).astype(np.float32)
    import tifffile

    stack = tifffile.imread(path).astype(np.float64)
    low, high = np.percentile(stack, (2, 99.9))
    return ((stack - low) / (high - low + 1e-6)).astype(np.float32)[:16, :128, :128]


def main() -> None:
    """Write all configurations of both Keras versions."""
    parser = argparse.ArgumentParser(description="Makes Keras files and what they give.")
    parser.add_argument("--num-channels", type=int, default=4)
    parser.add_argument("--channel-reduction", type=int)
    parser.add_argument("--output", type=Path, default=Path())
    parser.add_argument("--volume", type=Path, help="a TIFF stack instead of random numbers")
    options = parser.parse_args()

    import keras
    import tf_keras

    options.output.mkdir(parents=True, exist_ok=True)
    reduction = options.channel_reduction or max(options.num_channels // 4, 2)
    for seed, (name, configuration) in enumerate(CONFIGURATIONS.items()):
        architecture = {
            "num_channels": options.num_channels,
            "channel_reduction": reduction,
            "residual_scaling": 1.0,
            **configuration,
        }
        for version, library in (("keras2", tf_keras), ("keras3", keras)):
            library.backend.clear_session()
            model = build(library, architecture)
            randomise(model, seed)
            volume = read_volume(options.volume, seed)
            restored = model.predict(volume[None, ..., None], verbose=0)[0, ..., 0]
            stem = options.output / f"{name}_{version}"
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "model.hdf5"
                if version == "keras3":  # which only knows the suffix .h5
                    file = file.with_suffix(".h5")
                model.save(file)
                packed = gzip.compress(file.read_bytes(), 9, mtime=0)
            stem.with_suffix(".hdf5.gz").write_bytes(packed)
            np.savez_compressed(
                stem.with_suffix(".npz"),
                input=volume,
                output=restored,
                architecture=json.dumps(architecture),
            )
            print(f"{stem}: output {restored.min():.3f} to {restored.max():.3f}")


if __name__ == "__main__":
    main()
