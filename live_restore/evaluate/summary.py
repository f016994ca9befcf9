"""Means over volumes, with intervals that know which volumes share a field of view."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from live_restore.evaluate.scoring import METRICS, RAW, Score

__all__ = ["FEWEST_FIELDS", "Estimate", "Summary", "summarise"]

FEWEST_FIELDS = 3
"""Fewer fields of view give no interval."""

_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over volumes.

    Attributes
    ----------
    mean : float
        Over volumes.
    sd : float or None
        Standard deviation between volumes (n - 1); None for one volume.
    interval : tuple of float or None
        95 % bootstrap interval of the mean, fields of view resampled; None below `FEWEST_FIELDS`.
    """

    mean: float
    sd: float | None
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over all volumes.

    Attributes
    ----------
    method : str
        Its name.
    num_volumes, num_fields : int
        How many were scored.
    scores : dict of str to Estimate
        By metric (`METRICS`).
    gains : dict of str to Estimate
        The same, raw's score of each volume taken off; a negative NRMSE is a gain. Empty for raw.
    """

    method: str
    num_volumes: int
    num_fields: int
    scores: dict[str, Estimate]
    gains: dict[str, Estimate]


def summarise(scores: Sequence[Score], seed: int = 0) -> list[Summary]:
    """Each method's means, in the order in which the methods first come.

    Parameters
    ----------
    scores : sequence of Score
        The same volumes for each method, in the same order.
    seed : int
        For the bootstrap.
    """
    of_method: dict[str, list[Score]] = defaultdict(list)
    for score in scores:
        of_method[score.method].append(score)
    raw = of_method[RAW]
    summaries = []
    for method, rows in of_method.items():
        fields = [row.field_of_view for row in rows]
        values = {metric: _column(rows, metric) for metric in METRICS}
        gains = {} if method == RAW else {m: values[m] - _column(raw, m) for m in METRICS}
        summaries.append(
            Summary(
                method,
                len(rows),
                len(set(fields)),
                {metric: _estimate(column, fields, seed) for metric, column in values.items()},
                {metric: _estimate(column, fields, seed) for metric, column in gains.items()},
            )
        )
    return summaries


def _column(rows: Iterable[Score], metric: str) -> NDArray[np.float64]:
    return np.array([getattr(row, metric) for row in rows], dtype=np.float64)


def _estimate(values: NDArray[np.float64], fields: Sequence[str], seed: int) -> Estimate:
    """The percentile bootstrap over clusters: time points of a field are no independent evidence."""
    sd = float(values.std(ddof=1)) if len(values) > 1 else None
    names, index = np.unique(np.array(fields), return_inverse=True)
    interval = None
    if len(names) >= FEWEST_FIELDS:
        sums, counts = np.bincount(index, values), np.bincount(index)
        drawn = np.random.default_rng(seed).integers(len(names), size=(_RESAMPLES, len(names)))
        means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
        low, high = np.percentile(means, [2.5, 97.5])
        interval = (float(low), float(high))
    return Estimate(float(values.mean()), sd, interval)
