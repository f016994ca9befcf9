"""Models in bioimage.io packages, format 0.4 and 0.5: a zip file or a folder with an ``rdf.yaml``."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from live_restore.convert.bioimageio_package import Package
from live_restore.convert.keras_file import read_keras
from live_restore.convert.structure import Imported, Known
from live_restore.convert.torch_file import read_torch
from live_restore.errors import ModelError
from live_restore.restore.model import ModelCard, Normalisation

__all__ = ["read_package"]

_NO_CHANGE = ("ensure_dtype",)
# After these the output still rises in a line with the network's, and a line is fitted anyway.
_LINES = (
    "scale_range",
    "scale_linear",
    "zero_mean_unit_variance",
    "fixed_zero_mean_unit_variance",
    "scale_mean_variance",
)
_UM_PER = {"micrometer": 1.0, "nanometer": 1e-3, "millimeter": 1e3}


def read_package(
    path: Path,
    residual_scaling: float | None = None,
    percentiles: tuple[float, float] | None = None,
) -> Imported:
    """A 3D RCAN from a bioimage.io package with Keras or PyTorch weights.

    Parameters
    ----------
    path : pathlib.Path
        See `Package`.
    residual_scaling : float, optional
        Where the package's weights don't say.
    percentiles : tuple of float, optional
        Of the normalisation, for packages that say nothing of theirs.

    Raises
    ------
    ModelError
        Its weights or its processing can't be represented.
    """
    try:
        package = Package(path)
        return _read(package, residual_scaling, percentiles)
    except ModelError as error:
        raise ModelError(f"{path.name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelError(
            f"{path.name}: its description isn't understood ({type(error).__name__}: {error}); "
            "a model of format 0.4 or 0.5 is needed"
        ) from error


def _read(
    package: Package, residual_scaling: float | None, percentiles: tuple[float, float] | None
) -> Imported:
    rdf = package.description
    version = str(rdf["format_version"])
    if rdf["type"] != "model" or not version.startswith(("0.4", "0.5")):
        raise ModelError(
            f"describes a {rdf['type']} in format {version}; a model in 0.4 or 0.5 is needed"
        )
    if len(rdf["inputs"]) != 1 or len(rdf["outputs"]) != 1:
        raise ModelError("has several inputs or outputs; 3D RCAN has one of each")
    voxel_size = _check_axes(rdf["inputs"][0])
    doubts: list[str] = []
    normalisation = _normalisation(rdf["inputs"][0], percentiles, doubts)
    _check_postprocessing(rdf["outputs"][0])
    weights = _read_weights(package, rdf["weights"], residual_scaling)
    card = _own_card(rdf)
    if card is not None:
        target = card.normalisation.target
        known = Known(
            card.name,
            card.description,
            card.licence,
            card.citation,
            card.training_data,
            card.voxel_size_um,
            normalisation.model_copy(update={"target": target}),
            card.quality,
        )
    else:
        known = Known(
            rdf.get("name"),
            rdf.get("description"),
            _licence(rdf.get("license")),
            _citation(rdf.get("cite") or []),
            voxel_size_um=voxel_size,
            normalisation=normalisation,
        )
    source = f"bioimage.io {version} package {package.path.name}"
    return replace(weights, source=source, known=known, doubts=(*weights.doubts, *doubts))


def _read_weights(
    package: Package, weights: Mapping[str, Any], residual_scaling: float | None
) -> Imported:
    keras, torch = weights.get("keras_hdf5"), weights.get("pytorch_state_dict")
    # A Keras file says how its layers are connected; it goes first, where it can be read.
    if keras is not None and (torch is None or importlib.util.find_spec("h5py") is not None):
        content = io.BytesIO(package.read(keras["source"], keras.get("sha256")))
        return read_keras(content, keras["source"], residual_scaling)
    if torch is None:
        raise ModelError(
            f"holds weights as {', '.join(weights)} alone; keras_hdf5 or pytorch_state_dict weights "
            "are needed"
        )
    architecture = torch["architecture"]
    is_nested = isinstance(architecture, Mapping)
    kwargs = (architecture if is_nested else torch).get("kwargs") or {}
    if residual_scaling is None and "residual_scaling" in kwargs:
        residual_scaling = float(kwargs["residual_scaling"])
    content = io.BytesIO(package.read(torch["source"], torch.get("sha256")))
    imported = read_torch(content, torch["source"], residual_scaling)
    for name, value in imported.architecture.model_dump().items():
        if kwargs.get(name, value) != value:
            raise ModelError(
                f"its description says {name} = {kwargs[name]}, and its weights are those of {value}"
            )
    return imported


def _check_axes(tensor: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """The voxel size in um, where each axis has one."""
    axes = tensor["axes"]
    if isinstance(axes, str):
        names, described = list(axes), {}
    else:
        names = [axis.get("id") or axis["type"] for axis in axes]
        described = {name: axis for name, axis in zip(names, axes, strict=True)}  # noqa: C416
    if [name for name in names if name in ("z", "y", "x")] != ["z", "y", "x"]:
        raise ModelError(f"takes images with the axes {names}; z, y and x in this order are needed")
    if not {"t", "time", "i", "index"}.isdisjoint(names):
        raise ModelError(f"takes images with the axes {names}; single volumes are needed")
    scales = [described.get(name, {}) for name in ("z", "y", "x")]
    if not all(scale.get("unit") in _UM_PER and "scale" in scale for scale in scales):
        return None
    z, y, x = (_UM_PER[scale["unit"]] * float(scale["scale"]) for scale in scales)
    return z, y, x


def _normalisation(
    tensor: Mapping[str, Any], percentiles: tuple[float, float] | None, doubts: list[str]
) -> Normalisation:
    steps = [step for step in _steps(tensor, "preprocessing") if step[0] not in _NO_CHANGE]
    if not steps and percentiles is not None:
        low, high = percentiles
        return _checked_normalisation(low, high, 1e-6)
    if [name for name, _ in steps] != ["scale_range"]:
        found = ", ".join(name for name, _ in steps) or "none"
        raise ModelError(
            f"its preprocessing ({found}) has no counterpart: one scale_range, which normalises a "
            "volume by its percentiles, is needed"
            + ("" if steps else ", or --low-percent and --high-percent")
        )
    kwargs = steps[0][1]
    axes = kwargs.get("axes")
    if axes is not None and not {"z", "y", "x"} <= set(axes):
        raise ModelError(
            f"its scale_range takes percentiles over {list(axes)} alone; they are taken over whole "
            "volumes (z, y, x) here"
        )
    if kwargs.get("reference_tensor") not in (None, tensor.get("id"), tensor.get("name")):
        raise ModelError(
            f"its scale_range takes percentiles of another tensor, {kwargs['reference_tensor']}"
        )
    if kwargs.get("mode") == "per_dataset" or (axes is not None and {"b", "batch"} & set(axes)):
        doubts.append("it was normalised by a whole data set's percentiles; here each volume's are")
    return _checked_normalisation(
        kwargs.get("min_percentile", 0.0),
        kwargs.get("max_percentile", 100.0),
        kwargs.get("eps", 1e-6),
    )


def _checked_normalisation(low: float, high: float, epsilon: float) -> Normalisation:
    try:
        normalisation = Normalisation(
            low_percent=low, high_percent=high, epsilon=epsilon, target="own"
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"its normalisation: {first['loc'][0]}: {first['msg']}") from error
    if low >= high:
        raise ModelError(f"its normalisation: percentile {low} must lie below {high}")
    return normalisation


def _check_postprocessing(tensor: Mapping[str, Any]) -> None:
    for name, kwargs in _steps(tensor, "postprocessing"):
        gain = kwargs.get("gain", 1.0)
        rises = all(one > 0 for one in (gain if isinstance(gain, list) else [gain]))
        if name not in (*_NO_CHANGE, *_LINES) or not rises:
            raise ModelError(
                f"its postprocessing {name} has no counterpart; only rising lines "
                f"({', '.join(_LINES)}) do, since the output is fitted to the raw volume by a line"
            )


def _steps(tensor: Mapping[str, Any], which: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Names and settings; the name's key is "name" in 0.4 and "id" in 0.5."""
    return [
        (str(step.get("id") or step["name"]), step.get("kwargs") or {})
        for step in tensor.get(which) or []
    ]


def _own_card(rdf: Mapping[str, Any]) -> ModelCard | None:
    """The card in a package that this program wrote."""
    card = ((rdf.get("config") or {}).get("live_restore") or {}).get("card")
    if card is None:
        return None
    try:
        return ModelCard.model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(
            f"its config.live_restore.card is not valid at {where!r}: {first['msg']}. It may come "
            "from a newer version of live_restore"
        ) from error


def _licence(licence: Any) -> str | None:
    if isinstance(licence, Mapping):
        return f"see {licence.get('source')} in the package"
    return None if licence is None else str(licence)


def _citation(cite: list[Mapping[str, Any]]) -> str | None:
    found = []
    for one in cite:
        where = f"https://doi.org/{one['doi']}" if one.get("doi") else one.get("url")
        found.append(", ".join(str(part) for part in (one.get("text"), where) if part))
    return "; ".join(found) or None
