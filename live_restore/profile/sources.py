"""The profile's table ``[source]``: where volumes come from, one class per kind."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from live_restore.profile.fields import Endpoint, ProfilePath, Table, Voxel, check_reach
from live_restore.profile.pattern import check_pattern

__all__ = [
    "AcquisitionSource",
    "FolderLayout",
    "FolderSource",
    "IngestSource",
    "MicroManagerSource",
    "SimulatedSource",
    "SourceSettings",
    "StagePosition",
]

FolderLayout = Literal[
    "auto", "ndtiff", "image-stack", "separate-images", "plane-files", "whole-files"
]
"""How acquisitions in a watched folder are laid out."""


class SimulatedSource(Table):
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
    ladder_from: NonNegativeInt | None = None
    """From this time point on each has less light than the one before, to see where restoration breaks."""
    ladder_start: PositiveFloat = 4.0
    """Light of that time point, in multiples of `peak_photons`."""
    ladder_step: float = Field(0.6, gt=0, lt=1)
    """Factor on the light from one to the next then."""
    seed: int = Field(7, ge=0)
    """Which specimen and which noise."""


class FolderSource(Table):
    """A folder into which z-stacks are saved.

    Acquisitions in Micro-Manager's own layouts (NDTiff, image stack files, separate image files) and
    those of one file per plane that `pattern` tells are taken plane by plane while they are written;
    other stacks when they are finished.
    """

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
    polling: bool | None = None
    """Look for changes by listing only, or never do; without it, done on network shares, which send no
    events."""
    layout: FolderLayout = "auto"
    """How acquisitions are laid out; "auto" recognises each by itself, "whole-files" takes none while it
    grows."""
    pattern: Annotated[str, AfterValidator(check_pattern)] | None = None
    """Of the names of acquisitions of one file per plane, as "{channel}_{time}_{z}.tif": {position}, {channel},
    {time} and {z}, each at most once and {z} always; * for what doesn't matter, / between folders."""
    voxel_size_um: Voxel | None = None
    """Voxel size (z, y, x) for files that don't say theirs."""
    num_slices: PositiveInt | None = None
    """Planes per stack of growing acquisitions that don't say it, as pycromanager's own; without it, learned
    from their first stacks."""
    idle_s: PositiveFloat = 600.0
    """A growing acquisition to which nothing is added for so long is over."""

    @model_validator(mode="after")
    def _a_pattern_for_plane_files(self) -> FolderSource:
        if self.layout == "plane-files" and self.pattern is None:
            raise ValueError(
                'layout = "plane-files" needs a pattern of the files\' names: add pattern = '
                '"{channel}_{time}_{z}.tif", as yours are called'
            )
        return self


class MicroManagerSource(Table):
    """Acquisitions that you start in Micro-Manager's own window, followed without being owned.

    Micro-Manager's "Run server on port 4827" (Tools, Options) must be on.
    """

    kind: Literal["micromanager"]
    """Which source this table describes."""
    port: int = Field(4827, ge=1, le=65535)
    """Of Micro-Manager's server."""
    poll_ms: float = Field(100.0, ge=5)
    """How often Micro-Manager is asked for new images while an acquisition runs."""
    silence_s: float = Field(10.0, gt=0)
    """A connection to Micro-Manager that says nothing for so long is given up and made anew."""
    pixel_size_um: PositiveFloat | None = None
    """Where Micro-Manager's own pixel size calibration is missing."""


class IngestSource(Table):
    """Planes that other programs send: live_restore.hook in your own acquisition scripts."""

    kind: Literal["ingest"]
    """Which source this table describes."""
    keys: ProfilePath | None = None
    """Folder of the keys of those who may send, or "default" (see live-restore keys). Needed for addresses
    that other PCs can reach."""
    endpoint: Endpoint = "tcp://127.0.0.1:5558"
    """Port that takes planes."""
    pixel_size_um: PositiveFloat | None = None
    """Where the sender doesn't know it."""
    z_step_um: PositiveFloat | None = None
    """Distance between planes, where the sender doesn't know it."""
    num_slices: PositiveInt | None = None
    """Planes per stack, where the sender doesn't know it; without it, learned from the first stacks."""
    idle_s: PositiveFloat = 600.0
    """An acquisition that sends nothing for so long is over."""
    memory_mb: PositiveInt = 1024
    """Planes that wait until the number of planes per stack is known."""

    @field_validator("endpoint")
    @classmethod
    def _reachable_with_keys_only(cls, endpoint: str, info: ValidationInfo) -> str | None:
        return check_reach(endpoint, info)


class StagePosition(Table):
    """A place of the stage."""

    name: str = ""
    """Shown to viewers; without it, the place's number."""
    x_um: float
    """Stage coordinate."""
    y_um: float
    """Stage coordinate."""
    z_um: float = 0.0
    """Added to `z_start_um` here."""


class AcquisitionSource(Table):
    """A z-stack time lapse that this program runs itself, through pycromanager.

    It runs in a process of its own: should this program die, the acquisition goes on to disk.
    """

    kind: Literal["acquisition"]
    """Which source this table describes."""
    name: str = Field("acquisition", min_length=1)
    """Name of the acquisition; date and time are added to tell runs apart."""
    backend: Literal["python", "java"] = "python"
    """"python" loads the hardware configuration itself; "java" asks a running Micro-Manager to acquire."""
    port: int = Field(4827, ge=1, le=65535)
    """Of Micro-Manager's server, for backend "java"."""
    micro_manager: ProfilePath = Path("democam")
    """Folder of the Micro-Manager installation, for backend "python"; "democam" is the demonstration
    camera that comes with the extra "demo"."""
    config_file: str = "MMConfig_demo.cfg"
    """Hardware configuration, in the installation's folder or with its full path."""
    buffer_mb: PositiveInt = 256
    """Micro-Manager's circular buffer."""
    channel_group: str = "Channel"
    """Configuration group that holds the channels."""
    channels: tuple[str, ...] = Field((), max_length=64)
    """Presets of `channel_group`; none for a single channel as the microscope stands."""
    positions: tuple[StagePosition, ...] = ()
    """Places of the stage; none to stay where it is."""
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
    exposure_ms: PositiveFloat | tuple[PositiveFloat, ...] = 10.0
    """Exposure of each plane, or of each channel's."""
    pixel_size_um: PositiveFloat | None = None
    """Where Micro-Manager's own pixel size calibration is missing."""
    properties: Mapping[str, str] = {}
    """Device properties to set first, as "Camera-PixelType" = "16bit"."""
    save_folder: ProfilePath | None = None
    """Where pycromanager saves the raw data (NDTiff); without it, it is kept in memory only."""
    memory_mb: PositiveInt = 2048
    """Planes that wait for this program; beyond it planes are let go, never the acquisition."""

    @model_validator(mode="after")
    def _an_exposure_for_each_channel(self) -> AcquisitionSource:
        if isinstance(self.exposure_ms, tuple) and len(self.exposure_ms) != len(self.channels):
            raise ValueError(
                f"exposure_ms has {len(self.exposure_ms)} values for {len(self.channels)} channels: "
                "give one for all, or one for each"
            )
        return self


SourceSettings = Annotated[
    SimulatedSource | FolderSource | MicroManagerSource | AcquisitionSource | IngestSource,
    Field(discriminator="kind"),
]
