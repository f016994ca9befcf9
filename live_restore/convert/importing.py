"""Foreign models of any kind that is understood, as models of this program."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError

from live_restore.convert.bioimageio_package import RDF_NAMES
from live_restore.convert.bioimageio_read import read_package
from live_restore.convert.keras_file import KERAS_SUFFIXES, best_in_folder, read_keras
from live_restore.convert.structure import Imported
from live_restore.convert.torch_file import TORCH_SUFFIXES, read_torch
from live_restore.errors import ModelError
from live_restore.restore.model import ModelCard, Normalisation, build_network, save_model

__all__ = ["Wishes", "import_model", "read_foreign"]


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the user says of the model, which goes before what its file says.

    Attributes
    ----------
    name, description, licence : str, optional
        For the card.
    residual_scaling : float, optional
        Factor on each block's residual, for files that don't hold it.
    low_percent, high_percent : float, optional
        Percentiles that normalised its input in training.
    voxel_size_um : tuple of float, optional
        ``(z, y, x)`` that it was trained for.
    """

    name: str | None = None
    description: str | None = None
    licence: str | None = None
    residual_scaling: float | None = None
    low_percent: float | None = None
    high_percent: float | None = None
    voxel_size_um: tuple[float, float, float] | None = None


def read_foreign(path: Path, wishes: Wishes = Wishes()) -> Imported:
    """A file, a training folder or a bioimage.io package, by what it is.

    Raises
    ------
    ModelError
        Of no known kind, or not a 3D RCAN that can be represented.
    """
    low, high = wishes.low_percent, wishes.high_percent
    percentiles = None if low is None or high is None else (low, high)
    is_package = path.is_dir() and any((path / name).is_file() for name in RDF_NAMES)
    if path.is_dir() and not is_package:
        path = best_in_folder(path)
    elif not path.exists():
        raise ModelError(f"{path}: no such file or folder")
    suffix = path.suffix.lower()
    if is_package or suffix == ".zip" or path.name in RDF_NAMES:
        return read_package(path, wishes.residual_scaling, percentiles)
    if suffix in KERAS_SUFFIXES:
        return read_keras(path, path.name, wishes.residual_scaling)
    if suffix in TORCH_SUFFIXES:
        return read_torch(path, path.name, wishes.residual_scaling)
    hint = {
        ".safetensors": "this program's own models need no import",
        ".keras": 'save it as HDF5 in Keras: model.save("model.h5")',
    }.get(suffix, "known are Keras .hdf5 and .h5, PyTorch .pth and .pt, and bioimage.io .zip")
    raise ModelError(f"{path}: no kind of model that can be imported; {hint}")


def import_model(path: Path, output: Path, wishes: Wishes = Wishes()) -> tuple[ModelCard, Imported]:
    """Write a foreign model as one of this program.

    Parameters
    ----------
    path : pathlib.Path
        A Keras ``.hdf5``, a training folder, a PyTorch ``.pth``, or a bioimage.io package.
    output : pathlib.Path
        A ``.safetensors`` file; replaced if it exists.
    wishes : Wishes
        What the user says of it.

    Returns
    -------
    ModelCard
        Of the written model.
    Imported
        What was read, with what couldn't be checked of it.

    Raises
    ------
    ModelError
        It can't be represented; nothing is written.
    """
    imported = read_foreign(path, wishes)
    card = _card(imported, wishes, output.stem)
    network = build_network(imported.architecture)
    network.load_state_dict(dict(imported.weights))
    save_model(output, network, card, dtype=torch.float32)
    return card, imported


def _card(imported: Imported, wishes: Wishes, name: str) -> ModelCard:
    known = imported.known
    # Published training normalises both halves of a pair by percentiles of their own.
    normalisation = known.normalisation or Normalisation(target="own")
    percents = {"low_percent": wishes.low_percent, "high_percent": wishes.high_percent}
    fields = normalisation.model_dump() | {k: v for k, v in percents.items() if v is not None}
    unknown = f"Imported from {imported.source}; what it does and what it doesn't do isn't known."
    if not fields["low_percent"] < fields["high_percent"]:
        raise ModelError(
            f"percentiles {fields['low_percent']:g} and {fields['high_percent']:g}: the low one "
            "must lie below the high one"
        )
    try:
        return ModelCard(
            name=wishes.name or known.name or name,
            description=wishes.description or known.description or unknown,
            architecture=imported.architecture,
            normalisation=Normalisation(**fields),
            voxel_size_um=wishes.voxel_size_um or known.voxel_size_um,
            training_data=known.training_data or f"not known: imported from {imported.source}",
            quality=dict(known.quality or {}),
            source=imported.source,
            citation=known.citation,
            licence=wishes.licence or known.licence or "not known",
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{where}: {first['input']}: {first['msg']}") from error
