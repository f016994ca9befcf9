"""``live-restore train``: a model from a configuration or from two folders."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from live_restore.train.config import TrainConfig
    from live_restore.train.loop import Epoch

__all__ = ["add_command"]

# The published sizes (Chen et al. 2021), and one that a processor without a GPU trains in minutes.
_NETWORKS = {
    "default": {"num_residual_groups": 5, "num_residual_blocks": 3},
    "small": {"num_residual_groups": 3, "num_residual_blocks": 3},
    "large": {"num_residual_groups": 5, "num_residual_blocks": 5},
    "tiny": {
        "num_channels": 16,
        "num_residual_groups": 2,
        "num_residual_blocks": 2,
        "channel_reduction": 4,
    },
}


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "train",
        help="train a model on your volumes, or on simulated ones",
        description="Trains a 3D RCAN and writes the best model as one .safetensors file with its card. "
        "Give two folders of matched low- and high-dose stacks, or a configuration for everything "
        "else (docs/models.md). A run that was stopped or killed goes on with --resume.",
    )
    parser.add_argument("config", type=Path, nargs="?", help="TOML file")
    parser.add_argument("--low", type=Path, metavar="DIR", help="low-dose stacks")
    parser.add_argument("--high", type=Path, metavar="DIR", help="high-dose stacks, same names")
    parser.add_argument("--output", type=Path, required=True, help="the .safetensors file to write")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    parser.add_argument("--force", action="store_true", help="replace what an earlier run wrote")
    folders = parser.add_argument_group("with --low and --high")
    folders.add_argument(
        "--network",
        choices=("auto", *_NETWORKS),
        default="auto",
        help='the published sizes, or "tiny"; auto is default on a GPU, tiny without',
    )
    folders.add_argument("--epochs", type=int, default=100, help="validations (default 100)")
    folders.add_argument("--steps-per-epoch", type=int, default=256, help="(default 256)")
    folders.add_argument("--name", help="of the model; otherwise the output's")
    folders.add_argument("--seed", type=int, default=1)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from threading import Event

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from live_restore.restore.devices import choose_device
    from live_restore.train.log import TrainingLog
    from live_restore.train.loop import Progress as Step
    from live_restore.train.loop import Training, TrainingStoppedError
    from live_restore.train.origins import open_origin

    device = choose_device(options.device)
    config = _config(options, device.type)
    training_files = _check_output(options)
    stop = Event()
    for one in (signal.SIGINT, signal.SIGTERM):
        signal.signal(one, lambda *_: stop.set())
    columns = (
        TextColumn("step {task.completed} of {task.total}"),
        BarColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    training = Training(config, open_origin(config), options.output, str(device))
    step = training.resume() if options.resume else 0
    if options.force:
        for path in training_files:
            path.unlink(missing_ok=True)
    with (
        TrainingLog(options.output, step) as log,
        Progress(*columns, console=Console(stderr=True)) as bar,
    ):
        task = bar.add_task("training", total=training.steps, completed=step, loss="")

        def on_step(progress: Step) -> None:
            bar.update(task, completed=progress.step, loss=f"{progress.loss:.5f}")
            log.note_step(progress)

        def on_epoch(epoch: Epoch) -> None:
            is_best = epoch.scores.loss <= min(one.scores.loss for one in training.history)
            bar.console.print(_line(epoch, config, is_best), highlight=False, soft_wrap=True)
            log.note_epoch(training.history)

        training.on_step, training.on_epoch = on_step, on_epoch
        try:
            card = training.run(stop)
        except TrainingStoppedError as stopped:
            bar.console.print(str(stopped), soft_wrap=True)
            return 130
    from live_restore.quality import CONVENTION

    for name, value in card.quality.items():
        print(f"{name:40} {value:8.3f}")
    print(f"({CONVENTION}; mean over held-out fields of view)")
    print(f"written to {options.output}")
    return 0


def _config(options: argparse.Namespace, device: str) -> TrainConfig:
    from live_restore.errors import ProfileError
    from live_restore.train.config import check_config, load_config

    if options.config and (options.low or options.high):
        raise ProfileError(
            "give a configuration, or --low and --high, not both: a configuration names its folders "
            "in [pairs]"
        )
    if options.config:
        return load_config(options.config)
    if not (options.low and options.high):
        raise ProfileError("nothing to learn from: give a configuration, or --low and --high")
    network = options.network
    if network == "auto":
        network = "default" if device == "cuda" else "tiny"
    name = options.name or options.output.stem
    table = {
        "seed": options.seed,
        "card": {
            "name": name,
            "description": "Trained on matched low- and high-dose volumes of one lab's own; good for "
            "specimens, optics and doses like theirs.",
        },
        "network": _NETWORKS[network],
        "pairs": {"low": options.low, "high": options.high},
        "schedule": {"epochs": options.epochs, "steps_per_epoch": options.steps_per_epoch},
    }
    return check_config(table, "command line")


def _check_output(options: argparse.Namespace) -> list[Path]:
    """What an earlier run left that this one would replace.

    Raises
    ------
    ProfileError
        The output can't be written, or lies there already.
    """
    from live_restore.errors import ProfileError

    output: Path = options.output
    if output.suffix != ".safetensors" or not output.parent.is_dir():
        raise ProfileError(f"--output {output}: must end in .safetensors, in a folder that exists")
    checkpoint = output.with_suffix(".checkpoint")
    if options.resume:
        return []
    if checkpoint.exists() and not options.force:
        raise ProfileError(
            f"{checkpoint}: a run was begun here; go on with --resume, or start anew with --force"
        )
    if output.exists() and not options.force:
        raise ProfileError(f"--output {output}: exists; choose another name, or --force")
    return [checkpoint, output]


def _line(epoch: Epoch, config: TrainConfig, is_best: bool) -> str:
    row = epoch.scores.by_name["all"]
    return (
        f"epoch {epoch.epoch:4} of {config.schedule.epochs}  loss {epoch.training_loss:.5f}, held out "
        f"{epoch.scores.loss:.5f}  PSNR {row['psnr_raw_db']:.2f} -> {row['psnr_restored_db']:.2f} dB  "
        f"SSIM {row['ssim_raw']:.3f} -> {row['ssim_restored']:.3f}{'  best so far' if is_best else ''}"
    )
