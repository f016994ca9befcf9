"""``live-restore evaluate``: a model on matched volumes, beside classical methods."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from live_restore.evaluate.picture import Row
    from live_restore.evaluate.psf import PointSpread
    from live_restore.evaluate.scoring import Score
    from live_restore.evaluate.summary import Estimate, Summary
    from live_restore.matched import MatchedFiles, MatchedPair
    from live_restore.restore.restorer import RcanRestorer
    from live_restore.volume import ModelUse

__all__ = ["add_command"]

_WIDTH = 120  # of tables in a file or a pipe


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "evaluate",
        help="score a model on low- and high-dose stacks of the same fields",
        description="Restores the low-dose stacks and scores raw, restored and classically filtered "
        "volumes against the high-dose ones of the same names: PSNR, SSIM, NRMSE, with intervals.",
    )
    parser.add_argument("model", metavar="MODEL", help='a .safetensors file, or "default"')
    parser.add_argument("--low", type=Path, required=True, metavar="DIR", help="low-dose stacks")
    parser.add_argument("--high", type=Path, required=True, metavar="DIR", help="high-dose stacks")
    parser.add_argument(
        "--output", type=Path, metavar="DIR", help="where to write CSV, JSON and a picture"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", choices=("auto", "float16", "bfloat16", "float32"), default="auto"
    )
    parser.add_argument(
        "--attention",
        choices=("whole", "tile"),
        default="whole",
        help="what the network's channel attention looks at: the whole volume, or tiles as large as the "
        "patches that it learnt from, as published: slower, often a little better (default: whole)",
    )
    parser.add_argument(
        "--psf",
        type=Path,
        metavar="FILE",
        help="z-stack of a point for Richardson-Lucy; a Gaussian of 2 x 1 x 1 voxels otherwise",
    )
    parser.add_argument(
        "--field-of-view",
        metavar="REGEX",
        help="one group: what of a file's name is the field of view; by default all but a time "
        "point at its end",
    )
    parser.add_argument(
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="in um, for files that don't say theirs",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default 0)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, tables on stderr")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from live_restore.errors import SinkError
    from live_restore.evaluate.psf import read_psf
    from live_restore.evaluate.report import as_document, as_json, write_scores
    from live_restore.evaluate.summary import summarise
    from live_restore.matched import match_folders
    from live_restore.restore.manner import Manner
    from live_restore.restore.model import load_model
    from live_restore.restore.restorer import RcanRestorer

    if options.output and options.output.exists() and not options.output.is_dir():
        raise SinkError(f"--output {options.output}: is a file; give a folder")
    files = match_folders(options.low, options.high)
    psf = read_psf(options.psf) if options.psf else None
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    with RcanRestorer(
        load_model(options.model),
        options.device,
        options.precision,
        "float32",
        Manner(attention=options.attention),
    ) as restorer:
        scores, rows, use = _evaluate(files, restorer, psf, options)
    summaries = summarise(scores, options.seed)
    _print(console, scores, summaries)
    settings = {
        "low": str(options.low),
        "high": str(options.high),
        "psf": str(options.psf) if options.psf else None,
        "field_of_view": options.field_of_view,
        "seed": options.seed,
    }
    document = as_document(scores, summaries, use, settings)
    if options.output:
        options.output.mkdir(parents=True, exist_ok=True)
        written = write_scores(options.output, document, scores)
        written.append(_draw(options.output, rows, use.name))
        names = ", ".join(str(one) for one in written)
        console.print(f"written: {names}", markup=False, soft_wrap=True)
    if options.json:
        print(as_json(document))
    return 0


def _evaluate(
    files: Sequence[MatchedFiles],
    restorer: RcanRestorer,
    psf: PointSpread | None,
    options: argparse.Namespace,
) -> tuple[list[Score], list[Row], ModelUse]:
    """Score all volumes; projections of a few of them, drawn by chance, not by how they look."""
    import random

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from live_restore.evaluate import scoring
    from live_restore.evaluate.picture import MOST_ROWS, Row
    from live_restore.matched import FIELD_OF_VIEW, read_pairs

    chance = random.Random(options.seed)  # noqa: S311
    methods = scoring.classical_methods(psf.kernel if psf else None)
    methods[scoring.RESTORED] = scoring.restoring(restorer)
    scores: list[Score] = []
    shown: list[tuple[int, Row]] = []
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TextColumn("files"), console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=len(files))

        def pairs() -> Iterator[MatchedPair]:
            pattern = options.field_of_view or FIELD_OF_VIEW
            voxel = tuple(options.voxel_size) if options.voxel_size else None
            for pair in read_pairs(files, pattern, voxel):
                if psf:
                    psf.check_voxels(pair)
                bar.update(task, completed=files.index(pair.files), description=pair.name)
                yield pair

        scored = scoring.evaluate_pairs(pairs(), methods)
        for count, (pair, its_scores, results) in enumerate(scored):
            scores += its_scores
            use = restorer.model_use(pair.low.shape)
            place = count if count < MOST_ROWS else chance.randint(0, count)
            if place < MOST_ROWS and options.output:
                row = Row.of(pair, results[scoring.RESTORED], its_scores)
                shown[place : place + 1] = [(count, row)]
        bar.update(task, completed=len(files), description="done")
    return scores, [row for _, row in sorted(shown, key=lambda one: one[0])], use


def _draw(folder: Path, rows: list[Row], model: str) -> Path:
    from live_restore.evaluate.picture import draw
    from live_restore.quality import CONVENTION

    path = folder / "evaluation.png"
    draw(
        path,
        rows,
        f"Model {model}. Maximum projections; raw and restored in the truth's counts by the restored "
        f"volume's affine fit; one grey scale per row, raw on its own.\n{CONVENTION}.",
    )
    return path


def _print(console: Console, scores: list[Score], summaries: list[Summary]) -> None:
    from live_restore.evaluate.baselines import has_scikit_image
    from live_restore.evaluate.report import ORACLE
    from live_restore.evaluate.summary import FEWEST_FIELDS
    from live_restore.quality import CONVENTION

    console.print(_volumes(scores, [one.method for one in summaries]))
    console.print(_means(summaries))
    first = summaries[0]
    n = f"{first.num_volumes} volumes of {first.num_fields} fields of view"
    if first.num_fields < FEWEST_FIELDS:
        interval = f"no interval can be given below {FEWEST_FIELDS} fields of view"
    else:
        interval = "[ ]: 95 % bootstrap interval of the mean, fields of view resampled"
    flat = len({score.volume for score in scores if score.ssim_kind != "3D"})
    notes = [f"n = {n}; mean ± standard deviation between volumes; {interval}."]
    notes.append(f"{CONVENTION}.")
    if flat:
        notes.append(f"SSIM is the mean over planes for {flat} volumes with too few planes for 3D.")
    notes.append(f"{ORACLE}.")
    if not has_scikit_image():
        notes.append(
            'Total variation and Richardson-Lucy come with: pip install "live-restore[evaluate]"'
        )
    for note in notes:
        console.print(note, style="dim", markup=False, highlight=False)


def _volumes(scores: list[Score], methods: list[str]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="PSNR dB / SSIM of each volume", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("volume", overflow="fold")
    for method in methods:
        table.add_column(method, justify="right", overflow="fold")
    for row in zip(*(iter(scores),) * len(methods), strict=True):
        table.add_row(
            escape(row[0].volume), *(f"{one.psnr_db:.2f} / {one.ssim:.3f}" for one in row)
        )
    return table


def _means(summaries: list[Summary]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="means over volumes", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("method", overflow="fold")
    for name in ("PSNR dB", "gain over raw dB", "SSIM", "gain over raw", "NRMSE"):
        table.add_column(name, justify="right", overflow="fold")
    for one in summaries:
        gains = one.gains
        table.add_row(
            one.method,
            _text(one.scores["psnr_db"], "{:.2f}"),
            _text(gains["psnr_db"], "{:+.2f}") if gains else "",
            _text(one.scores["ssim"], "{:.3f}"),
            _text(gains["ssim"], "{:+.3f}") if gains else "",
            _text(one.scores["nrmse"], "{:.4f}"),
        )
    return table


def _text(estimate: Estimate, form: str) -> str:
    """Mean, standard deviation, interval, as far as there are."""
    from rich.markup import escape

    text = form.format(estimate.mean)
    if estimate.sd is not None:
        text += " ± " + form.replace("+", "").format(estimate.sd)
    if estimate.interval:
        low, high = (form.format(one) for one in estimate.interval)
        text += escape(f"\n[{low}, {high}]")
    return text
