"""PyTorch weights in ``.pth`` and ``.pt`` files; nothing in them is ever executed."""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from live_restore.convert.structure import Imported, assemble
from live_restore.convert.torch_layout import find_layers, find_structure
from live_restore.errors import ModelError

__all__ = ["TORCH_SUFFIXES", "read_torch"]

TORCH_SUFFIXES = (".pth", ".pt")

_DOUBT = (
    "the file holds weights alone: that their network adds its skips where the published one does "
    "can't be checked; compare a restored volume with the program that it comes from"
)
_PREFERRED = ("state_dict", "model_state_dict", "model")


def read_torch(
    file: Path | io.BytesIO, name: str, residual_scaling: float | None = None
) -> Imported:
    """A 3D RCAN from a PyTorch state dict, plain or within a checkpoint.

    Parameters
    ----------
    file : pathlib.Path or io.BytesIO
        Where it is.
    name : str
        For messages and the card.
    residual_scaling : float, optional
        Factor on each block's residual, which the file doesn't hold; 1 otherwise.

    Raises
    ------
    ModelError
        Another kind of file, or weights that can't be matched with the published network.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch says of foreign archives is said below
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        LookupError,
        ValueError,
        OSError,
    ) as error:
        raise ModelError(
            f"{name}: not a PyTorch file of weights alone, or damaged ({type(error).__name__}). "
            "Whole models and TorchScript aren't loaded, since that would execute what is in them: "
            "save torch.save(model.state_dict(), ...)"
        ) from error
    try:
        layers = find_layers(_without_wrapper(_state_dict(content)))
        structure = find_structure(layers)
        architecture, weights = assemble(structure, layers.__getitem__, _or_one(residual_scaling))
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from error
    is_ours = all(place == found for place, found in structure.places())
    return Imported(
        architecture, weights, f"PyTorch file {name}", doubts=() if is_ours else (_DOUBT,)
    )


def _or_one(residual_scaling: float | None) -> float:
    return 1.0 if residual_scaling is None else residual_scaling


def _state_dict(content: Any) -> Mapping[str, Tensor]:
    """The weights in a file: its content, or the only entry that looks like them."""
    if _is_state_dict(content):
        return dict(content)
    entries = content if isinstance(content, Mapping) else {}
    found = [str(key) for key, value in entries.items() if _is_state_dict(value)]
    chosen = found if len(found) == 1 else [key for key in _PREFERRED if key in found][:1]
    if not chosen:
        held = found or [str(key) for key in entries] or [type(content).__name__]
        raise ModelError(
            f"expected a state dict, plain or as the entry state_dict; found {', '.join(held[:8])}. "
            "Save torch.save(model.state_dict(), ...)"
        )
    return dict(entries[chosen[0]])


def _is_state_dict(value: Any) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in value.items())
    )


def _without_wrapper(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without the names that wrappers put in front of all others, as DataParallel's "module."."""
    found = dict(tensors)
    while len(roots := {key.partition(".")[0] for key in found}) == 1 and all(
        key.count(".") > 1 for key in found
    ):
        found = {key.removeprefix(f"{next(iter(roots))}."): value for key, value in found.items()}
    return found
