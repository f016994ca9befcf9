"""``live-restore characterize``: how little light, and how much blur, a model bears on your own stacks."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from live_restore.characterize.stacks import HighDose, StackFile
    from live_restore.characterize.study import Study
    from live_restore.guard.camera import CameraCalibration
    from live_restore.guard.envelope import Envelope, Specimen
    from live_restore.restore.model import Model

__all__ = ["add_command"]

_WIDTH = 120  # of tables in a file or a pipe


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "characterize",
        help="measure where a model holds on your own high-dose stacks",
        description="Takes light away from raw high-dose stacks, photon by photon, and blurs them, until the "
        "model breaks. Writes an envelope, with which the guard judges each restored volume, and on demand "
        "a report.",
    )
    parser.add_argument("model", metavar="MODEL", help='a .safetensors file, or "default"')
    parser.add_argument(
        "--stacks", type=Path, nargs="+", action="extend", required=True, metavar="PATH",
        help="raw high-dose z-stacks (TIFF): files, or folders of them. Nine fields of view and more for a bound "
        "with a coverage",
    )  # fmt: skip
    parser.add_argument(
        "--camera",
        required=True,
        metavar="NAME",
        help="their camera: a name or file from live-restore calibrate",
    )
    parser.add_argument(
        "--truth", type=Path, metavar="DIR",
        help="stacks of the same names to compare with, instead of light that the model wasn't shown: whole counts "
        "of a second exposure, or noise-free volumes in float32",
    )  # fmt: skip
    parser.add_argument(
        "--channel",
        metavar="NAME",
        help="the only one that is wanted of files with several; what to call that of the others",
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="the envelope (default: beside the model)"
    )
    parser.add_argument("--report", type=Path, metavar="DIR", help="where to write a report")
    parser.add_argument(
        "--target", type=float, default=0.35, metavar="NRMSE",
        help="error that you accept, for what is said here; the envelope holds for any (default: 0.35)",
    )  # fmt: skip
    parser.add_argument(
        "--attention",
        choices=("whole", "tile"),
        default="whole",
        help="as in the profile ([model] attention) that the envelope is for (default: whole)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--dtype",
        choices=("uint16", "float32"),
        default="uint16",
        help="output_dtype of your profile: rounding to whole counts is part of the error (default: uint16)",
    )
    parser.add_argument(
        "--precision", choices=("auto", "float16", "bfloat16", "float32"), default="auto"
    )
    parser.add_argument(
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="in um, for files that don't say theirs",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the noise (default: 0)")
    parser.add_argument("--json", action="store_true", help="JSON on stdout, the rest on stderr")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console

    from live_restore.characterize.build import build_envelope
    from live_restore.characterize.stacks import survey, truth_kind
    from live_restore.characterize.suitable import check_files
    from live_restore.guard.camera import find_camera
    from live_restore.restore.model import load_model

    _check_options(options)
    camera = find_camera(options.camera)
    model = load_model(options.model)
    output = _output(options, model)
    voxel = tuple(options.voxel_size) if options.voxel_size else None
    files = survey(options.stacks, options.truth, voxel, options.channel)
    warnings = check_files(files, camera, options.attention)
    truth = truth_kind(options.truth)
    console = Console(stderr=options.json, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH)
    study = _study(options, files, model, camera)
    study.warnings[:0] = warnings
    envelope = build_envelope(study.outcomes, study.use, camera, truth, study.transfer_sigma)
    envelope.save(output)
    _print(console, envelope, study, options.target)
    written = [output]
    if options.report:
        from live_restore.characterize.report import write_report

        written += write_report(options.report, envelope, study, options.target)
    names = ", ".join(str(one) for one in written)
    console.print(f"written: {names}", markup=False, soft_wrap=True)
    console.print(_lines(options, output), markup=False, soft_wrap=True)
    if options.json:
        from live_restore.characterize.summary import as_document

        document = as_document(envelope, options.target, study.warnings)
        print(json.dumps({**document, "files": [str(one) for one in written]}, indent=2))
    return 0


def _check_options(options: argparse.Namespace) -> None:
    from live_restore.errors import ProfileError

    if not 0 < options.target < 1:
        raise ProfileError(f"--target {options.target:g}: an NRMSE between 0 and 1")
    if options.seed < 0:
        raise ProfileError(f"--seed {options.seed}: 0 or more")
    if options.report and options.report.exists() and not options.report.is_dir():
        raise ProfileError(f"--report {options.report}: is a file; give a folder")


def _output(options: argparse.Namespace, model: Model) -> Path:
    """Where the envelope goes; known before an hour is spent.

    Raises
    ------
    ProfileError
        It can't go there.
    """
    from live_restore.errors import ProfileError
    from live_restore.guard.envelope import envelope_beside
    from live_restore.restore.model_folder import find_model

    path: Path = options.output or envelope_beside(model.path)
    if options.output is None and model.path == find_model("default"):
        raise ProfileError(
            "characterize: the default model came with the program, and its envelope with it; say where to "
            "write yours, with --output FILE.envelope"
        )
    if path.is_dir():
        raise ProfileError(f"{path}: is a folder; give a file, with --output FILE.envelope")
    folder = next(one for one in (path.resolve().parent, *path.resolve().parents) if one.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ProfileError(
            f"{path}: can't be written there; say where to, with --output FILE.envelope"
        )
    return path


def _study(
    options: argparse.Namespace,
    files: list[StackFile],
    model: Model,
    camera: CameraCalibration,
) -> Study:
    from live_restore.characterize.ladder import Pusher
    from live_restore.characterize.stacks import read_stacks
    from live_restore.characterize.study import NUM_STEPS, study_stacks
    from live_restore.restore.manner import Manner
    from live_restore.restore.restorer import RcanRestorer

    voxel = tuple(options.voxel_size) if options.voxel_size else None

    def stacks() -> Iterator[HighDose]:
        return read_stacks(options.stacks, options.truth, voxel, options.channel)

    pusher = Pusher(camera, options.seed)
    manner = Manner(attention=options.attention)
    restorer = RcanRestorer(
        model, options.device, options.precision, options.dtype, manner, examiner=pusher
    )
    total = NUM_STEPS * sum(file.num_volumes for file in files)
    with restorer, _progress(total) as tell:
        return study_stacks(restorer, pusher, stacks, camera, tell, options.seed)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TextColumn("restorations"), Remaining(), console=Console(stderr=True)
    ) as bar:
        task = bar.add_task("how sharp it is", total=total)

        def tell(name: str) -> None:
            bar.update(task, advance=1, description=name)

        yield tell


def _print(console: Console, envelope: Envelope, study: Study, target: float) -> None:
    from live_restore.characterize.summary import (
        BLIND,
        NRMSE,
        bound_in_words,
        holding,
        sharpness,
    )

    for specimen in envelope.card.specimens:
        console.print(_table(specimen))
        name = f"{specimen.channel}: " if specimen.channel else ""
        console.print(
            f"{name}{holding(specimen, target)}", markup=False, soft_wrap=True, style="bold"
        )
    for note in (bound_in_words(envelope), sharpness(envelope), BLIND, NRMSE):
        console.print(f"{note[0].upper()}{note[1:]}.", markup=False, soft_wrap=True, style="dim")
    for warning in study.warnings:
        console.print(f"! {warning}", markup=False, soft_wrap=True, style="yellow")


def _table(specimen: Specimen) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    name = f"{specimen.channel}, " if specimen.channel else ""
    table = Table(
        title=escape(f"{name}{specimen.num_acquisitions} fields of view"),
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("")
    for column in ("photoelectrons", "true NRMSE", "worst tenth", "guard says", "flagged"):
        table.add_column(column, justify="right")
    for rungs in (specimen.photon_ladder, specimen.blur_ladder):
        for number, rung in enumerate(rungs):
            what = f"blur {rung.blur:g} voxels" if rung.blur else "light" if not number else ""
            table.add_row(
                what,
                f"{rung.signal:.3g}",
                f"{rung.nrmse:.2f}",
                f"{rung.worst:.2f}",
                f"{rung.estimate:.2f}",
                f"{rung.flagged:.0%}",
                end_section=number == len(rungs) - 1,
            )
    return table


def _lines(options: argparse.Namespace, output: Path) -> str:
    """What to put into the profile."""
    camera = str(options.camera)
    if Path(camera).is_file():
        camera = str(Path(camera).resolve())
    envelope = str(output.resolve()) if options.output else "default"
    lines = ["In your profile:", "", "[guard]"]
    lines += [
        f"{name} = {json.dumps(value, ensure_ascii=False)}"
        for name, value in (("camera", camera), ("envelope", envelope))
    ]
    lines.append(f"target_nrmse = {options.target:g}")
    return "\n".join(lines)
