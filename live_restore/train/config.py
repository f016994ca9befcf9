"""What a training run is made of: network, simulated specimens and doses, schedule, card."""

from __future__ import annotations

import tomllib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from live_restore.errors import ProfileError
from live_restore.restore.model import Architecture, Normalisation

__all__ = ["CardText", "Schedule", "SimulatedPairs", "TrainConfig", "load_config"]


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
    voxel_z_um: tuple[float, float] = (0.2, 0.8)
    """Range of axial voxel sizes."""
    voxel_yx_um: tuple[float, float] = (0.08, 0.3)
    """Range of lateral voxel sizes."""
    numerical_aperture: tuple[float, float] = (0.8, 1.4)
    """Range of apertures; the immersion's refractive index follows."""
    wavelength_um: tuple[float, float] = (0.45, 0.68)
    """Range of emission wavelengths."""
    peak_photons: tuple[float, float] = (2.0, 200.0)
    """Range of photons per voxel in the brightest structures, drawn evenly in the logarithm."""
    quantum_efficiency: tuple[float, float] = (0.6, 0.95)
    """Photoelectrons per photon."""
    gain_counts_per_electron: tuple[float, float] = (0.5, 6.0)
    """Counts per photoelectron."""
    read_noise_electrons: tuple[float, float] = (0.8, 3.0)
    """Standard deviation of the camera's read-out."""
    haze: tuple[float, float] = (0.0, 0.5)
    """Even background, relative to the brightest structures."""


class Schedule(_Table):
    """Optimisation."""

    steps: int = Field(4000, ge=1)
    """Updates of the weights."""
    batch: int = Field(2, ge=1)
    """Patches per step."""
    patch_zyx: tuple[int, int, int] = (16, 64, 64)
    """Shape of a patch."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of Adam at the start; falls to zero along a cosine."""
    bfloat16: bool = False
    """Convolutions in bfloat16 where the processor or GPU has it: about twice as fast."""


class CardText(_Table):
    """What the card of the trained model says."""

    name: str
    """Short name."""
    description: str
    """What the model does and doesn't."""
    licence: str = "BSD-3-Clause"
    """Of the weights."""


class TrainConfig(_Table):
    """A training run; the same configuration and seed give the same model on the same machine."""

    seed: int = 1
    """Of specimens, doses, noise, patches and weights."""
    card: CardText
    """Texts for the model's card."""
    network: Architecture = Architecture()
    """Size of the network."""
    normalisation: Normalisation = Normalisation()
    """Of the input."""
    simulation: SimulatedPairs = SimulatedPairs()
    """Where pairs come from."""
    schedule: Schedule = Schedule()
    """How long and how fast."""


def load_config(path: Path) -> TrainConfig:
    """Read a training configuration from a TOML file.

    Raises
    ------
    ProfileError
        Unreadable, or a key or value is wrong.
    """
    try:
        with path.open("rb") as file:
            return TrainConfig.model_validate(tomllib.load(file))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ProfileError(f"training configuration {path}: can't be read: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ProfileError(f"training configuration {path}: {where}: {first['msg']}") from error
