"""The profile and its tables beside ``[source]``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from live_restore.profile.fields import (
    CameraPath,
    Endpoint,
    EnvelopePath,
    ModelPath,
    ProfilePath,
    Table,
    check_reach,
)
from live_restore.profile.sources import FolderSource, SourceSettings

__all__ = [
    "DoseSettings",
    "GuardSettings",
    "LedgerSettings",
    "MetricsSettings",
    "ModelSettings",
    "Profile",
    "PublishSettings",
    "QueueSettings",
    "StackSettings",
    "WriteSettings",
]


class ModelSettings(Table):
    """What restores."""

    path: ModelPath = Path("default")
    """A .safetensors file, the name of one in your model folder (see live-restore models), or
    "default" for the one that comes with the program."""
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?|cuda:\d+(,cuda:\d+)+)$")
    """"cuda", "cuda:1", "cpu", or "auto": a GPU where there is one. "cuda:0,cuda:1" has as many volumes restored
    at once; they are published in the order in which they were begun."""
    threads: PositiveInt | None = None
    """Of the processor, for the network; without it, one per core."""
    precision: Literal["auto", "float16", "bfloat16", "float32"] = "auto"
    """"auto" is float16 on a GPU; on the processor bfloat16 where it has that, else float32."""
    output_dtype: Literal["uint16", "float32"] = "uint16"
    """Restored intensities are in the raw volume's own counts, as whole numbers or not."""
    tile_zyx: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    """Largest tile; without it, chosen from the model and the memory, or, with attention "tile", the patch that
    the model learnt from. With another attention a tile has all planes."""
    attention: Literal["previous", "whole", "tile"] = "previous"
    """What the network's channel attention looks at: "previous", the volume before in its position and channel
    (the same one again where they differ too much), so that restoration can begin while planes still arrive;
    "whole", the volume itself; "tile", each tile by itself, as published."""
    normalisation: Literal["running", "locked", "per_volume"] = "running"
    """Whose percentiles normalise a volume: "running", the mean of those before it in its position and channel;
    "locked", the mean of the first ones; "per_volume", its own, as published. Results are in camera counts
    either way."""
    normalisation_volumes: int = Field(5, ge=1, le=1000)
    """How many "running" and "locked" average."""
    memory_mb: PositiveInt | None = None
    """What the network's features may take; without it, two fifths of what is free at start, at most 8 GiB
    of the computer's own."""
    largest_difference: PositiveFloat = 0.03
    """From float32, on a probe volume and of its intensity range: a precision beyond it isn't used."""


class GuardSettings(Table):
    """What judges each restored volume."""

    camera: CameraPath | None = None
    """From live-restore calibrate: a file, or a name; "demo" is the simulated microscope's. Without it
    signal and error can't be told in numbers that mean something."""
    envelope: EnvelopePath | None = Path("default")
    """From live-restore characterize: within which limits the model holds; "default" is the one that lies
    beside the model, if there is one."""
    target_nrmse: float = Field(0.35, gt=0, lt=1)
    """The error that you accept: of the restored volume, over the standard deviation of the truth. Advice on
    dose is for it."""
    budget: float = Field(0.1, ge=0, le=1)
    """What judging may take, of the time that restoring takes; 0 leaves only what needs no network."""


class DoseSettings(Table):
    """Whether the light is changed while it is watched; see docs/dose-control.md."""

    control: Literal["off", "dry-run", "down", "down-up"] = "off"
    """"dry-run" says what would be done; "down" lowers the light where the target is met with less; "down-up"
    raises it again, never above what you had set. Only sources that can reach the microscope: acquisition, and
    micromanager for a property."""
    device_property: str = Field("exposure", pattern=r"^(exposure|[^-]+-.+)$")
    """What is changed: "exposure", of each channel by itself, or one property as Micro-Manager names it,
    "Laser-Power", for all channels."""
    least: PositiveFloat | None = None
    """Never below; in milliseconds, or in the property's own unit."""
    most: PositiveFloat | None = None
    """Never above; your own value at start is a limit too."""
    interval_s: float = Field(30.0, ge=0)
    """At least between two changes."""
    power_property: str | None = Field(None, pattern=r"^[^-]+-.+$")
    """Property that tells the light's power, "Laser-Power", to keep account of exposure times power; without it,
    `device_property`, or none for "exposure"."""
    photons_absorbed: Literal[1, 2] = 1
    """2 for two-photon excitation, whose signal rises with the square of the power."""

    @field_validator("device_property")
    @classmethod
    def _not_a_cameras_exposure(cls, name: str) -> str:
        if name.partition("-")[2].lower() == "exposure":
            raise ValueError(
                f'{name}: each plane is exposed as its channel says, which would undo it: write "exposure"'
            )
        return name

    @model_validator(mode="after")
    def _consistent(self) -> DoseSettings:
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least = {self.least:g} is above most = {self.most:g}: exchange them")
        name = self.device_property
        if name != "exposure" and self.power_property not in (None, name):
            raise ValueError(
                f"power_property = {self.power_property!r} differs from device_property = {name!r}, the power "
                "that is changed: leave it out"
            )
        return self

    @property
    def power(self) -> str | None:
        """Property that tells the light's power, if any."""
        return self.power_property or (
            None if self.device_property == "exposure" else self.device_property
        )

    @property
    def is_watched(self) -> bool:
        """Whether the light has to be read from the microscope."""
        return self.control != "off" or self.power is not None


class PublishSettings(Table):
    """Where viewers connect."""

    keys: ProfilePath | None = None
    """Folder of the keys of those who may connect, or "default" (see live-restore keys). Needed for addresses
    that other PCs can reach; without it all programs of this PC may connect."""
    endpoint: Endpoint = "tcp://127.0.0.1:5556"
    """Data port."""
    control: Endpoint | None = "tcp://127.0.0.1:5557"
    """Control port, for latecomers and gaps."""
    history_mb: PositiveInt = 512
    """Volumes kept for the control port."""

    @field_validator("endpoint", "control")
    @classmethod
    def _reachable_with_keys_only(cls, endpoint: str | None, info: ValidationInfo) -> str | None:
        return check_reach(endpoint, info)


class WriteSettings(Table):
    """Where restored volumes are written."""

    folder: ProfilePath
    """Made if it isn't there; OME-TIFF, one file per volume."""


class QueueSettings(Table):
    """What waits between the stages."""

    order: Literal["live", "strict"] = "live"
    """"live": the newest volume of each position and channel first, the others in order when there is time.
    "strict": all in order."""
    memory_mb: PositiveInt = 2048
    """Volumes that wait for restoration in memory. When it is full, a source whose data is on disk waits;
    of the others volumes are moved to disk."""
    spool_mb: NonNegativeInt = 8192
    """Volumes that wait on disk, beside the ledger, since memory is full and their source can't give them again.
    When that is full too, "live" passes over the oldest and says so, "strict" makes the source wait."""
    shutdown_s: float = Field(60.0, ge=0)
    """How long the queues may drain after the first signal to stop."""


class LedgerSettings(Table):
    """Where it is kept what became of each volume, so that a restart restores none twice."""

    folder: ProfilePath | None = None
    """Of the ledger's file; without it, where this computer keeps the state of programs. On a disk of this
    computer."""


class MetricsSettings(Table):
    """Numbers for Prometheus, over HTTP; needs the extra "metrics"."""

    port: int = Field(5559, ge=1, le=65535)
    """On 127.0.0.1: other PCs get them through what collects them here, or an SSH tunnel."""


class StackSettings(Table):
    """When a z-stack counts as whole."""

    timeout_s: PositiveFloat = 300.0
    """A stack that lacks planes and gets none for so long is given up."""
    partial: Literal["skip", "restore"] = "skip"
    """What becomes of a stack that was given up: only reported, with what is missing, or restored
    all the same; the planes that are missing are then zero, and named in the header."""
    memory_mb: PositiveInt | None = None
    """Unfinished stacks; without it, a quarter of this computer's memory. Beyond it the oldest is given up. A
    stack that alone is larger is skipped, unless it comes from a folder."""


class Profile(Table):
    """All settings of one service."""

    source: SourceSettings
    """Where volumes come from."""
    model: ModelSettings = ModelSettings()
    """What restores them."""
    guard: GuardSettings = GuardSettings()
    """What judges them."""
    dose: DoseSettings = DoseSettings()
    """Whether the light is changed."""
    publish: PublishSettings | None = PublishSettings()
    """Where viewers get them."""
    write: WriteSettings | None = None
    """Where they are written; nothing is written without it."""
    stacks: StackSettings = StackSettings()
    """When a z-stack counts as whole."""
    queue: QueueSettings = QueueSettings()
    """What waits in between."""
    ledger: LedgerSettings = LedgerSettings()
    """What became of each volume."""
    metrics: MetricsSettings | None = None
    """Numbers for Prometheus; none are served without it."""

    @model_validator(mode="after")
    def _light_within_reach(self) -> Profile:
        kind, dose = self.source.kind, self.dose
        if not dose.is_watched or kind == "acquisition":
            return self
        if kind != "micromanager":
            raise ValueError(
                f'dose.control = "{dose.control}" with device or power property: a source of kind "{kind}" can\'t '
                'reach the microscope\'s light, only "acquisition" and "micromanager" can: leave [dose] out'
            )
        if dose.control != "off" and dose.device_property == "exposure":
            raise ValueError(
                'dose.device_property = "exposure": an acquisition that Micro-Manager runs sets its exposures '
                'itself, and would undo it; name a property, as "Laser-Power"'
            )
        return self

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
