"""A model file: 3D RCAN weights and a card that says what they are, in one ``.safetensors`` file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from live_restore.errors import ModelError
from live_restore.restore.model_folder import find_model, shipped_model
from live_restore.restore.rcan import RCAN3D

__all__ = [
    "Architecture",
    "Model",
    "ModelCard",
    "Normalisation",
    "load_model",
    "save_model",
    "shipped_model",
]

_CARD_KEY = "live_restore.card"
_STATISTICS = "statistics."


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Architecture(_Card):
    """Size of the 3D RCAN, by the published names."""

    in_channels: Literal[1] = 1
    """Image channels in; one volume is one channel."""
    out_channels: Literal[1] = 1
    """Image channels out."""
    num_channels: int = Field(32, ge=1, le=512)
    """Feature channels."""
    num_residual_groups: int = Field(5, ge=1, le=64)
    """Residual groups."""
    num_residual_blocks: int = Field(3, ge=1, le=64)
    """Residual blocks per group."""
    channel_reduction: int = Field(8, ge=1)
    """Narrowing inside the channel attention."""
    residual_scaling: float = 1.0
    """Factor on each block's residual."""

    @property
    def receptive_radius(self) -> int:
        """How many voxels away an input voxel can matter, the attention's pooling left out."""
        per_group = 2 * self.num_residual_blocks + (self.num_residual_groups > 1)
        return 3 + self.num_residual_groups * per_group


class Normalisation(_Card):
    """How counts become the network's input."""

    low_percent: float = Field(2.0, ge=0, le=100)
    """Percentile of the raw volume that becomes 0."""
    high_percent: float = Field(99.9, ge=0, le=100)
    """Percentile of the raw volume that becomes 1."""
    epsilon: float = Field(1e-6, gt=0)
    """Added to the width."""
    target: Literal["input", "own"] = "input"
    """Whose percentiles normalised the ground truth in training: the raw volume's ("input": the output
    is in the raw volume's units) or its own ("own", as published: the output is fitted to the raw
    volume by least squares to give counts)."""


class TrainingStatistics(_Card):
    """What the model was shown, measured on patches that it never learned from.

    The measurements themselves lie beside the weights as tensors, a row per patch:
    ``statistics.pooled`` (mean and log standard deviation of each channel in front of each channel
    attention), ``statistics.signal`` and ``statistics.spectrum`` (log power of the restored patch by
    spatial frequency, lateral then axial).
    """

    patch_zyx: tuple[int, int, int]
    """Shape of the patches; the pooled activations hold for this shape only."""
    num_patches: int = Field(ge=1)
    """How many were measured."""
    photoelectrons: tuple[float, float] | None = None
    """Signal per voxel in the patches' bright structures, 1st to 99th percentile; none when the
    camera's gain wasn't known."""
    signal_to_noise: tuple[float, float]
    """Standard deviation of the restored patch over that of what was removed, 1st to 99th percentile."""
    sharpness: tuple[float, float]
    """Spectral centroid of the restored patches in the plane, in cycles per voxel, 1st to 99th percentile."""


class ModelCard(_Card):
    """What a model is, in terms that a biologist and the program both understand."""

    name: str
    """Short name."""
    description: str
    """What it does and what it does not do."""
    architecture: Architecture
    """The network's size."""
    normalisation: Normalisation = Normalisation()
    """How its input was normalised in training, and whose unit its output is in."""
    voxel_size_um: tuple[float, float, float] | None = None
    """Voxel size ``(z, y, x)`` it was trained for; none if it was trained for many."""
    training_data: str
    """In words: specimens, microscope, doses, number of volumes."""
    quality: dict[str, float] = {}
    """Measured on volumes it never saw; the name says what and in which unit."""
    statistics: TrainingStatistics | None = None
    """What it was shown; none for imported models."""
    source: str | None = None
    """Where an imported model came from: format and file name."""
    citation: str | None = None
    """What to cite, as the imported package asks."""
    licence: str
    """Of the weights."""


class Model:
    """A loaded model.

    Attributes
    ----------
    card : ModelCard
        What it is.
    network : RCAN3D
        float32, on the CPU, in evaluation mode.
    sha256 : str
        Of the file, hexadecimal.
    path : pathlib.Path
        Where it came from.
    statistics : dict of str to Tensor
        Described by ``card.statistics``, names without their prefix; empty if there is none.
    """

    def __init__(
        self,
        card: ModelCard,
        network: RCAN3D,
        sha256: str,
        path: Path,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.statistics = dict(statistics or {})
        self.card = card
        self.network = network
        self.sha256 = sha256
        self.path = path


def build_network(architecture: Architecture) -> RCAN3D:
    """An untrained network of this size."""
    return RCAN3D(**architecture.model_dump())


def save_model(
    path: Path,
    network: RCAN3D,
    card: ModelCard,
    statistics: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write weights and card to one file, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.safetensors``; replaced if it exists.
    network : RCAN3D
        Fits ``card.architecture``.
    card : ModelCard
        Stored as JSON in the file's metadata.
    statistics : mapping of str to Tensor, optional
        What ``card.statistics`` describes.
    dtype : torch.dtype
        Of the weights in the file: float16, or float32 where a model must stay as it came.
    """
    tensors = {k: v.detach().cpu().to(dtype) for k, v in network.state_dict().items()}
    tensors |= {_STATISTICS + k: v.detach().cpu().half() for k, v in (statistics or {}).items()}
    weights = {k: v.contiguous() for k, v in tensors.items()}
    part = path.with_name(path.name + ".part")
    part.write_bytes(save(weights, metadata={_CARD_KEY: card.model_dump_json()}))
    part.replace(path)


def load_model(path: str | Path) -> Model:
    """Load a model file; nothing in it is ever executed.

    Parameters
    ----------
    path : str or pathlib.Path
        A ``.safetensors`` file written by `save_model`, the name of one in the user's model folder,
        or ``"default"`` for the shipped one.

    Raises
    ------
    ModelError
        No such file, not a model of this program, or weights that don't fit their card.
    """
    file = find_model(path)
    card = read_card(file)
    network = build_network(card.architecture)
    with safe_open(file, framework="pt") as tensors:
        found_tensors = {k: tensors.get_tensor(k).float() for k in tensors.keys()}  # noqa: SIM118
    statistics = {
        k.removeprefix(_STATISTICS): v
        for k, v in found_tensors.items()
        if k.startswith(_STATISTICS)
    }
    weights = {k: v for k, v in found_tensors.items() if not k.startswith(_STATISTICS)}
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"model {file}: {len(wrong)} weights don't fit the architecture in its card; the first, "
            f"{name}, should be {expected.get(name, 'absent')} and is {found.get(name, 'absent')}. "
            "Export the model again"
        )
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise ModelError(
            f"model {file}: holds weights that aren't finite numbers. Its training failed; use an "
            "earlier checkpoint"
        )
    network.load_state_dict(weights)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    return Model(card, network.eval(), digest, file, statistics)


def read_card(file: Path) -> ModelCard:
    """The card alone, without building the network.

    Raises
    ------
    ModelError
        Not a safetensors file, or one without a card.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            metadata = tensors.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"model {file}: not a safetensors file ({error}). live_restore loads .safetensors files "
            "that it wrote itself"
        ) from error
    if _CARD_KEY not in metadata:
        raise ModelError(
            f"model {file}: a safetensors file without a live_restore card, so its architecture and "
            "normalisation aren't known. Use a file written by live_restore"
        )
    try:
        return ModelCard.model_validate_json(metadata[_CARD_KEY])
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"model {file}: its card is not valid at {where!r}: {first['msg']}. It may come from a "
            "newer version of live_restore"
        ) from error
