"""Where models lie: the one that comes with the program, and the user's own by their names."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

from platformdirs import user_data_path

from live_restore.errors import ModelError

__all__ = ["find_model", "shipped_model", "user_model_folder", "user_models"]


def shipped_model() -> Path:
    """Where the default model lies."""
    return Path(str(files("live_restore") / "models" / "default.safetensors"))


def user_model_folder() -> Path:
    """The folder whose models are known by name; it need not exist.

    ``LIVE_RESTORE_MODELS`` in the environment names another, as where several people share one PC.
    """
    other = os.environ.get("LIVE_RESTORE_MODELS")
    return Path(other).expanduser() if other else user_data_path("live-restore") / "models"


def user_models() -> list[Path]:
    """The model files in the user's folder."""
    return sorted(user_model_folder().glob("*.safetensors"))


def find_model(path: str | Path) -> Path:
    """The file behind a path, the name of a model in the user's folder, or ``"default"``.

    Raises
    ------
    ModelError
        There is none; the message lists the names that are known.
    """
    if str(path) == "default":
        return shipped_model()
    file = Path(path)
    if file.is_file():
        return file
    if len(file.parts) == 1:
        named = user_model_folder() / f"{file.name}.safetensors"
        if named.is_file():
            return named
    known = ", ".join(["default", *(one.stem for one in user_models())])
    raise ModelError(
        f"model {path}: no such file, and no model of that name. Give the path of a .safetensors "
        f"file, or a name ({known}; those in {user_model_folder()} count)"
    )
