"""The profile: one TOML file that says where volumes come from, what restores them, where they go.

Unknown keys are refused with the nearest right name. Relative paths count from the profile's own
folder. Each field's docstring is its help.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from live_restore.errors import ProfileError

__all__ = [
    "AcquisitionSource",
    "FolderSource",
    "ModelSettings",
    "Profile",
    "PublishSettings",
    "QueueSettings",
    "SimulatedSource",
    "SourceSettings",
    "WriteSettings",
    "load_profile",
    "parse_profile",
]


_SHIPPED = ("default", "democam")  # names that stand for what comes with the program


def _from_profile_folder(path: Path, info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    if str(path) in _SHIPPED and info.field_name in ("path", "micro_manager"):
        return path
    if not str(path).isprintable():
        raise ValueError(
            "a backslash in double quotes became an invisible character: write / or 'single quotes'"
        )
    path = path.expanduser()
    return path if folder is None or path.is_absolute() else Path(folder) / path


def _model_from_profile_folder(path: Path, info: ValidationInfo) -> Path:
    """A bare name with no file of that name beside the profile stays a name, to be looked up."""
    file = _from_profile_folder(path, info)
    is_name = len(path.parts) == 1 and not path.name.endswith(".safetensors")
    return path if is_name and not file.is_file() else file


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
    if parts.hostname not in ("localhost", "::1") and not parts.hostname.startswith("127."):
        raise ValueError(
            "only loopback addresses (127.0.0.1) are served, since anybody who can connect could "
            "watch; from another PC use an SSH tunnel: ssh -L 5556:127.0.0.1:5556 microscope"
        )
    return endpoint


ProfilePath = Annotated[Path, AfterValidator(_from_profile_folder)]
ModelPath = Annotated[Path, AfterValidator(_model_from_profile_folder)]
Endpoint = Annotated[str, AfterValidator(_known_endpoint)]
Voxel = tuple[PositiveFloat, PositiveFloat, PositiveFloat]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SimulatedSource(_Table):
    """A simulated low-dose microscope; its ground truth is known."""

    kind: Literal["simulated"]
    """Which source this table describes."""
    name: str = "simulated"
    """Name of the acquisition."""
    shape_zyx: tuple[PositiveInt, PositiveInt, PositiveInt] = (24, 144, 144)
    """Planes, rows and columns of each volume."""
    voxel_size_um: Voxel = (0.3, 0.13, 0.13)
    """Voxel size (z, y, x)."""
    channels: tuple[str, ...] = Field(("microtubules", "nuclei"), min_length=1)
    """Names of the channels."""
    peak_photons: PositiveFloat = 12.0
    """Light dose: photons per voxel in the brightest structures."""
    num_times: PositiveInt | None = None
    """Time points; without it, until the service is stopped."""
    exposure_ms: float = Field(10.0, ge=0)
    """Time between planes."""
    interval_s: float = Field(2.0, ge=0)
    """Time between the starts of two time points; also how far the specimen moves."""
    seed: int = Field(7, ge=0)
    """Which specimen and which noise."""


class FolderSource(_Table):
    """A folder into which finished TIFF stacks are saved."""

    kind: Literal["folder"]
    """Which source this table describes."""
    path: ProfilePath
    """The watched folder; folders inside it count."""
    existing: Literal["restore", "ignore"] = "restore"
    """What to do with files that are there at start."""
    settle_s: float = Field(1.0, ge=0)
    """A file is taken when its size and time stood still for so long and it opens whole."""
    rescan_s: PositiveFloat = 10.0
    """The folder is listed anew so often, since file systems lose events."""
    polling: bool = False
    """Look for changes by listing only; needed on network shares, which send no events."""
    voxel_size_um: Voxel | None = None
    """Voxel size (z, y, x) for files that don't say theirs."""


class AcquisitionSource(_Table):
    """A z-stack time lapse that this program runs itself, through pycromanager."""

    kind: Literal["acquisition"]
    """Which source this table describes."""
    name: str = "acquisition"
    """Name of the acquisition; a number is added to tell runs apart."""
    micro_manager: ProfilePath = Path("democam")
    """Folder of the Micro-Manager installation; "democam" is the demonstration camera that comes
    with the extra "demo"."""
    config_file: str = "MMConfig_demo.cfg"
    """Hardware configuration, in the installation's folder or with its full path."""
    buffer_mb: PositiveInt = 256
    """Micro-Manager's circular buffer."""
    channel_group: str = "Channel"
    """Configuration group that holds the channels."""
    channels: tuple[str, ...] = Field((), max_length=64)
    """Presets of `channel_group`; none for a single channel as the microscope stands."""
    z_start_um: float = 0.0
    """First plane."""
    z_step_um: PositiveFloat = 0.5
    """Distance between planes."""
    num_slices: PositiveInt = 10
    """Planes per stack."""
    num_times: PositiveInt = 1
    """Time points."""
    interval_s: float = Field(0.0, ge=0)
    """Time between the starts of two time points."""
    exposure_ms: PositiveFloat = 10.0
    """Exposure of each plane."""
    pixel_size_um: PositiveFloat | None = None
    """Where Micro-Manager's own pixel size calibration is missing."""
    properties: Mapping[str, str] = {}
    """Device properties to set first, as "Camera-PixelType" = "16bit"."""
    save_folder: ProfilePath | None = None
    """Where pycromanager saves the raw data (NDTiff); without it, it is kept in memory only."""
    memory_mb: PositiveInt = 2048
    """Planes that wait for this program; beyond it planes are let go, never the acquisition."""


SourceSettings = Annotated[
    SimulatedSource | FolderSource | AcquisitionSource, Field(discriminator="kind")
]


class ModelSettings(_Table):
    """What restores."""

    path: ModelPath = Path("default")
    """A .safetensors file, the name of one in your model folder (see live-restore models), or
    "default" for the one that comes with the program."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    """"cuda", "cuda:1", "cpu", or "auto": a GPU where there is one."""
    precision: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """"auto" is float16 on a GPU and float32 on the processor."""
    output_dtype: Literal["uint16", "float32"] = "uint16"
    """Restored intensities are in the raw volume's own counts, as whole numbers or not."""
    tile_zyx: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Largest tile; without it, chosen from the model and the memory."""


class PublishSettings(_Table):
    """Where viewers connect."""

    endpoint: Endpoint = "tcp://127.0.0.1:5556"
    """Data port."""
    control: Endpoint | None = "tcp://127.0.0.1:5557"
    """Control port, for latecomers and gaps."""
    history_mb: PositiveInt = 512
    """Volumes kept for the control port."""


class WriteSettings(_Table):
    """Where restored volumes are written."""

    folder: ProfilePath
    """Made if it isn't there; OME-TIFF, one file per volume."""


class QueueSettings(_Table):
    """What waits between the stages."""

    order: Literal["live", "strict"] = "live"
    """"live": newest volume first, older ones when there is time. "strict": in order."""
    memory_mb: PositiveInt = 2048
    """Volumes that wait for restoration. When it is full, "live" passes over the oldest and says so,
    "strict" makes the source wait."""
    shutdown_s: float = Field(60.0, ge=0)
    """How long the queues may drain after the first signal to stop."""


class Profile(_Table):
    """All settings of one service."""

    source: SourceSettings
    """Where volumes come from."""
    model: ModelSettings = ModelSettings()
    """What restores them."""
    publish: PublishSettings | None = PublishSettings()
    """Where viewers get them."""
    write: WriteSettings | None = None
    """Where they are written; nothing is written without it."""
    queue: QueueSettings = QueueSettings()
    """What waits in between."""

    @model_validator(mode="after")
    def _written_outside_the_watched_folder(self) -> Profile:
        if isinstance(self.source, FolderSource) and self.write is not None:
            watched, written = self.source.path.resolve(), self.write.folder.resolve()
            if written == watched:
                raise ValueError(
                    f"write.folder: {written} is the watched folder itself, so that results would "
                    "be restored again; name another folder"
                )
        return self


def load_profile(path: Path, folder: Path | None = None) -> Profile:
    """Read and check a profile.

    Parameters
    ----------
    path : pathlib.Path
        A TOML file.
    folder : pathlib.Path, optional
        Where relative paths in it count from; the profile's own folder otherwise.

    Raises
    ------
    ProfileError
        Unreadable or wrong; the message names each key, its value and a remedy, a line each.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ProfileError(f"profile {path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"profile {path}: can't be read: {error}") from error
    return parse_profile(text, path, folder)


def parse_profile(text: str, path: Path, folder: Path | None = None) -> Profile:
    """A profile from TOML text; `path` names it in messages. See `load_profile`."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(
            f"profile {path}: not valid TOML: {error}. In Windows paths write / or use 'single quotes'"
        ) from error
    try:
        context = {"folder": folder or path.resolve().parent}
        return Profile.model_validate(tables, context=context)
    except ValidationError as error:
        lines = [
            _explain(one["loc"], one["type"], one["msg"], one["input"]) for one in error.errors()
        ]
        raise ProfileError("\n".join(f"profile {path}: {line}" for line in lines)) from error


def _explain(loc: tuple[int | str, ...], kind: str, message: str, value: object) -> str:
    """One validation error in the words of the profile's author."""
    tables = _tables_at(loc[:-1])
    names = [str(part) for part in loc if part not in _SOURCE_KINDS]
    key = ".".join(names)
    if kind == "extra_forbidden":
        known = sorted({name for table in tables for name in table.model_fields})
        close = difflib.get_close_matches(names[-1], known, 1, 0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return f"{key} = {value!r}: there is no such key; {hint}"
    if kind == "missing":
        return f"{key}: is missing; {_help(loc)}"
    if kind == "union_tag_not_found":
        return f"{key}.kind: is missing; one of {', '.join(_SOURCE_KINDS)}"
    if kind == "union_tag_invalid":
        given = value.get("kind") if isinstance(value, Mapping) else value
        close = difflib.get_close_matches(str(given), _SOURCE_KINDS, 1, 0.5)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        return f"{key}.kind = {given!r}: must be one of {', '.join(_SOURCE_KINDS)}{hint}"
    message = message.removeprefix("Value error, ")
    if not names:
        return message
    return f"{key} = {value!r}: {message[:1].lower()}{message[1:]}. {_help(loc)}".rstrip()


_SOURCE_KINDS = tuple(
    str(get_args(table.model_fields["kind"].annotation)[0])
    for table in (SimulatedSource, FolderSource, AcquisitionSource)
)


def _tables_at(loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The tables that a place in the profile may belong to."""
    tables: list[type[BaseModel]] = [Profile]
    for part in loc:
        if part in _SOURCE_KINDS:
            tables = [t for t in tables if part in get_args(t.model_fields["kind"].annotation)]
        else:
            fields = [t.model_fields[str(part)] for t in tables if str(part) in t.model_fields]
            tables = [member for field in fields for member in _members(field.annotation)]
    return tables


def _members(annotation: Any) -> list[type[BaseModel]]:
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return [member for part in get_args(annotation) for member in _members(part)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return []


def _help(loc: tuple[int | str, ...]) -> str:
    """The docstring of the field at a place, on one line."""
    for end in range(len(loc), 0, -1):
        for table in _tables_at(loc[: end - 1]):
            field = table.model_fields.get(str(loc[end - 1]))
            if field is not None and field.description:
                return " ".join(field.description.split())
    return ""
