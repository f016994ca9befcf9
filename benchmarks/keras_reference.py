"""The published network in Keras, with the tiler it was published with; against_keras.py runs it.

TensorFlow isn't among the program's dependencies: this runs in an environment of its own, and
imports nothing of the program. Network and tiler are written from their description.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

Shape = tuple[int, int, int]
Network = Callable[[np.ndarray], np.ndarray]


def serve(restore: Callable[[], np.ndarray], output: Path) -> None:
    """Restore once per line on the standard input, save the result, answer what it took.

    Parameters
    ----------
    restore : callable
        What is measured; warm.
    output : pathlib.Path
        Where the last result is saved.
    """
    with os.fdopen(os.dup(1), "w", buffering=1) as answers:
        os.dup2(2, 1)  # whatever libraries print is no answer
        answers.write("{}\n")
        for _ in sys.stdin:
            cpu_s, started = cpu_seconds(), time.monotonic()
            restored = restore()
            took = {"s": time.monotonic() - started, "cpu_s": cpu_seconds() - cpu_s}
            took["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            np.save(output, restored)
            answers.write(json.dumps(took) + "\n")


def cpu_seconds() -> float:
    """What all threads of this process have computed so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def build(keras: Any, weights: dict[str, np.ndarray], size: dict[str, int]) -> Any:
    """The network in the functional API, ``(N, Z, Y, X, C)``; its layers named as the weights are."""
    layers = keras.layers

    def conv(x: Any, name: str, activation: str | None = None) -> Any:
        kernel = weights[f"{name}.weight"]
        layer = layers.Conv3D(
            kernel.shape[0], kernel.shape[2:], padding="same", activation=activation, name=name
        )
        out = layer(x)
        layer.set_weights([kernel.transpose(2, 3, 4, 1, 0), weights[f"{name}.bias"]])
        return out

    def block(x: Any, name: str) -> Any:
        residual = conv(conv(x, f"{name}.conv1", "relu"), f"{name}.conv2")
        gate = layers.GlobalAveragePooling3D(keepdims=True)(residual)
        gate = conv(gate, f"{name}.attention.reduce", "relu")
        gate = conv(gate, f"{name}.attention.expand", "sigmoid")
        return layers.Add()([layers.Multiply()([residual, gate]), x])

    inputs = layers.Input((None, None, None, 1))
    x = head = conv(layers.Rescaling(2.0, -1.0)(inputs), "head")
    for i in range(size["num_residual_groups"]):
        skip = x
        for j in range(size["num_residual_blocks"]):
            x = block(x, f"groups.{i}.blocks.{j}")
        if size["num_residual_groups"] > 1:
            x = layers.Add()([conv(x, f"groups.{i}.conv"), skip])
    x = conv(layers.Add()([conv(x, "conv"), head]), "tail")
    return keras.Model(inputs, layers.Rescaling(0.5, 0.5)(x))


def in_blocks(network: Network, stack: np.ndarray, block: Shape, overlap: Shape) -> np.ndarray:
    """Restored as published: blocks from 0 in steps of block - overlap, blended by linear ramps.

    The last blocks hang over the far edge, padded by reflection. A stack as deep as a block
    gets a second layer of blocks, for its last slices.
    """
    total, weight = np.zeros_like(stack), np.zeros_like(stack)
    ramps = np.ix_(*(_ramp(b, o) for b, o in zip(block, overlap, strict=True)))
    ramp = ramps[0] * ramps[1] * ramps[2]
    for start in block_starts(stack.shape, block, overlap):
        where = tuple(slice(s, s + b) for s, b in zip(start, block, strict=True))
        part = stack[where]
        inside = tuple(slice(0, n) for n in part.shape)
        missing = [(0, b - n) for b, n in zip(block, part.shape, strict=True)]
        restored = network(np.pad(part, missing, mode="reflect"))
        total[where] += (restored * ramp)[inside]
        weight[where] += ramp[inside]
    return total / weight


def block_starts(shape: Shape, block: Shape, overlap: Shape) -> list[Shape]:
    """Where each block of `in_blocks` begins."""
    axes = (
        range(0, size, b - o) if size > o else (0,)
        for size, b, o in zip(shape, block, overlap, strict=True)
    )
    return list(product(*axes))


def _ramp(block: int, overlap: int) -> np.ndarray:
    up = np.minimum((np.arange(block) + 1) / (overlap + 1), 1)
    return np.minimum(up, up[::-1]).astype(np.float32)


def main() -> None:
    """Serve one way of running the network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with what against_keras.py wrote")
    parser.add_argument("how", choices=["predict", "function", "bfloat16"])
    parser.add_argument("output", type=Path)
    parser.add_argument("--tiled", action="store_true")
    options = parser.parse_args()
    settings = json.loads((options.folder / "settings.json").read_text())

    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(settings["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(settings["threads"])
    if options.how == "bfloat16":  # float32 otherwise, whatever the processor has
        tf.config.optimizer.set_experimental_options({"auto_mixed_precision_onednn_bfloat16": True})
    import keras

    with np.load(options.folder / "weights.npz") as weights:
        model = build(keras, dict(weights), settings["size"])
    function = tf.function(model)

    def network(volume: np.ndarray) -> np.ndarray:
        batch = volume[None, ..., None]
        if options.how == "predict":
            return model.predict(batch, verbose=0)[0, ..., 0]
        return function(tf.constant(batch)).numpy()[0, ..., 0]

    image = np.load(options.folder / "image.npy")
    if options.tiled:
        block, overlap = tuple(settings["block"]), tuple(settings["overlap"])
        network(np.zeros(block, np.float32))
        serve(lambda: in_blocks(network, image, block, overlap), options.output)
    else:
        network(image)
        serve(lambda: network(image), options.output)


if __name__ == "__main__":
    main()
