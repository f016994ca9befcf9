"""``live-restore restore``: files, folders and whole archives."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress

    from live_restore.archive.jobs import Recipe
    from live_restore.archive.run import ArchiveRun, Execute, Report
    from live_restore.sources.layouts import Recognition

__all__ = ["add_command"]

_INTERRUPTED = 130


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "restore",
        help="restore files or folders of z-stacks",
        description="Writes an OME-TIFF for each z-stack: those in files that hold whole ones, and "
        "those in the datasets of Micro-Manager and pycromanager. What can't be read is named at the "
        "end; the rest is restored. Run again, it goes on where it stopped.",
    )
    parser.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="file or folder")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where to write")
    parser.add_argument("--model", default="default", help="a .safetensors file")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=("uint16", "float32"), default="uint16")
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
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="in um, for files that don't say theirs",
    )
    parser.add_argument(
        "--pattern",
        help='names of acquisitions of one file per plane, as "{position}_{time}_{channel}_{z}.tif"',
    )
    parser.add_argument("--again", action="store_true", help="also what was restored before")
    parser.add_argument(
        "--ledger", type=Path, metavar="DIR", help="where to note what was restored"
    )
    parser.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="restore on a Dask cluster: its scheduler's address, as tcp://host:8786, or local for "
        "one worker per GPU of this machine. All machines must see the same disk. Dask trusts whoever "
        "can connect to it: name only a scheduler of your own, in a network of your own",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="of --scheduler local, instead of one per GPU"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.archive.run import ArchiveRun, forget, ledger_file
    from live_restore.archive.search import find
    from live_restore.errors import LiveRestoreError, ProfileError
    from live_restore.ledger import Ledger
    from live_restore.profile import WriteSettings
    from live_restore.sinks.writer import Writer

    started = time.monotonic()
    if options.workers is not None and (options.scheduler != "local" or options.workers < 1):
        raise ProfileError("--workers says how many --scheduler local starts, 1 or more")
    recognition, recipe = _recognition(options), _recipe(options)
    num_found = sum(1 for _ in find(options.inputs, recipe.output, recognition))
    file = ledger_file(recipe.output, options.ledger)
    if options.again:
        forget(file)
    with Writer(WriteSettings(folder=recipe.output)), Ledger(file, is_written=True) as ledger:
        with _progress(num_found) as bar, _executor(options, recipe) as execute:
            run = ArchiveRun(
                recipe,
                ledger,
                lambda report, share: _tell(bar, run, report, share),
                replaces=options.again,
            )
            try:
                run.run(find(options.inputs, recipe.output, recognition), execute)
                code = 1 if run.problems or not num_found else 0
            except KeyboardInterrupt:
                code = _INTERRUPTED
            except LiveRestoreError as error:
                bar.console.print(f"live-restore: {error}", markup=False, soft_wrap=True)
                code = 1
        _summarise(run, code, time.monotonic() - started)
    return code


def _recognition(options: argparse.Namespace) -> Recognition:
    from live_restore.errors import ProfileError
    from live_restore.sources.layouts import Recognition

    try:
        return Recognition(pattern=options.pattern, is_finished=True)
    except ValueError as error:
        raise ProfileError(f"--pattern {options.pattern}: {error}") from error


def _recipe(options: argparse.Namespace) -> Recipe:
    from live_restore.archive.jobs import Recipe
    from live_restore.restore.model import load_model

    model = load_model(options.model)
    return Recipe(
        "default" if options.model == "default" else str(model.path.resolve()),
        model.sha256,
        options.output.resolve(),
        options.device,
        options.precision,
        options.dtype,
        tuple(options.voxel_size) if options.voxel_size else None,
        options.attention,
    )


@contextmanager
def _executor(options: argparse.Namespace, recipe: Recipe) -> Iterator[Execute]:
    if options.scheduler is None:
        from live_restore.archive.run import here
        from live_restore.archive.work import Workbench

        with Workbench(recipe) as bench:
            yield here(bench)
    else:
        from live_restore.archive.cluster import on_cluster

        with on_cluster(options.scheduler, recipe, options.workers) as execute:
            yield execute


def _progress(num_files: int) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total} files, {task.fields[volumes]} volumes"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    bar.add_task("restoring", total=num_files, volumes=0)
    return bar


def _tell(bar: Progress, run: ArchiveRun, report: Report, share: float) -> None:
    """Show how far the run is, and what became of a file."""

    def say(text: str, style: str = "") -> None:
        bar.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    bar.update(bar.tasks[0].id, advance=share, volumes=run.num_restored)
    if not report.is_over:
        return
    if report.output is not None:
        several = f" and {report.num_restored - 1} more" if report.num_restored > 1 else ""
        say(f"{report.path} -> {report.output}{several}")
    if report.problems:
        say(f"{report.path} failed: {len(report.problems)} problems, named at the end", "red")


def _summarise(run: ArchiveRun, code: int, duration_s: float) -> None:
    lines = [f"{run.num_restored} volumes restored in {duration_s:.1f} s"]
    if run.num_before:
        lines.append(f"{run.num_before} of {run.num_volumes} volumes were restored before")
    lines += [f"not restored: {problem}" for problem in run.problems]
    if code == _INTERRUPTED:
        lines.append("stopped: the same command, without --again, goes on from there")
    print("\n".join(lines), file=sys.stderr)
