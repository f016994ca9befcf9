"""A picture of restored volumes beside raw and truth: maximum projections, from above and from the side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from live_restore.evaluate.scoring import RAW, RESTORED, Score
from live_restore.matched import MatchedPair
from live_restore.quality import affine_fit
from live_restore.volume import VoxelSize

__all__ = ["MOST_ROWS", "Row", "draw"]

MOST_ROWS = 4
"""Volumes in one picture."""

_PANEL, _GAP, _TITLE, _CAPTION = 2.9, 0.06, 0.5, 0.46  # inches
_TALLEST = 4.5
_DPI = 140
_COLUMNS = ("raw, own scale", "restored", "truth", "|restored - truth|, same scale")
_INK, _PAPER = "white", "black"


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """Projections of one volume, in the truth's counts; the volumes themselves aren't kept.

    Attributes
    ----------
    name : str
        Of the volume.
    subtitles : tuple of str
        What stands above each panel.
    from_above, from_the_side : tuple of ndarray
        ``(Y, X)`` and ``(Z, X)`` for raw, restored, truth and error.
    limits : tuple of float
        Counts that are black and white in all panels but raw's; error starts at 0.
    voxel_size_um : tuple of float or None
        ``(z, y, x)``.
    """

    name: str
    subtitles: tuple[str, ...]
    from_above: tuple[NDArray[np.float32], ...]
    from_the_side: tuple[NDArray[np.float32], ...]
    limits: tuple[float, float]
    voxel_size_um: VoxelSize | None

    @classmethod
    def of(cls, pair: MatchedPair, restored: NDArray[Any], scores: Sequence[Score]) -> Self:
        """Project one volume.

        Parameters
        ----------
        pair : MatchedPair
            Raw and truth.
        restored : ndarray, (Z, Y, X)
            In the raw volume's counts: both are brought to the truth's by the fit of `restored`.
        scores : sequence of Score
            Of this volume, raw and restored among them.
        """
        gain, offset = affine_fit(restored, pair.high)
        truth = pair.high.astype(np.float32)
        volumes = [gain * one.astype(np.float32) + offset for one in (pair.low, restored)]
        volumes += [truth, np.abs(volumes[1] - truth)]
        figures = {
            score.method: f"{score.psnr_db:.1f} dB, SSIM {score.ssim:.2f}" for score in scores
        }
        above = tuple(np.asarray(one.max(axis=0), dtype=np.float32) for one in volumes)
        low, high = np.percentile(above[2], [1.0, 99.9])
        return cls(
            pair.name,
            (figures[RAW], figures[RESTORED], "", ""),
            above,
            tuple(np.asarray(one.max(axis=1), dtype=np.float32) for one in volumes),
            (float(low), float(max(high, low + 1e-6))),
            pair.voxel_size_um,
        )


def draw(path: Path, rows: Sequence[Row], caption: str) -> None:
    """Write the picture, whole or not at all.

    Parameters
    ----------
    path : pathlib.Path
        Ends in ``.png``; replaced if it exists.
    rows : sequence of Row
        At most `MOST_ROWS` look well.
    caption : str
        What stands beneath: model and convention.
    """
    panels = [_panel_heights(row) for row in rows]
    blocks = [above + side + _GAP + _TITLE for above, side in panels]
    width = _GAP + len(_COLUMNS) * (_PANEL + _GAP)
    height = sum(blocks) + _CAPTION
    figure = Figure(figsize=(width, height), facecolor=_PAPER)
    FigureCanvasAgg(figure)
    top = height
    for row, (above, side), block in zip(rows, panels, blocks, strict=True):
        for column, title in enumerate(_COLUMNS):
            left = _GAP + column * (_PANEL + _GAP)

            def panel(bottom: float, tall: float, left: float = left) -> Axes:
                box = (left / width, bottom / height, _PANEL / width, tall / height)
                return figure.add_axes(box)

            upper = panel(top - _TITLE - above, above)
            lower = panel(top - block, side)
            _show(upper, row.from_above[column], row, column, _aspect(row, 1))
            _show(lower, row.from_the_side[column], row, column, _aspect(row, 0))
            heading = f"{title}  {row.subtitles[column]}"
            upper.set_title(heading, color=_INK, fontsize=9, loc="left", pad=3)
            if column == 0:
                figure.text(left / width, (top - 0.2) / height, row.name, color=_INK, weight="bold")
                _label(upper, "XY")
                _label(lower, "XZ" if row.voxel_size_um else "XZ, voxels drawn as cubes")
                _scale_bar(upper, row)
        top -= block
    figure.text(_GAP / width, 0.12 / height, caption, color=_INK, fontsize=7)
    part = path.with_name(path.name + ".part")
    figure.savefig(part, format="png", dpi=_DPI, facecolor=_PAPER)
    part.replace(path)


def _aspect(row: Row, axis: int) -> float:
    """Height of a voxel along z (0) or y (1) over its width."""
    voxel = row.voxel_size_um or (1.0, 1.0, 1.0)
    return voxel[axis] / voxel[2]


def _panel_heights(row: Row) -> tuple[float, float]:
    """In inches, of the views from above and from the side."""
    above, side = (
        image[0].shape[0] * _aspect(row, axis) / image[0].shape[1] * _PANEL
        for image, axis in ((row.from_above, 1), (row.from_the_side, 0))
    )
    return min(above, _TALLEST), min(max(side, 0.1), _TALLEST)


def _show(axes: Axes, image: NDArray[np.float32], row: Row, column: int, aspect: float) -> None:
    low, high = row.limits
    is_error = column == len(_COLUMNS) - 1
    if column == 0:
        # Of a maximum projection noise takes the peaks: on the truth's scale it would be white.
        low, high = np.percentile(row.from_above[0], [1.0, 99.9])
    axes.imshow(
        image,
        cmap="inferno" if is_error else "gray",
        vmin=0.0 if is_error else low,
        vmax=high - low if is_error else high,
        aspect=aspect,
        interpolation="nearest" if image.shape[1] < _PANEL * _DPI else "antialiased",
    )
    axes.set_axis_off()


def _label(axes: Axes, text: str) -> None:
    axes.text(
        0.02, 0.97, text, transform=axes.transAxes, color=_INK, fontsize=7, va="top",
        path_effects=[withStroke(linewidth=2, foreground=_PAPER)],
    )  # fmt: skip


def _scale_bar(axes: Axes, row: Row) -> None:
    """A round number of micrometres, about a fifth of the width."""
    if row.voxel_size_um is None:
        return
    ny, nx = row.from_above[0].shape
    voxel_um = row.voxel_size_um[2]
    wanted = nx * voxel_um / 5
    decade = 10.0 ** math.floor(math.log10(wanted))
    length_um = max(step * decade for step in (1, 2, 5) if step * decade <= wanted)
    length = length_um / voxel_um
    x, y = 0.96 * nx - length, 0.95 * ny
    outline = [withStroke(linewidth=2, foreground=_PAPER)]
    axes.plot([x, x + length], [y, y], color=_INK, linewidth=3, solid_capstyle="butt")
    axes.text(
        x + length / 2, y - 0.02 * ny, f"{length_um:g} µm", color=_INK, fontsize=8,
        ha="center", va="bottom", path_effects=outline,
    )  # fmt: skip
    axes.set_xlim(-0.5, nx - 0.5)
    axes.set_ylim(ny - 0.5, -0.5)
