"""Keras models in HDF5 files, read with h5py alone: Keras 2 (TensorFlow 1 and 2) and Keras 3."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from live_restore.convert.keras_graph import read_graph
from live_restore.convert.keras_topology import find_rcan
from live_restore.convert.structure import Imported, assemble
from live_restore.errors import ModelError

__all__ = ["KERAS_SUFFIXES", "best_in_folder", "read_keras"]

KERAS_SUFFIXES = (".hdf5", ".h5")

_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|nan|[-+]?inf"
_CHECKPOINT = re.compile(rf"weights_(\d+)_({_NUMBER})", re.IGNORECASE)


def best_in_folder(folder: Path) -> Path:
    """The file of a training folder with the lowest loss, or its only one.

    Published training saves ``weights_<epoch>_<loss>.hdf5``. Of equal losses the later epoch wins.

    Raises
    ------
    ModelError
        None, or several whose losses aren't known.
    """
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in KERAS_SUFFIXES)
    losses: list[tuple[float, int, Path]] = []
    for file in files:
        match = _CHECKPOINT.fullmatch(file.stem)
        if match and math.isfinite(loss := float(match[2])):
            losses.append((loss, -int(match[1]), file))
    if losses:
        return min(losses)[2]
    if len(files) == 1:
        return files[0]
    names = ", ".join(file.name for file in files[:5])
    raise ModelError(
        f"{folder}: expected files weights_<epoch>_<loss>.hdf5, a single .hdf5 file or a bioimage.io "
        f"package (rdf.yaml); found {names or 'none of them'}. Name one file"
    )


def read_keras(
    file: Path | io.BytesIO, name: str, residual_scaling: float | None = None
) -> Imported:
    """A 3D RCAN from a Keras HDF5 file; nothing in it is executed.

    Parameters
    ----------
    file : pathlib.Path or io.BytesIO
        Where it is.
    name : str
        For messages and the card.
    residual_scaling : float, optional
        The factor of the blocks' ``lambda`` layers, which the file doesn't hold in readable form.

    Raises
    ------
    ModelError
        h5py isn't installed, the file is damaged or another one, or its network can't be
        represented.
    """
    try:
        import h5py
    except ImportError as error:
        raise ModelError(
            f"{name}: Keras files need h5py, which isn't installed: "
            'pip install "live-restore[keras]"'
        ) from error
    try:
        with h5py.File(file, "r") as root:
            return _read(root, name, residual_scaling)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise ModelError(
            f"{name}: not an HDF5 file that can be read to its end ({' '.join(str(error).split())}); "
            "is it complete? Copy it again"
        ) from error


def _read(root: Any, name: str, residual_scaling: float | None) -> Imported:
    if "model_config" not in root.attrs:
        is_weights = "layer_names" in root.attrs or "layer_names0" in root.attrs
        raise ModelError(
            "holds weights without their architecture; save the whole model: model.save(...)"
            if is_weights
            else "an HDF5 file, and not a Keras model (it has no model_config)"
        )
    found = find_rcan(read_graph(_text(root.attrs["model_config"])))
    if found.residual_scaling is None and residual_scaling is None:
        raise ModelError(
            "its blocks scale their residuals by a factor that the file holds only as marshalled "
            "Python, which is never executed; give the residual_scaling of its training: "
            "--residual-scaling 0.1, say"
        )
    scaling = found.residual_scaling
    if scaling is None:
        scaling = residual_scaling
    elif residual_scaling not in (None, scaling):
        raise ModelError(
            f"its blocks scale their residuals by {scaling:g}, and --residual-scaling is "
            f"{residual_scaling:g}; leave it out"
        )
    groups = root["model_weights"]
    architecture, weights = assemble(
        found.structure, lambda layer: _layer(groups, layer), float(scaling or 0)
    )
    version = _text(root.attrs.get("keras_version", "of unknown version"))
    return Imported(architecture, weights, f"Keras {version} file {name}")


def _layer(groups: Any, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's kernel ``(out, in, z, y, x)`` and bias; a dense one is a 1×1×1 convolution."""
    if layer not in groups:
        raise ModelError(f"its model_config has a layer {layer!r} without weights; is it complete?")
    group = groups[layer]
    arrays = {
        path.rpartition("/")[2].partition(":")[0]: np.asarray(group[path], dtype=np.float32)
        for path in _names(group.attrs, "weight_names")
    }
    kernel = arrays.pop("kernel", None)
    if kernel is None or kernel.ndim not in (2, 5):
        shape = None if kernel is None else kernel.shape
        raise ModelError(f"layer {layer!r}: a kernel of five axes is expected, and it is {shape}")
    bias = arrays.pop("bias", np.zeros(kernel.shape[-1], dtype=np.float32))
    if arrays:
        raise ModelError(f"layer {layer!r} has weights of unknown meaning: {', '.join(arrays)}")
    if kernel.ndim == 2:
        kernel = kernel[None, None, None]
    axes_of_torch = (4, 3, 0, 1, 2)
    return torch.from_numpy(kernel.transpose(axes_of_torch).copy()), torch.from_numpy(bias)


def _names(attributes: Mapping[str, Any], key: str) -> list[str]:
    """A list of names, which Keras splits into ``key0``, ``key1``… where it's too long for one."""
    if key in attributes:
        return [_text(name) for name in attributes[key]]
    parts: list[str] = []
    while f"{key}{(number := len(parts))}" in attributes and number < 1000:
        parts.append(f"{key}{number}")
    return [_text(name) for part in parts for name in attributes[part]]


def _text(value: Any) -> str:
    """Text that h5py gives as str, bytes or an array of one."""
    if isinstance(value, np.ndarray):
        value = value.item()
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
