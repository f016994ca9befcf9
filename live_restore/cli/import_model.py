"""``live-restore import-model``: other programs' 3D RCAN models."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["add_command", "check_output", "writing"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "import-model",
        help="import a 3D RCAN from Keras, PyTorch or bioimage.io",
        description="Writes a .safetensors model from a Keras .hdf5 file, a training folder (the "
        "checkpoint with the lowest loss), a PyTorch .pth state dict, or a bioimage.io package. "
        "Nothing in those files is executed. What isn't the published network is refused.",
    )
    parser.add_argument("source", type=Path, metavar="FILE|FOLDER", help="the model to import")
    parser.add_argument("output", type=Path, metavar="OUTPUT.safetensors", help="where to write")
    parser.add_argument("--name", help="its name; from the package or the output file otherwise")
    parser.add_argument("--description", help="what it does and what it doesn't do")
    parser.add_argument("--licence", help="of the weights")
    parser.add_argument(
        "--residual-scaling",
        type=float,
        metavar="F",
        help="factor on each block's residual in its training, where the file doesn't tell",
    )
    parser.add_argument(
        "--low-percent", type=float, metavar="P", help="percentile that becomes 0 (published: 2)"
    )
    parser.add_argument(
        "--high-percent",
        type=float,
        metavar="P",
        help="percentile that becomes 1 (published: 99.9)",
    )
    parser.add_argument(
        "--voxel-size",
        nargs=3,
        type=float,
        metavar=("Z", "Y", "X"),
        help="in um, that it was trained for",
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    parser.set_defaults(run=_run, exit_code=2)


def check_output(path: Path, suffix: str, is_forced: bool) -> None:
    """Refuse to write where nothing should be written.

    Raises
    ------
    ModelError
        Another suffix, a folder that isn't there, or a file that is.
    """
    from live_restore.errors import ModelError

    if path.suffix != suffix or not path.parent.is_dir():
        raise ModelError(f"output {path}: must end in {suffix}, in a folder that exists")
    if path.exists() and not is_forced:
        raise ModelError(f"output {path}: exists; name another file, or replace it with --force")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell of a disk that can't be written to as of any other wrong argument.

    Raises
    ------
    ModelError
        Permission denied, disk full.
    """
    from live_restore.errors import ModelError

    try:
        yield
    except OSError as error:
        raise ModelError(f"output {path}: can't be written: {error}") from error


def _run(options: argparse.Namespace) -> int:
    from live_restore.convert.importing import Wishes, import_model

    check_output(options.output, ".safetensors", options.force)
    wishes = Wishes(
        options.name,
        options.description,
        options.licence,
        options.residual_scaling,
        options.low_percent,
        options.high_percent,
        options.voxel_size and tuple(options.voxel_size),
    )
    with writing(options.output):
        card, imported = import_model(options.source, options.output, wishes)
    for doubt in imported.doubts:
        print(f"note: {doubt}", file=sys.stderr)
    size, norm = card.architecture, card.normalisation
    print(imported.source)
    print(
        f"3D RCAN of {size.num_residual_groups} groups of {size.num_residual_blocks} blocks, "
        f"{size.num_channels} channels, channel reduction {size.channel_reduction}, residual "
        f"scaling {size.residual_scaling:g}; percentiles {norm.low_percent:g} and "
        f"{norm.high_percent:g}"
    )
    print(f"written to {options.output}")
    return 0
