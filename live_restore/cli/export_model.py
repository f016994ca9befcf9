"""``live-restore export-model``: a model as a bioimage.io package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from live_restore.cli.import_model import check_output, writing

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "export-model",
        help="write a model as a bioimage.io package",
        description="Writes a zip file in bioimage.io's format 0.5 with PyTorch weights, which other "
        "programs validate and run, and which import-model reads again.",
    )
    parser.add_argument("model", help='a .safetensors file, a model\'s name, or "default"')
    parser.add_argument("output", type=Path, metavar="OUTPUT.zip", help="where to write")
    parser.add_argument(
        "--author", action="append", default=[], help="who made the model; repeat it for several"
    )
    parser.add_argument("--force", action="store_true", help="replace the output if it exists")
    parser.set_defaults(run=_run, exit_code=2)


def _run(options: argparse.Namespace) -> int:
    from live_restore.convert.bioimageio_write import export_model
    from live_restore.restore.model import load_model

    check_output(options.output, ".zip", options.force)
    model = load_model(options.model)
    with writing(options.output):
        export_model(model, options.output, tuple(options.author))
    print(f"written to {options.output}")
    return 0
