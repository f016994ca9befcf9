"""What the fields of a profile are made of: paths, endpoints, voxel sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, PositiveFloat, ValidationInfo

__all__ = [
    "CameraPath",
    "Endpoint",
    "EnvelopePath",
    "ModelPath",
    "ProfilePath",
    "Table",
    "Voxel",
    "check_reach",
]

_SHIPPED = ("default", "democam")  # names that stand for what comes with the program


def _from_profile_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    if str(path) in _SHIPPED and info.field_name in ("path", "micro_manager", "keys"):
        return path
    if not str(path).isprintable():
        raise ValueError(
            "a backslash in double quotes became an invisible character: write / or 'single quotes'"
        )
    path = path.expanduser()
    return path if folder is None or path.is_absolute() else Path(folder) / path


def _known_by_name(suffix: str) -> AfterValidator:
    """A bare name with no file of that name beside the profile stays a name, to be looked up."""

    def from_profile_folder(path: Path, info: ValidationInfo) -> Path:
        file = _from_profile_folder(path, info)
        is_name = len(path.parts) == 1 and not path.name.endswith(suffix)
        return path if is_name and not file.is_file() else file

    return AfterValidator(from_profile_folder)


def _known_endpoint(endpoint: str) -> str:
    parts = urlsplit(endpoint)
    if parts.scheme == "ipc" and (parts.netloc or parts.path):
        return endpoint
    if parts.scheme != "tcp" or not parts.hostname:
        raise ValueError("an endpoint looks like tcp://127.0.0.1:5556 or ipc:///run/live.sock")
    try:
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{error}: give a port from 1 to 65535") from error
    if port is None:
        raise ValueError("the port is missing: tcp://127.0.0.1:5556")
    return endpoint


def check_reach(endpoint: str | None, info: ValidationInfo) -> str | None:
    """A validator that refuses an address which other PCs can reach, where `keys` before it is missing.

    Raises
    ------
    ValueError
        With the remedy.
    """
    host = urlsplit(endpoint or "").hostname
    is_local = host is None or host in ("localhost", "::1") or host.startswith("127.")
    if not is_local and info.data.get("keys") is None:
        raise ValueError(
            "without keys only loopback addresses (127.0.0.1) are served, since anybody "
            'who can connect could watch. Make keys with: live-restore keys init, and say keys = "default" '
            "here; or use an SSH tunnel: ssh -L 5556:127.0.0.1:5556 microscope"
        )
    return endpoint


ProfilePath = Annotated[Path, AfterValidator(_from_profile_folder)]
ModelPath = Annotated[Path, _known_by_name(".safetensors")]
CameraPath = Annotated[Path, _known_by_name(".json")]
EnvelopePath = Annotated[Path, _known_by_name(".envelope")]
Endpoint = Annotated[str, AfterValidator(_known_endpoint)]
Voxel = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class Table(BaseModel):
    """A table of the profile; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)
