"""``live-restore bench``: how fast this machine restores, and how fast a microscope may be."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.restore.measuring import Limits, Speed
    from live_restore.restore.restorer import RcanRestorer

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "bench",
        help="measure how fast this machine restores",
        description="Restores simulated volumes as those of a time-lapse and prints what each step takes, "
        "against PyTorch's plain network and against what this machine reaches in the simplest work.",
    )
    parser.add_argument("--model", default="default", help="file or name; see live-restore models")
    parser.add_argument(
        "--shape", type=_shape, default=(64, 512, 512), metavar="Z,Y,X", help="default: 64,512,512"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "float16", "bfloat16", "float32")
    )
    parser.add_argument("--repeats", type=int, default=3, help="medians of so many (default: 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.set_defaults(run=_run)


def _shape(text: str) -> tuple[int, int, int]:
    try:
        nz, ny, nx = (int(size) for size in text.split(","))
    except ValueError:
        nz = ny = nx = 0
    if min(nz, ny, nx) < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected planes, rows, columns, as 64,512,512")
    return nz, ny, nx


def _run(options: argparse.Namespace) -> int:
    from live_restore.errors import ProfileError
    from live_restore.restore.manner import Manner
    from live_restore.restore.measuring import measure_limits, measure_speed
    from live_restore.restore.model import load_model
    from live_restore.restore.restorer import RcanRestorer

    if options.repeats < 1:
        raise ProfileError(f"--repeats {options.repeats}: 1 or more")
    manner = Manner(attention="previous", normalisation="running")
    model = load_model(options.model)
    with RcanRestorer(model, options.device, options.precision, manner=manner) as restorer:
        limits = measure_limits(restorer)
        speed = measure_speed(restorer, options.shape, options.repeats)
        if options.json:
            print(json.dumps(_as_json(options, restorer, limits, speed), indent=2))
        else:
            _print(options, restorer, limits, speed)
    return 0


def _as_json(
    options: argparse.Namespace, restorer: RcanRestorer, limits: Limits, speed: Speed
) -> dict[str, Any]:
    return {
        "model": restorer.model.card.name,
        "sha256": restorer.model.sha256,
        "shape_zyx": options.shape,
        "device": restorer.device_name,
        "precision": restorer.precision,
        "tile_zyx": restorer.plan(options.shape).tile_zyx,
        "certificate": asdict(restorer.certificate),
        "limits": asdict(limits),
        "speed": asdict(speed),
    }


def _print(
    options: argparse.Namespace, restorer: RcanRestorer, limits: Limits, speed: Speed
) -> None:
    from rich.console import Console
    from rich.table import Table

    shape = "×".join(str(size) for size in options.shape)
    tiles = restorer.plan(options.shape)
    tile = "×".join(str(size) for size in tiles.tile_zyx)
    console = Console(highlight=False)
    table = Table(
        title=f"{restorer.model.card.name}, {shape}", title_justify="left", show_header=False
    )
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("")
    arithmetic = speed.flop / speed.network_s / limits.flop_per_s
    memory = speed.nbytes / speed.network_s / limits.bytes_per_s
    eager = speed.eager_s
    rows = [
        ("device", restorer.device_name, f"{restorer.precision}, {len(tiles)} of {tile}"),
        (
            "one volume",
            _seconds(speed.whole_s),
            f"{speed.num_voxels / speed.whole_s / 1e6:.1f} Mvoxel/s",
        ),
        ("   percentiles", _seconds(speed.percentiles_s), "of the raw volume"),
        (
            "   network",
            _seconds(speed.network_s),
            f"{speed.flop / speed.network_s / 1e12:.2f} TFLOP/s",
        ),
        (
            "   the rest",
            _seconds(speed.whole_s - speed.percentiles_s - speed.network_s),
            "back to counts",
        ),
        (
            "after the last plane",
            _seconds(speed.early_s),
            "where planes are worked on as they come",
        ),
        (
            "plain PyTorch",
            _seconds(eager),
            f"{eager / speed.network_s:.2f} times as long" if eager else "out of memory",
        ),
        (
            "of a matrix product",
            f"{arithmetic:.0%}",
            f"which reaches {limits.flop_per_s / 1e12:.2f} TFLOP/s",
        ),
        (
            "of a copy in memory",
            f"{memory:.0%}",
            f"which reaches {limits.bytes_per_s / 1e9:.1f} GB/s",
        ),
    ]
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"{restorer.precision} {restorer.certificate}", soft_wrap=True)
    console.print(
        f"Your microscope may acquire a stack of {shape} every {_seconds(speed.whole_s)}.",
        soft_wrap=True,
    )


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"
