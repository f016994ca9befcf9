"""``live-restore restore``: files and folders, one after the other."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.progress import Progress, TaskID

    from live_restore.restore.restorer import RcanRestorer
    from live_restore.sources.stacks.tiff import TiffStack

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "restore",
        help="restore files or folders of z-stacks",
        description="Writes an OME-TIFF for each TIFF z-stack (OME-TIFF, ImageJ hyperstack or "
        "multi-page). A file that can't be read is named at the end; the others are restored.",
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
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="in um, for files that don't say theirs",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    from live_restore.errors import LiveRestoreError
    from live_restore.restore.model import load_model
    from live_restore.restore.restorer import RcanRestorer

    files = list(_files(options.inputs, options.output))
    failures: list[str] = []
    started = time.monotonic()
    model = load_model(options.model)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("volumes"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with (
        RcanRestorer(model, options.device, options.precision, options.dtype) as restorer,
        Progress(*columns, console=console) as bar,
    ):
        for path, name in files:
            task = bar.add_task(path.name, total=None)
            show = partial(_show, bar, task)
            try:
                output = _restore_file(path, name, options, restorer, show)
                names = ", ".join(str(one) for one in output)
                bar.console.print(f"{path} -> {names}", markup=False, soft_wrap=True)
            except (LiveRestoreError, OSError) as error:
                failures.append(str(error))
                bar.console.print(f"{path} failed", style="red", markup=False, soft_wrap=True)
            finally:
                bar.remove_task(task)
    print(
        f"{len(files) - len(failures)} of {len(files)} files restored in "
        f"{time.monotonic() - started:.1f} s",
        file=sys.stderr,
    )
    for failure in failures:
        print(f"not restored: {failure}", file=sys.stderr)
    return 1 if failures or not files else 0


def _show(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _files(inputs: list[Path], output: Path) -> Iterator[tuple[Path, str]]:
    """Each file and the name of its acquisition; folders are searched for TIFF files."""
    from live_restore.sources.folder import acquisition_name
    from live_restore.sources.stacks.tiff import TIFF_SUFFIXES

    for path in inputs:
        if not path.is_dir():
            yield path, acquisition_name(Path(path.name))
            continue
        for file in sorted(path.rglob("*")):
            is_own = output.resolve() in file.resolve().parents
            if file.suffix.lower() in TIFF_SUFFIXES and file.is_file() and not is_own:
                yield file, acquisition_name(file.relative_to(path))


def _restore_file(
    path: Path,
    name: str,
    options: argparse.Namespace,
    restorer: RcanRestorer,
    on_progress: Callable[[int, int], None],
) -> list[Path]:
    """Restore all volumes of a file into one OME-TIFF per position."""
    import numpy as np

    from live_restore.errors import SourceError
    from live_restore.sinks.writer import provenance, write_ome_tiff
    from live_restore.sources.stacks.tiff import TiffStack

    if not path.is_file():
        raise SourceError(f"{path}: no such file")
    with TiffStack(path, name, options.voxel_size and tuple(options.voxel_size)) as stack:
        info = stack.info
        restored = _restored_volumes(stack, restorer, on_progress)
        outputs = []
        for position in info.positions:
            suffix = f"_{position}" if len(info.positions) > 1 else ""
            output = options.output / f"{name}{suffix}.ome.tif"
            if output.resolve() == path.resolve():
                raise SourceError(
                    f"{path}: would be replaced by its own result; choose another --output"
                )
            output.parent.mkdir(parents=True, exist_ok=True)
            volumes = (next(restored) for _ in range(stack.num_times * len(info.channels)))
            write_ome_tiff(
                output,
                (plane for volume in volumes for plane in volume),
                (stack.num_times, len(info.channels), *info.shape_zyx),
                np.dtype(options.dtype),
                info.voxel_size_um,
                info.channels,
                provenance(restorer.model_use(info.shape_zyx), info.origin),
            )
            outputs.append(output)
    return outputs


def _restored_volumes(
    stack: TiffStack, restorer: RcanRestorer, on_progress: Callable[[int, int], None]
) -> Iterator[NDArray[np.generic]]:
    from live_restore.errors import SourceError
    from live_restore.sources.assembler import Assembler
    from live_restore.volume import Volume

    info = stack.info
    total = len(info.positions) * stack.num_times * len(info.channels)
    done = 0
    assembler = Assembler()
    assembler.start(info)
    on_progress(0, total)
    for plane in stack.planes():
        for settled in assembler.add(plane):
            if not isinstance(settled, Volume):
                raise SourceError(f"{settled.key}: {settled.reason}")
            yield restorer.restore(settled).data
            done += 1
            on_progress(done, total)
