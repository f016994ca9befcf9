"""``live-restore train``: a model from a configuration."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a model on simulated volumes",
        description="Trains a 3D RCAN on pairs from the physical simulation and writes one "
        ".safetensors file with its card.",
    )
    parser.add_argument("config", type=Path, help="TOML file: network, simulation, schedule")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from live_restore.errors import ProfileError
    from live_restore.restore.restorer import choose_device
    from live_restore.train.config import load_config
    from live_restore.train.loop import Progress as Step
    from live_restore.train.loop import train

    config = load_config(options.config)
    if options.output.suffix != ".safetensors" or not options.output.parent.is_dir():
        raise ProfileError(
            f"--output {options.output}: must end in .safetensors, in a folder that exists"
        )
    columns = (
        TextColumn("step {task.completed} of {task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=config.schedule.steps, loss="")

        def show(step: Step) -> None:
            bar.update(task, completed=step.step, loss=f"{step.loss:.5f}")

        card = train(config, options.output, str(choose_device(options.device)), show)
    for name, value in card.quality.items():
        print(f"{name:40} {value:8.3f}")
    print(f"written to {options.output}")
    return 0
