"""Writes a model as a bioimage.io package that other programs validate and run."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from live_restore.restore import rcan
from live_restore.restore.intensity import measure_range
from live_restore.restore.model import Model, ModelCard
from live_restore.simulation import SimulatedMicroscope

__all__ = ["export_model"]

_FORMAT = "0.5.4"
_TEST_SHAPE = (16, 64, 64)
_PAPER = {
    "text": "Chen et al., Three-dimensional residual channel attention networks denoise and sharpen "
    "fluorescence microscopy image volumes, Nature Methods 18, 678 (2021)",
    "doi": "10.1038/s41592-021-01155-x",
}
# SPDX names that a description may give; another licence is told in the documentation alone.
_LICENCES = (
    *("BSD-2-Clause", "BSD-3-Clause", "MIT", "ISC", "Apache-2.0", "MPL-2.0", "Unlicense"),
    *("CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0", "CC-BY-ND-4.0"),
    *("CC-BY-NC-ND-4.0", "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-only", "GPL-3.0-or-later"),
    *("AGPL-3.0-only", "AGPL-3.0-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later"),
)
_LONGEST_NAME, _LONGEST_DESCRIPTION = 64, 1024
_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # so that the same model gives the same bytes but for its date


def export_model(model: Model, output: Path, authors: tuple[str, ...] = ()) -> None:
    """Write a package of format 0.5 with PyTorch weights, whole or not at all.

    In it are the weights, the network's source, a test volume and its restoration, a cover image
    and documentation. The card lies in the description's ``config``, so that importing the package
    again gives the same model. What the card's statistics describe is left out.

    Parameters
    ----------
    model : Model
        What to export.
    output : pathlib.Path
        A ``.zip`` file; replaced if it exists.
    authors : tuple of str
        Who made the model.
    """
    raw, restored = _example(model)
    card = model.card.model_copy(update={"statistics": None})
    contents = {
        "weights.pt": _bytes_of(lambda file: torch.save(model.network.state_dict(), file)),
        "rcan.py": Path(rcan.__file__).read_bytes(),
        "test_input.npy": _bytes_of(lambda file: np.save(file, raw[None, None])),
        "test_output.npy": _bytes_of(lambda file: np.save(file, restored[None, None])),
        "cover.png": _bytes_of(lambda file: _draw(file, raw, restored)),
        "README.md": _documentation(card).encode(),
    }
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    description = _describe(card, digests, authors)
    contents["rdf.yaml"] = yaml.safe_dump(description, sort_keys=False, allow_unicode=True).encode()
    part = output.with_name(output.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name, _ZIP_TIME), content, zipfile.ZIP_DEFLATED)
    part.replace(output)


def _example(model: Model) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """A simulated low-dose volume, and what the network makes of it, normalised."""
    microscope = SimulatedMicroscope(
        shape_zyx=_TEST_SHAPE, voxel_size_um=model.card.voxel_size_um or (0.3, 0.13, 0.13), seed=1
    )
    raw = microscope.stack(0, "nuclei").astype(np.uint16)
    norm = model.card.normalisation
    span = measure_range(raw, norm.low_percent, norm.high_percent, norm.epsilon)
    normalised = torch.from_numpy(span.normalise(raw))
    with torch.inference_mode():
        return raw, model.network(normalised[None, None])[0, 0].numpy()


def _describe(card: ModelCard, sha256: dict[str, str], authors: tuple[str, ...]) -> dict[str, Any]:
    """The description, ``rdf.yaml``."""

    def file(name: str) -> dict[str, str]:
        return {"source": name, "sha256": sha256[name]}

    norm = card.normalisation
    scale_range = {
        "axes": ["channel", "z", "y", "x"],
        "min_percentile": norm.low_percent,
        "max_percentile": norm.high_percent,
        "eps": norm.epsilon,
    }
    architecture = {
        **file("rcan.py"),
        "callable": "RCAN3D",
        "kwargs": card.architecture.model_dump(),
    }
    description: dict[str, Any] = {
        "format_version": _FORMAT,
        "type": "model",
        "name": _name(card.name),
        "description": _shortened(card.description),
        "authors": [{"name": name} for name in authors or ("unknown",)],
        "cite": [_PAPER],
        "tags": [
            "3d",
            "denoising",
            "restoration",
            "fluorescence-light-microscopy",
            "rcan",
            "pytorch",
        ],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        "inputs": [
            {
                "id": "raw",
                "description": "One channel of a z-stack, in camera counts",
                "axes": [*_BATCH_AND_CHANNEL, *_space(card, _any_size)],
                "data": {"type": "uint16"},
                "test_tensor": file("test_input.npy"),
                "preprocessing": [
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                    {"id": "scale_range", "kwargs": scale_range},
                    {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
                ],
            }
        ],
        "outputs": [
            {
                "id": "restored",
                "description": "Restored intensities of about 0 to 1",
                "axes": [*_BATCH_AND_CHANNEL, *_space(card, _size_of_input)],
                "data": {"type": "float32"},
                "test_tensor": file("test_output.npy"),
            }
        ],
        "weights": {
            "pytorch_state_dict": {
                **file("weights.pt"),
                "architecture": architecture,
                "pytorch_version": torch.__version__.partition("+")[0],
            }
        },
        "config": {"live_restore": {"card": card.model_dump(mode="json")}},
    }
    if card.licence in _LICENCES:
        description["license"] = card.licence
    return description


_BATCH_AND_CHANNEL = ({"type": "batch"}, {"type": "channel", "channel_names": ["intensity"]})


def _any_size(axis: str) -> dict[str, Any]:
    return {"min": 4 if axis == "z" else 16, "step": 1}


def _size_of_input(axis: str) -> dict[str, Any]:
    return {"tensor_id": "raw", "axis_id": axis}


def _space(card: ModelCard, size: Any) -> list[dict[str, Any]]:
    """The axes z, y and x, with the voxel size where it is known."""
    axes: list[dict[str, Any]] = []
    for i, name in enumerate("zyx"):
        axis = {"type": "space", "id": name, "size": size(name)}
        if card.voxel_size_um is not None:
            axis |= {"unit": "micrometer", "scale": card.voxel_size_um[i]}
        axes.append(axis)
    return axes


def _name(name: str) -> str:
    """Of letters, digits and few signs, 5 to 64 of them, as the format demands."""
    allowed = re.sub(r"[^A-Za-z0-9_+\- ()]+", "-", name)[:_LONGEST_NAME].strip()
    return allowed if len(allowed) >= 5 else f"{allowed} 3D RCAN".strip()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_DESCRIPTION else text[: _LONGEST_DESCRIPTION - 1] + "…"


def _documentation(card: ModelCard) -> str:
    norm, size = card.normalisation, card.architecture
    voxel = (
        "of any size" if card.voxel_size_um is None else " × ".join(map(str, card.voxel_size_um))
    )
    quality = "\n".join(f"- {name}: {value:g}" for name, value in card.quality.items())
    return f"""# {card.name}

{card.description}

A 3D RCAN of {size.num_residual_groups} groups of {size.num_residual_blocks} blocks,
{size.num_channels} channels, channel reduction {size.channel_reduction}. Exported by live_restore.

- Trained on: {card.training_data}
- Voxels (z, y, x, um): {voxel}
- Licence of the weights: {card.licence}
- Cite: {card.citation or _PAPER["text"]}
- From: {card.source or "trained with live_restore"}

Percentiles {norm.low_percent:g} and {norm.high_percent:g} of a whole raw volume become 0 and 1 in front
of the network. {_OUTPUT_UNIT[norm.target]}

The attention pools over whole tiles, so that their shape changes the result: keep it fixed.

## Validation

{quality or "No figures came with this model."}

Restore low-dose volumes of your own sample beside high-dose ones of the same field of view, and compare
them before you measure anything on restored volumes.
"""


_OUTPUT_UNIT = {
    "input": "The output is in the same unit: multiply it by their difference and add the lower one "
    "to get counts.",
    "own": "The output is in a unit of its own: fit it to the raw volume by a line to get counts.",
}


def _draw(file: io.BytesIO, raw: NDArray[np.uint16], restored: NDArray[np.float32]) -> None:
    """Maximum projections of the raw volume and the restored one, side by side, two to one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 2), dpi=128)
    for i, projection in enumerate((raw.max(axis=0), restored.max(axis=0))):
        axes = figure.add_axes((0.5 * i, 0, 0.5, 1))
        low, high = np.percentile(projection, (1, 99.8))
        axes.imshow(projection, cmap="gray", vmin=low, vmax=high)
        axes.axis("off")
    figure.savefig(file, format="png", metadata={"Software": None})


def _bytes_of(write: Any) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()
