"""NRMSE against light, as a picture: steps, curve, target and the step that is enough."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from live_restore.characterize.climbing import Climb, LadderAdvice
from live_restore.characterize.ladder_folder import LadderCard
from live_restore.guard.dose import MARGIN_ALIKE

__all__ = ["draw_ladder"]

_SIZE, _DPI = (8.2, 5.2), 140  # inches
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito's
_CURVE, _TARGET, _ENOUGH = "black", "#b00020", "#009e73"
_NAMED = 6  # fields
_HEADING_COLUMNS = 100


def draw_ladder(
    path: Path, climbs: Sequence[Climb], advice: LadderAdvice, card: LadderCard, sentence: str
) -> None:
    """Write the picture, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    climbs : sequence of Climb
        Of one channel.
    advice : LadderAdvice
        Made from them.
    card : LadderCard
        Units.
    sentence : str
        The advice in words.
    """
    figure = Figure(figsize=_SIZE, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.12, 0.87, 0.7))
    for number, one in enumerate(climbs):
        colour = _COLOURS[number % len(_COLOURS)]
        values = [card.value_for(result.dose) for result in one.results]
        axes.plot(
            values, [result.outcome.nrmse for result in one.results], "o", color=colour, markersize=6,
            label=f"true, {one.field}" if number < _NAMED else None,
        )  # fmt: skip
        told = [
            (value, result.outcome.found.error)
            for value, result in zip(values, one.results, strict=True)
            if result.outcome.found.error is not None
        ]
        if told:
            axes.plot(
                *zip(*told, strict=True), "D", mfc="none", color=colour, markersize=7,
                label="the guard's estimate" if number == len(climbs) - 1 else None,
            )  # fmt: skip
    doses = np.geomspace(advice.rows[0].dose / 1.4, advice.rows[-1].dose * 1.6, 200)
    axes.plot(
        [card.value_for(float(dose)) for dose in doses],
        [min(advice.curve.nrmse(float(dose)), 1.0) for dose in doses],
        color=_CURVE, linewidth=1.2, label="curve",
    )  # fmt: skip
    if advice.curve.floor > 0:
        axes.axhline(
            advice.curve.floor, color=_CURVE, linewidth=1, linestyle=":", label=f"no light goes below {advice.curve.floor:.2f}"
        )  # fmt: skip
    axes.axhline(advice.target, color=_TARGET, linewidth=1.2, label=f"target {advice.target:g}")
    axes.axhline(
        advice.target / MARGIN_ALIKE,
        color=_TARGET,
        linewidth=1,
        linestyle="--",
        label="with margin",
    )
    if advice.enough is not None:
        axes.axvline(
            card.value_for(advice.enough.dose), color=_ENOUGH, linewidth=6, alpha=0.3,
            label=f"enough: {advice.enough.value:g} {card.unit}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, min(1.05, 1.15 * max(advice.target, *(row.worst for row in advice.rows))))
    what = "exposure (ms)" if card.control == "exposure" else card.control
    axes.set_xlabel(f"{what}, of a specimen that hasn't bleached")
    axes.set_ylabel("NRMSE of the restored stack")
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=8, loc="upper right")
    heading = textwrap.fill(f"{card.channel}: {sentence}", _HEADING_COLUMNS)
    figure.text(0.09, 0.96, heading, fontsize=9, weight="bold", va="top")
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=_DPI, facecolor="white")
    part.replace(path)
