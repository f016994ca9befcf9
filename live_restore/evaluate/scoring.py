"""Scores of several methods on one volume, and of a model on matched volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.evaluate import baselines
from live_restore.evaluate.baselines import Filtered
from live_restore.matched import MatchedPair, check_registration
from live_restore.quality import FEWEST_PLANES_3D, nrmse, psnr, ssim
from live_restore.restore.restorer import RcanRestorer
from live_restore.volume import AcquisitionInfo, Volume, VolumeKey, utc_now

__all__ = [
    "GAUSSIAN",
    "METRICS",
    "RAW",
    "RESTORED",
    "RICHARDSON_LUCY",
    "TOTAL_VARIATION",
    "Method",
    "Score",
    "classical_methods",
    "evaluate_pairs",
    "restoring",
    "score_methods",
]

Method = Callable[[NDArray[Any], NDArray[Any]], Filtered]
"""Takes a noisy volume and its truth, ``(Z, Y, X)`` each, and gives what it makes of the noisy one.
Only an oracle looks at the truth."""

RAW, GAUSSIAN, TOTAL_VARIATION = "raw", "Gaussian", "total variation"
RICHARDSON_LUCY, RESTORED = "Richardson-Lucy", "restored"

METRICS = ("psnr_db", "ssim", "nrmse")
"""Fields of `Score` that are figures."""


@dataclass(frozen=True, slots=True)
class Score:
    """One method on one volume.

    Attributes
    ----------
    volume, field_of_view : str
        As in `MatchedPair`.
    method : str
        "raw", "restored" or a baseline's name.
    psnr_db, ssim, nrmse : float
        See `live_restore.quality`; an infinite PSNR means no difference at all.
    ssim_kind : str
        "3D", or "per plane" for volumes of few planes.
    parameter : str
        What an oracle chose.
    """

    volume: str
    field_of_view: str
    method: str
    psnr_db: float
    ssim: float
    nrmse: float
    ssim_kind: str
    parameter: str = ""


def classical_methods(psf: NDArray[np.floating] | None = None) -> dict[str, Method]:
    """Raw data and the classical methods that can be used: the Gaussian alone without scikit-image.

    Parameters
    ----------
    psf : ndarray, (Z, Y, X), optional
        For Richardson-Lucy; see `baselines.richardson_lucy`.
    """
    methods: dict[str, Method] = {RAW: _as_it_is, GAUSSIAN: baselines.gaussian}
    if baselines.has_scikit_image():
        methods[TOTAL_VARIATION] = baselines.total_variation
        methods[RICHARDSON_LUCY] = partial(baselines.richardson_lucy, psf=psf)
    return methods


def restoring(restorer: RcanRestorer) -> Method:
    """A model as a method; it never sees the truth.

    Parameters
    ----------
    restorer : RcanRestorer
        Entered, with ``output_dtype="float32"``.
    """

    def restore(noisy: NDArray[Any], truth: NDArray[Any]) -> Filtered:  # noqa: ARG001
        nz, ny, nx = noisy.shape
        info = AcquisitionInfo("evaluation", (nz, ny, nx), noisy.dtype, None, ("C0",))
        key = VolumeKey(info.acquisition, "0", 0, "C0")
        return Filtered(restorer.restore(Volume(key, info, noisy, None, utc_now(), 0.0)).data)

    return restore


def score_methods(
    noisy: NDArray[Any],
    truth: NDArray[Any],
    methods: Mapping[str, Method],
    volume: str = "",
    field_of_view: str = "",
) -> Iterator[tuple[Score, NDArray[Any]]]:
    """Each method's score and result, in the order of `methods`.

    Parameters
    ----------
    noisy, truth : ndarray, (Z, Y, X)
        Same shape, any real dtype; not modified.
    methods : mapping of str to Method
        By name.
    volume, field_of_view : str
        For the scores.
    """
    kind = "3D" if noisy.shape[0] >= FEWEST_PLANES_3D else "per plane"
    for name, method in methods.items():
        made = method(noisy, truth)
        figures = psnr(made.volume, truth), ssim(made.volume, truth), nrmse(made.volume, truth)
        yield Score(volume, field_of_view, name, *figures, kind, made.parameter), made.volume


def evaluate_pairs(
    pairs: Iterable[MatchedPair], methods: Mapping[str, Method]
) -> Iterator[tuple[MatchedPair, list[Score], dict[str, NDArray[Any]]]]:
    """Each pair with the scores and results of all methods.

    The first volume of each field of view is checked for a shift between its halves.

    Raises
    ------
    SourceError
        A high-dose volume is flat.
    RestoreError
        The model failed.
    """
    seen: set[str] = set()
    for pair in pairs:
        if not np.ptp(pair.high) > 0:
            raise SourceError(
                f"{pair.files.high}: the high-dose volume of {pair.name} is flat, so nothing can be "
                "compared with it; take the file out of the folder"
            )
        if pair.field_of_view not in seen:
            seen.add(pair.field_of_view)
            check_registration(pair)
        scores, results = [], {}
        scored = score_methods(pair.low, pair.high, methods, pair.name, pair.field_of_view)
        for score, result in scored:
            scores.append(score)
            results[score.method] = result
        yield pair, scores, results


def _as_it_is(noisy: NDArray[Any], truth: NDArray[Any]) -> Filtered:  # noqa: ARG001
    return Filtered(noisy)
