"""An evaluation as files: CSV of all scores, JSON of everything, a picture."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from live_restore.evaluate.scoring import Score
from live_restore.evaluate.summary import Summary
from live_restore.quality import CONVENTION
from live_restore.volume import ModelUse

__all__ = ["ORACLE", "as_document", "as_json", "write_scores"]

ORACLE = (
    "Gaussian, total variation and Richardson-Lucy are oracles: their parameters were chosen for each "
    "volume with the truth in hand, for the best PSNR"
)
"""What to print wherever baselines are shown."""


def as_document(
    scores: Sequence[Score],
    summaries: Sequence[Summary],
    model: ModelUse,
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything about an evaluation, fit for JSON.

    Parameters
    ----------
    scores, summaries : sequence
        Of the same evaluation.
    model : ModelUse
        What restored.
    settings : mapping of str to object
        What else it takes to do it again: folders, seed, point spread function.
    """
    document = {
        "model": asdict(model),
        "convention": CONVENTION,
        "baselines": ORACLE,
        "settings": dict(settings),
        "methods": [asdict(one) for one in summaries],
        "volumes": [asdict(one) for one in scores],
    }
    finite: dict[str, Any] = _finite(document)
    return finite


def as_json(document: Mapping[str, Any], indent: int | None = None) -> str:
    """Strict JSON text; figures that aren't finite are null already."""
    return json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=False)


def write_scores(folder: Path, document: Mapping[str, Any], scores: Sequence[Score]) -> list[Path]:
    """Write ``evaluation.json`` and ``evaluation.csv``, each whole or not at all.

    Returns
    -------
    list of pathlib.Path
        What was written.
    """
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, [field.name for field in fields(Score)])
    writer.writeheader()
    writer.writerows(asdict(score) for score in scores)
    texts = {
        folder / "evaluation.csv": table.getvalue(),
        folder / "evaluation.json": as_json(document, indent=2) + "\n",
    }
    for path, text in texts.items():
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8", newline="")
        part.replace(path)
    return list(texts)


def _finite(value: Any) -> Any:
    """The same with null for infinite and undefined figures, which JSON doesn't know."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return value
