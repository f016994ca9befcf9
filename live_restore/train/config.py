"""What a training run is made of: network, pairs, patches, schedule, validation, card."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from live_restore.errors import ProfileError
from live_restore.matched import FIELD_OF_VIEW
from live_restore.restore.model import Architecture, Normalisation
from live_restore.simulation.optics import Modality

__all__ = [
    "CardText",
    "FolderPairs",
    "Patches",
    "Schedule",
    "SimulatedPairs",
    "ThinnedPairs",
    "TrainConfig",
    "Validation",
    "load_config",
]


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"a range goes from low to high, not from {limits[0]} to {limits[1]}")
    return limits


Range = Annotated[tuple[float, float], AfterValidator(_ascending)]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class SimulatedPairs(_Table):
    """Volumes simulated for training; each draws its own optics, voxels, camera and dose."""

    num_volumes: int = Field(320, ge=1)
    """Different noise-free volumes; noise and dose are drawn anew at each step."""
    num_validation: int = Field(20, ge=1)
    """Volumes held out, of other specimens."""
    shape_zyx: tuple[int, int, int] = (24, 96, 96)
    """Of each volume."""
    voxel_z_um: Range = (0.2, 2.0)
    """Range of axial voxel sizes; never below the lateral one."""
    voxel_yx_um: Range = (0.08, 0.8)
    """Range of lateral voxel sizes."""
    structure_voxel_um: Range = (0.05, 0.35)
    """Range of lateral voxel sizes as the structures of a single cell would see them: all lengths of
    a specimen are scaled to it, so that fine and coarse structures meet all optics."""
    numerical_aperture: Range = (0.8, 1.4)
    """Range of apertures; the immersion's refractive index follows."""
    wavelength_um: Range = (0.45, 0.68)
    """Range of emission wavelengths."""
    peak_photons: Range = (2.0, 200.0)
    """Range of photons per voxel in the brightest structures, drawn evenly in the logarithm."""
    quantum_efficiency: Range = (0.6, 0.95)
    """Photoelectrons per photon."""
    gain_counts_per_electron: Range = (0.5, 6.0)
    """Counts per photoelectron."""
    read_noise_electrons: Range = (0.8, 3.0)
    """Standard deviation of the camera's read-out."""
    grainy: float = Field(0.0, ge=0, le=1)
    """Share of the volumes whose truth carries the photon noise of a measured stack (8 to 400 photons): structure
    without a neighbour, as undersampled specimens have it, is then smoothed less. Held-out volumes have none."""
    haze: float = Field(0.5, ge=0)
    """Largest background, relative to the brightest structures; a third of the volumes have none."""


class FolderPairs(_Table):
    """Low- and high-dose volumes of the same fields of view, matched by file name."""

    low: Path
    """Folder of low-dose stacks: what the network is given."""
    high: Path
    """Folder of high-dose (or sharper) stacks of the same names: what it should return."""


class CameraTable(_Table):
    """A calibrated camera."""

    gain_counts_per_electron: float = Field(gt=0)
    """Counts per photoelectron."""
    offset_counts: float
    """Counts of an unexposed pixel."""
    read_noise_electrons: float = Field(ge=0)
    """Standard deviation of the read-out, in photoelectrons."""


class PsfTable(_Table):
    """A microscope whose blur is put on the stacks, so that the model learns to take it off."""

    numerical_aperture: float = Field(gt=0, lt=1.7)
    """Of the detection objective."""
    refractive_index: float = Field(gt=1, lt=2)
    """Of the immersion; above the aperture."""
    wavelength_um: float = Field(gt=0)
    """Emission wavelength in vacuum."""
    modality: Modality = "widefield"
    """How it is illuminated."""
    sheet_thickness_um: float = Field(1.5, gt=0)
    """Full width at half maximum of a light sheet."""
    voxel_size_um: tuple[float, float, float] | None = None
    """``(z, y, x)``, for stacks whose files don't say theirs."""


class ThinnedPairs(_Table):
    """Pairs made from high-dose stacks alone, by taking photons away as a lower dose would."""

    high: Path
    """Folder of high-dose stacks."""
    camera: CameraTable
    """Of the high-dose stacks: counts become photoelectrons."""
    dose: Range = (0.02, 0.3)
    """Range of the dose that is kept, as a fraction; drawn evenly in the logarithm."""
    psf: PsfTable | None = None
    """Blur to add; none for pure denoising."""


class Patches(_Table):
    """Which cut-outs the network sees."""

    shape_zyx: tuple[int, int, int] = (16, 64, 64)
    """Of a patch; cut to a volume that is smaller. As published: (16, 256, 256), on a GPU."""
    min_foreground: float = Field(0.5, ge=0, le=1)
    """Share of a patch's truth that must be foreground, as published 0.5; the best of
    `tries` patches is taken when none is."""
    foreground: float = 0.25
    """What counts as foreground: the truth normalised by its own percentiles, as published 0.25."""
    tries: int = Field(8, ge=1)
    """Patches looked at before the best is taken."""
    turn: bool = True
    """Turned by 90 degrees in the plane at random, where patches are square."""
    flip: Literal["none", "yx", "zyx"] = "yx"
    """Axes that are mirrored at random."""


class Schedule(_Table):
    """Optimisation."""

    epochs: int = Field(100, ge=1)
    """Times that the model is validated. As published: 300."""
    steps_per_epoch: int = Field(256, ge=1)
    """Updates of the weights in each, as published 256."""
    batch: int = Field(2, ge=1)
    """Patches per step. As published: 1."""
    loss: Literal["mae", "mse", "charbonnier"] = "mse"
    """Mean absolute error as published, mean squared error (whose optimum is the mean intensity; a median
    darkens dim structures at low dose), or Charbonnier between the two."""
    balance: bool = True
    """Each patch counts by the logarithm of its loss, as PSNR counts it, so that neither a hard patch nor a
    freak outweighs the others; false, as published: a plain mean."""
    optimiser: Literal["adam", "adamw"] = "adam"
    """Adam as published, or AdamW."""
    weight_decay: float = Field(0.01, ge=0)
    """Of AdamW."""
    learning_rate: float = Field(1e-3, gt=0)
    """At the start. As published: 1e-4."""
    decay: Literal["cosine", "published"] = "cosine"
    """Cosine to zero after a warm-up of 100 steps, or halved every quarter of the epochs."""
    restarts: tuple[int, ...] = ()
    """Epochs after which the cosine begins anew: a trained model is trained longer."""
    restart_rate: float = Field(0.25, gt=0, le=1)
    """Learning rate at a restart, as a share of the first."""
    clip_norm: float = Field(0.5, ge=0)
    """Largest norm of the gradient; 0 for no limit, as published."""
    average: float = Field(0.998, ge=0, lt=1)
    """Decay per step of the moving average of the weights that is validated and saved; 0 for none, as published."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the convolutions; automatic is mixed precision on a GPU and float32 on the processor, where bfloat16
    is about twice as fast if the processor has it."""
    checkpoint_steps: int = Field(100, ge=1)
    """Steps between checkpoints: what a kill can cost."""

    @model_validator(mode="after")
    def _restarts_ascend(self) -> Self:
        ends = (0, *self.restarts, self.epochs)
        if list(ends) != sorted(set(ends)):
            raise ValueError(
                f"restarts: epochs in ascending order, after the first and before the last ({self.epochs}), "
                f"not {self.restarts}"
            )
        return self


class Validation(_Table):
    """Which fields of view are held out. Never patches of a field that is trained on."""

    fraction: float = Field(0.15, gt=0, lt=1)
    """Share of the fields of view, at least one, drawn with the seed."""
    field_of_view: str = FIELD_OF_VIEW
    """Regular expression with one group: what of a file's name is the field of view; by default all but a time
    point at its end, so that no field is on both sides."""
    fields: tuple[str, ...] = ()
    """Fields of view to hold out, by name, instead of a share."""


class CardText(_Table):
    """What the card of the trained model says."""

    name: str
    """Short name."""
    description: str
    """What the model does and doesn't."""
    licence: str = "not stated"
    """Of the weights."""


class TrainConfig(_Table):
    """A training run; the same configuration and seed give the same model on the same machine.

    Exactly one of `simulation`, `pairs` and `thinning` says where volumes come from.
    """

    seed: int = Field(1, ge=0)
    """Of specimens, doses, noise, patches and weights."""
    card: CardText
    """Texts for the model's card."""
    network: Architecture = Architecture()
    """Size of the network."""
    normalisation: Normalisation = Normalisation()
    """Of input and truth."""
    simulation: SimulatedPairs | None = None
    """Simulated specimens."""
    pairs: FolderPairs | None = None
    """Matched volumes."""
    thinning: ThinnedPairs | None = None
    """High-dose stacks and a camera."""
    patches: Patches = Patches()
    """What the network sees of them."""
    schedule: Schedule = Schedule()
    """How long and how fast."""
    validation: Validation = Validation()
    """What is held out, of `pairs` and `thinning`."""

    @model_validator(mode="after")
    def _has_one_origin(self) -> Self:
        given = [n for n in ("simulation", "pairs", "thinning") if getattr(self, n) is not None]
        if len(given) != 1:
            found = " and ".join(f"[{name}]" for name in given) or "none"
            raise ValueError(f"needs one of [simulation], [pairs] and [thinning], found {found}")
        return self


def load_config(path: Path) -> TrainConfig:
    """Read a training configuration from a TOML file; its folders are relative to the file.

    Raises
    ------
    ProfileError
        Unreadable, or a key or value is wrong.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"training configuration {path}: can't be read: {error}") from error
    for name in ("pairs", "thinning"):
        folders = table.get(name)
        if isinstance(folders, dict):
            for key in ("low", "high"):
                if isinstance(folders.get(key), str):
                    folders[key] = path.parent / Path(folders[key]).expanduser()
    return check_config(table, f"training configuration {path}")


def check_config(table: object, where: str) -> TrainConfig:
    """A configuration from plain values; `where` begins the error's message.

    Raises
    ------
    ProfileError
        A key or value is wrong.
    """
    try:
        return TrainConfig.model_validate(table)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "top level"
        raise ProfileError(f"{where}: {key}: {first['msg']}") from error
