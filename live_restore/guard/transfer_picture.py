"""The photon-transfer curve as a picture: variance against signal, the fit, what is left, the figures."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from live_restore.guard.camera import CameraCalibration
from live_restore.guard.levels import Level
from live_restore.guard.photon_transfer import PhotonTransfer
from live_restore.guard.transfer_fit import QUANTISATION

__all__ = ["draw_transfer", "figures"]

_DPI = 140
_SIZE = (9.6, 6.2)  # inches
_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito's
_FIT, _QUIET = "black", "#888888"
_MANY_DECADES = 500
_LEGEND = 6  # series that are named
_RESIDUAL = (2.0, 40.0)  # per cent that the lower panel shows at least and at most
_LEFT, _WIDTH = 0.09, 0.55
_TEXT_LEFT, _TEXT_COLUMNS = 0.68, 46
_MOST_WARNING = 330  # characters


def draw_transfer(path: Path, transfer: PhotonTransfer, camera: CameraCalibration) -> None:
    """Write the picture, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    transfer : PhotonTransfer
        What was measured.
    camera : CameraCalibration
        What was made of it.
    """
    figure = Figure(figsize=_SIZE, facecolor="white")
    FigureCanvasAgg(figure)
    upper = figure.add_axes((_LEFT, 0.36, _WIDTH, 0.5))
    lower = figure.add_axes((_LEFT, 0.09, _WIDTH, 0.2), sharex=upper)
    _draw_curve(upper, transfer)
    _draw_residuals(lower, transfer)
    figure.text(_LEFT, 0.962, camera.name, fontsize=12, weight="bold")
    _write(figure, transfer, camera)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=_DPI, facecolor="white")
    part.replace(path)


def figures(camera: CameraCalibration) -> list[tuple[str, str, str]]:
    """What a calibration says, for people: name, value with its standard error, unit."""

    def value(one: float, error: float | None, digits: int) -> str:
        if not error:
            return f"{one:.{digits}f}"
        return f"{one:.{digits}f} ± {error:.{max(digits, _digits(error))}f}"

    gain_error = camera.gain_error * camera.gain if camera.gain_error else None
    noise_error = camera.read_noise_error
    full = camera.saturation
    rows = [
        ("gain", value(camera.gain, gain_error, 3), "counts per photoelectron"),
        ("offset", value(camera.offset, camera.offset_error, 2), "counts"),
        ("read noise", value(camera.read_noise, noise_error, 2), "photoelectrons"),
    ]
    if full is not None:
        electrons = (full - camera.offset) / camera.gain
        rows.append(("saturation", f"{full:.0f}", f"counts, {electrons:.0f} photoelectrons"))
    return rows


def _digits(error: float) -> int:
    """Decimals that show the first digit of an error that isn't zero."""
    return int(min(5, max(0, np.ceil(-np.log10(error))))) if error > 0 else 0


def _draw_curve(axes: Axes, transfer: PhotonTransfer) -> None:
    line = transfer.line
    used, left_out = _parted(transfer)
    for number, (series, levels) in enumerate(_by_series(used).items()):
        axes.loglog(
            [one.signal for one in levels], [one.variance for one in levels], "o", markersize=5,
            color=_COLOURS[number % len(_COLOURS)], markeredgecolor="white", markeredgewidth=0.5,
            label=_short(series) if number < _LEGEND else None,
        )  # fmt: skip
    if left_out:
        axes.loglog(
            [one.signal for one in left_out], [one.variance for one in left_out], "x", color=_QUIET,
            label="saturated, left out",
        )  # fmt: skip
    signals = [one.signal for one in (*used, *left_out)]
    high = max(signals) * 1.6
    # Down to where read noise is as much as the photons' own, if that isn't too far.
    low = max(min(min(signals) / 2, line.floor / line.gain / 2), high / 1e5)
    x = np.geomspace(min(low, high / 10), high, 200)
    axes.loglog(x, line.variance(x), color=_FIT, linewidth=1.2, label="fit", zorder=1)
    axes.loglog(x, line.gain * x, ":", color=_QUIET, linewidth=1, label="photons alone", zorder=0)
    name = "read noise" if transfer.method == "photon transfer" else "read noise, as given"
    axes.axhline(line.floor, linestyle="--", color=_QUIET, linewidth=1, label=name, zorder=0)
    axes.set_xlim(x[0], x[-1])
    # Photons alone may lie far below the floor.
    bottom = max(min(line.floor, *(one.variance for one in used)), QUANTISATION / 4)
    axes.set_ylim(bottom / 2, line.variance(x)[-1] * 1.6)
    axes.set_ylabel("variance of the noise (counts²)")
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    _label_decades(axes.xaxis, x[-1] / x[0])
    _label_decades(axes.yaxis, line.variance(x)[-1] / bottom)
    axes.tick_params(labelbottom=False, which="both")
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
    top = axes.secondary_xaxis(
        "top", functions=(lambda s: np.asarray(s) / line.gain, lambda e: np.asarray(e) * line.gain)
    )
    top.set_xlabel("photoelectrons", fontsize=9, labelpad=6)
    _label_decades(top.xaxis, x[-1] / x[0])


def _draw_residuals(axes: Axes, transfer: PhotonTransfer) -> None:
    line = transfer.line
    used, _ = _parted(transfer)
    order = {id(one): number for number, one in enumerate(used)}
    largest = _RESIDUAL[0]
    for number, levels in enumerate(_by_series(used).values()):
        signal, variance = (
            np.array([getattr(one, name) for one in levels]) for name in ("signal", "variance")
        )
        fit = line.variance(signal)
        errors = np.array([line.errors[order[id(one)]] for one in levels])
        percent: NDArray[np.float64] = 100 * (variance - fit) / fit
        axes.errorbar(
            signal, percent, 100 * errors / fit, fmt="o", markersize=4, linewidth=0.8,
            color=_COLOURS[number % len(_COLOURS)],
        )  # fmt: skip
        largest = max(largest, 1.3 * float(np.abs(percent).max()))
    limit = min(largest, _RESIDUAL[1])
    axes.axhline(0, color=_FIT, linewidth=1.2)
    axes.set_ylim(-limit, limit)
    axes.set_ylabel("off the fit (%)")
    low, high = axes.get_xlim()
    _label_decades(axes.xaxis, high / low)
    axes.set_xlabel("signal above the offset (counts)")
    axes.grid(which="major", color="#dddddd", linewidth=0.6)


def _label_decades(axis: Axis, span: float) -> None:
    """Plain numbers at decades, and at 2 and 5 where there are few decades."""
    axis.set_major_locator(LogLocator(subs=(1.0,) if span > _MANY_DECADES else (1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _write(figure: Figure, transfer: PhotonTransfer, camera: CameraCalibration) -> None:
    line, y = transfer.line, 0.87
    for name, value, unit in figures(camera):
        figure.text(_TEXT_LEFT, y, name, fontsize=9, color="#555555", va="top")
        figure.text(_TEXT_LEFT, y - 0.03, value, fontsize=11, weight="bold", va="top")
        figure.text(_TEXT_LEFT, y - 0.066, unit, fontsize=8, color="#555555", va="top")
        y -= 0.115
    notes = [camera.method, f"{sum(not one.is_saturated for one in transfer.levels)} levels"]
    if np.isfinite(line.chi_square):
        notes.append(f"mean squared deviation {line.chi_square:.1f}")
    if line.curvature_error < 1:
        notes.append(
            f"nonlinearity {100 * line.curvature:+.1f} ± {100 * line.curvature_error:.1f} %"
        )
    notes += ["fit: variance = gain · signal", "+ (gain · read noise)² + 1/12"]
    for note in notes:
        figure.text(_TEXT_LEFT, y, note, fontsize=8, va="top")
        y -= 0.03
    y -= 0.015
    for warning in transfer.warnings:
        text = textwrap.shorten(warning, _MOST_WARNING, placeholder=" …")
        wrapped = textwrap.wrap("! " + text, _TEXT_COLUMNS, break_on_hyphens=False)
        if y - 0.024 * len(wrapped) < 0.02:
            figure.text(_TEXT_LEFT, y, "! and more: see the terminal", fontsize=7.5, va="top")
            break
        figure.text(
            _TEXT_LEFT, y, "\n".join(wrapped), fontsize=7.5, color="#b00020", va="top",
            linespacing=1.2,
        )  # fmt: skip
        y -= 0.024 * len(wrapped) + 0.012


def _parted(transfer: PhotonTransfer) -> tuple[list[Level], list[Level]]:
    """Levels that were used, and those left out."""
    used = [one for one in transfer.levels if not one.is_saturated and one.signal > 0]
    return used, [one for one in transfer.levels if one.is_saturated and one.signal > 0]


def _by_series(levels: list[Level]) -> dict[str, list[Level]]:
    found: dict[str, list[Level]] = {}
    for one in levels:
        found.setdefault(one.series, []).append(one)
    return found


def _short(name: str) -> str:
    """The end of a path."""
    end = name.replace("\\", "/").rsplit("/", 1)[-1]
    return end if len(end) <= 28 else "…" + end[-27:]
