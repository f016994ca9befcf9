"""Plots and example pictures of a report; matplotlib without its windows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from live_restore.characterize.ladder import Outcome
from live_restore.characterize.study import Example, Shown
from live_restore.characterize.summary import digits, holding
from live_restore.guard.envelope import Envelope, Specimen, curve_of

__all__ = ["draw_blur", "draw_bound", "draw_examples", "draw_light"]

_DPI = 140
_SIZE = (7.4, 4.7)  # inches
_TRUE, _GUARD, _FLAG, _QUIET = "#0072b2", "#d55e00", "#009e73", "#888888"  # Okabe and Ito's
_INK, _PAPER = "white", "black"
_MOST_COLUMNS = 7
_PANEL, _GAP, _HEADING, _LEFT, _FOOT = 1.7, 0.05, 0.5, 0.3, 0.34  # inches


def draw_light(path: Path, specimen: Specimen, outcomes: Sequence[Outcome], target: float) -> None:
    """Quality against light.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    specimen : Specimen
        Of the channel.
    outcomes : sequence of Outcome
        Of the channel; blurred ones are left out.
    target : float
        NRMSE that is wanted.
    """
    figure, axes = _figure()
    sharp = [one for one in outcomes if not one.step.blur]
    fields: dict[str, list[Outcome]] = {}
    for one in sharp:
        fields.setdefault(one.stack.name, []).append(one)
    for number, ones in enumerate(fields.values()):
        axes.plot(
            [one.signal for one in ones], [one.nrmse for one in ones], "-", color=_TRUE, alpha=0.25,
            linewidth=0.8, label="true NRMSE, each stack" if not number else None,
        )  # fmt: skip
    rungs = specimen.photon_ladder
    signals = [rung.signal for rung in rungs]
    axes.plot(signals, [rung.nrmse for rung in rungs], "o", color=_TRUE, label="median")
    axes.plot(
        signals, [rung.worst for rung in rungs], "_", color=_TRUE, markersize=11, markeredgewidth=2,
        label="nine of ten are below",
    )  # fmt: skip
    seen = [rung for rung in rungs if rung.estimate < 1]
    axes.plot(
        [rung.signal for rung in seen], [rung.estimate for rung in seen], "x", color=_GUARD,
        markeredgewidth=1.8, label="the guard's estimate, median",
    )  # fmt: skip
    x = np.geomspace(min(signals), max(signals), 200)
    curve = curve_of(specimen)
    fit = np.array([curve.nrmse(float(one)) for one in x])
    axes.plot(
        x[fit <= 1], fit[fit <= 1], "-", color="black", linewidth=1.2,
        label="fit: NRMSE² = b + c/S + d/S²",
    )  # fmt: skip
    _target_line(axes, target)
    needed = holding(specimen, target).from_signal
    if needed is not None:
        axes.axvspan(needed, max(signals) * 1.25, color=_FLAG, alpha=0.1, linewidth=0)
        axes.annotate(
            f"holds from {digits(needed)}", (needed, 1.0), xytext=(4, -4), textcoords="offset points",
            color=_FLAG, fontsize=9, weight="bold", va="top",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(signals) / 1.25, max(signals) * 1.25)
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("signal S in bright structures (photoelectrons per voxel)")
    axes.set_ylabel("error of the restored volume (NRMSE)")
    _plain_decades(axes.xaxis)
    _finish(figure, axes, path, _name(specimen, "how much light it needs"))


def draw_blur(path: Path, specimen: Specimen) -> None:
    """Quality against blur, and how often it is noticed.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    specimen : Specimen
        Of the channel.
    """
    figure, axes = _figure()
    rungs = specimen.blur_ladder
    sharp = min(specimen.photon_ladder, key=lambda one: abs(np.log(one.signal / rungs[0].signal)))
    rungs = (sharp, *rungs)
    blurs = [rung.blur for rung in rungs]
    width = 0.16
    bars = axes.bar(
        blurs, [rung.flagged for rung in rungs], width, color=_FLAG, alpha=0.35,
        label="fraction of stacks that are flagged",
    )  # fmt: skip
    for bar, rung in zip(bars, rungs, strict=True):
        axes.annotate(
            f"{rung.flagged:.0%}", (bar.get_x() + width / 2, rung.flagged), xytext=(0, 2),
            textcoords="offset points", ha="center", fontsize=8, color="#00664a",
        )  # fmt: skip
    axes.plot(
        blurs, [rung.nrmse for rung in rungs], "o-", color=_TRUE, label="true NRMSE against the sharp truth"
    )  # fmt: skip
    axes.plot(
        blurs, [rung.estimate for rung in rungs], "x--", color=_GUARD, markeredgewidth=1.8,
        label="the guard's estimate: it doesn't see blur",
    )  # fmt: skip
    axes.set_xlim(-0.25, max(blurs) + 0.25)
    axes.set_ylim(0, 1.1)
    axes.set_yticks(np.arange(0, 1.01, 0.2))
    axes.set_xlabel("added Gaussian blur, standard deviation (lateral voxels; half of it along z)")
    axes.set_ylabel("NRMSE, fraction flagged")
    _finish(figure, axes, path, _name(specimen, "what blur does"))


def draw_bound(path: Path, envelope: Envelope, outcomes: Sequence[Outcome], target: float) -> None:
    """Estimated against true error, with the bound.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    envelope : Envelope
        Says the bound.
    outcomes : sequence of Outcome
        Of all channels; blurred ones are left out.
    target : float
        NRMSE that is wanted.
    """
    figure, axes = _figure((5.6, 5.4))
    for number, specimen in enumerate(envelope.card.specimens):
        some = [
            (one.found.error, one.nrmse)
            for one in outcomes
            if not one.step.blur
            and one.found.error is not None
            and one.stack.channel == specimen.channel
        ]
        if some:
            axes.plot(
                *np.array(some).T, ("o", "s", "^", "D")[number % 4], markersize=4.5, alpha=0.55,
                color=(_TRUE, _GUARD, _FLAG, "#cc79a7")[number % 4], markeredgewidth=0,
                label=specimen.channel or "a stack at a dose",
            )  # fmt: skip
    line = np.array([0.0, 1.0])
    axes.plot(line, line, "-", color=_QUIET, linewidth=1, label="estimated = true")
    n, coverage = envelope.card.num_acquisitions, envelope.coverage
    stands = f"{coverage:.0%} of acquisitions below, n = {n}" if coverage else f"largest of n = {n}"
    axes.plot(
        line, line + envelope.margin, "--", color="black", linewidth=1.2,
        label=f"bound: estimate + {envelope.margin:.3f} ({stands})",
    )  # fmt: skip
    _target_line(axes, target)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.set_aspect("equal")
    axes.set_xlabel("NRMSE as the guard estimates it, without the truth")
    axes.set_ylabel("true NRMSE")
    _finish(figure, axes, path, "How far the guard's estimate can be trusted", below=True)


def draw_examples(path: Path, example: Example, target: float, *, blurred: bool = False) -> None:
    """One stack at the steps of its ladder: raw above restored.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    example : Example
        Which.
    target : float
        NRMSE beyond which a step is marked.
    blurred : bool
        The blur ladder, not that of light.
    """
    rungs = _some([one for one in example.rungs if bool(one.step.blur) == blurred])
    tall = rungs[0].raw.shape[0] / rungs[0].raw.shape[1] * _PANEL
    width = _LEFT + len(rungs) * (_PANEL + _GAP) + _GAP
    height = _HEADING + 2 * (tall + _GAP) + _FOOT
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    for column, rung in enumerate(rungs):
        left = _LEFT + column * (_PANEL + _GAP)
        broke = rung.nrmse > target
        for row, image in enumerate((rung.raw, rung.restored)):
            bottom = _FOOT + (1 - row) * (tall + _GAP)
            box = left / width, bottom / height, _PANEL / width, tall / height
            axes = figure.add_axes(box)
            # Of a maximum projection noise takes the peaks: on the restored one's scale dim ones would be white.
            low, high = _scale(image)
            axes.imshow(image, cmap="gray", vmin=low, vmax=high, aspect="auto")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_color(_GUARD if broke else _PAPER)
                spine.set_linewidth(2.0)
        what = f"blur {rung.step.blur:g}" if blurred else f"{digits(rung.signal)} e⁻"
        middle = (left + _PANEL / 2) / width
        top = 1 - 0.1 / height
        figure.text(middle, top, what, color=_INK, fontsize=9.5, ha="center", va="top")
        figure.text(
            middle, top - 0.19 / height, f"NRMSE {rung.nrmse:.2f}" + (" ✕" if broke else ""),
            color="#ff9a52" if broke else _INK, fontsize=9.5, ha="center", va="top",
            weight="bold" if broke else "normal",
        )  # fmt: skip
    for row, text in enumerate(("raw", "restored")):
        y = _FOOT + (1 - row) * (tall + _GAP) + tall / 2
        figure.text(
            0.15 / width, y / height, text, color=_INK, fontsize=9.5, rotation=90, ha="center", va="center"
        )  # fmt: skip
    caption = (
        f"{example.stack.name}: brightest part, maximum projections, each on its own grey scale. "
        f"Orange with ✕: an NRMSE above {target:g}"
    )
    figure.text(_LEFT / width, 0.1 / height, caption, color=_INK, fontsize=7.5)
    _save(figure, path, _PAPER)


def _some(rungs: list[Shown]) -> list[Shown]:
    """At most as many as stand side by side, the last always."""
    if len(rungs) <= _MOST_COLUMNS:
        return rungs
    chosen = np.unique(np.rint(np.linspace(0, len(rungs) - 1, _MOST_COLUMNS)).astype(int))
    return [rungs[index] for index in chosen]


def _scale(image: NDArray[np.float32]) -> tuple[float, float]:
    low, high = np.percentile(image, [1.0, 99.8])
    return float(low), float(max(high, low + 1e-6))


def _figure(size: tuple[float, float] = _SIZE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(which="major", color="#e2e2e2", linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _target_line(axes: Axes, target: float) -> None:
    axes.axhline(target, color=_QUIET, linestyle=":", linewidth=1.2)
    axes.annotate(
        f"target {target:g}", (1.0, target), xycoords=("axes fraction", "data"), xytext=(-4, 3),
        textcoords="offset points", color="#555555", fontsize=8.5, ha="right",
    )  # fmt: skip


def _plain_decades(axis: Axis) -> None:
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _name(specimen: Specimen, what: str) -> str:
    start = f"{specimen.channel}: {what}" if specimen.channel else what
    return start[0].upper() + start[1:]


def _finish(figure: Figure, axes: Axes, path: Path, title: str, *, below: bool = False) -> None:
    axes.set_title(title, fontsize=11, weight="bold", loc="left")
    if below:
        figure.legend(fontsize=8.5, frameon=False, loc="outside lower left")
    else:
        axes.legend(fontsize=8.5, loc="best", framealpha=0.9, edgecolor="none")
    _save(figure, path, "white")


def _save(figure: Figure, path: Path, colour: str) -> None:
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=_DPI, facecolor=colour)
    part.replace(path)
