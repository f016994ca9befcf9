"""The state of a training run on disk, whole or not at all."""

from __future__ import annotations

import os
import pickle
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

from live_restore.errors import ModelError
from live_restore.train.config import TrainConfig

__all__ = ["load_checkpoint", "save_checkpoint"]


def save_checkpoint(path: Path, config: TrainConfig, state: dict[str, Any]) -> None:
    """Replace the checkpoint; a kill at any moment leaves the old one or the new one.

    Parameters
    ----------
    path : pathlib.Path
        Of the checkpoint.
    config : TrainConfig
        Stored along, so that no other run resumes from it.
    state : dict
        Tensors, numbers, texts, dataclasses of them, and lists and dictionaries of these.
    """
    plain = {key: _plain(value) for key, value in state.items()}
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        torch.save({"config": config.model_dump_json(), **plain}, file)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path, config: TrainConfig) -> dict[str, Any]:
    """What `save_checkpoint` wrote; nothing in it is executed.

    Raises
    ------
    ModelError
        There is none, it is damaged, or it belongs to another configuration.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no checkpoint to resume from; start without --resume")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        stored = state.pop("config")
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ModelError(
            f"{path}: not a checkpoint of this program, or damaged ({type(error).__name__}); "
            "delete it and start again"
        ) from error
    if stored != config.model_dump_json():
        raise ModelError(
            f"{path}: belongs to a run with another configuration ({_difference(stored, config)}); "
            "resume with the old one, or start again with another --output"
        )
    return state


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value


def _difference(stored: str, config: TrainConfig) -> str:
    """The first setting that differs, in words."""
    old, new = (
        dict(_flat(TrainConfig.model_validate_json(text).model_dump()))
        for text in (stored, config.model_dump_json())
    )
    name = next(key for key in [*old, *new] if old.get(key) != new.get(key))
    return f"{name} was {old.get(name)} and is {new.get(name)}"


def _flat(table: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    out: list[tuple[str, Any]] = []
    for key, value in table.items():
        inner = (
            _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
        )
        out.extend(inner)
    return out
