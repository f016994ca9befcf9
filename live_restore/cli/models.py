"""``live-restore models``: which models there are, and their cards."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from live_restore.errors import ModelError

if TYPE_CHECKING:
    from live_restore.restore.model import Model, ModelCard

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add this command to the parser's."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "models",
        help="list the models that are installed",
        description="Lists the shipped model, those in your model folder, which --model and [model] "
        "path know by their names, and those in folders that you name.",
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="look here too")
    parser.add_argument("--json", action="store_true", help="one JSON array with whole cards")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    from live_restore.errors import ProfileError
    from live_restore.restore.model import load_model
    from live_restore.restore.model_folder import shipped_model, user_models

    files = [shipped_model(), *user_models()]
    for folder in options.folders:
        if not folder.is_dir():
            raise ProfileError(f"{folder}: no such folder")
        files += sorted(folder.glob("*.safetensors"))
    found: list[tuple[Path, Model | ModelError]] = []
    for file in files:
        try:
            found.append((file, load_model(file)))
        except ModelError as error:  # shown in its row
            found.append((file, error))
    if options.json:
        print(json.dumps([_as_json(file, model) for file, model in found], indent=2))
    else:
        _print_table(found)
    return 0


def _as_json(file: Path, model: Model | ModelError) -> dict[str, Any]:
    about: dict[str, Any] = {"name": file.stem, "path": str(file)}
    if isinstance(model, ModelError):
        return about | {"error": str(model)}
    return about | {"sha256": model.sha256, "card": model.card.model_dump(mode="json")}


def _print_table(found: list[tuple[Path, Model | ModelError]]) -> None:
    """A block per model: a table of so many columns fits no terminal."""
    from rich.console import Console
    from rich.padding import Padding
    from rich.text import Text

    from live_restore.restore.model_folder import user_model_folder

    console = Console(highlight=False)
    for file, model in found:
        # As Text, so that brackets in names aren't taken for markup.
        console.print(Text(file.stem, style="bold"), Text(str(file), style="dim"), soft_wrap=True)
        if isinstance(model, ModelError):
            lines = [
                Text(f"can't be used: {str(model).removeprefix(f'model {file}: ')}", style="red")
            ]
        else:
            lines = [Text(line) for line in _describe(model.card)]
        for line in lines:
            console.print(Padding(line, (0, 0, 0, 4)))
    console.print(f"your model folder: {user_model_folder()}", markup=False, soft_wrap=True)


def _describe(card: ModelCard) -> list[str]:
    size = card.architecture
    voxel = " × ".join(f"{one:g}" for one in card.voxel_size_um) if card.voxel_size_um else "any"
    lines = [
        card.name,
        card.description,
        f"3D RCAN of {size.num_residual_groups} × {size.num_residual_blocks} blocks, "
        f"{size.num_channels} channels; voxel size (um): {voxel}; licence: {card.licence}",
    ]
    return [*lines, *(_quality(card.quality) or ["quality: not measured"])]


def _quality(quality: dict[str, float]) -> list[str]:
    """Raw and restored side by side where a card has both, as those of this program's training."""
    lines = []
    for name, value in quality.items():
        if name.startswith("psnr_raw_db"):
            end = name.removeprefix("psnr_raw_db")
            keys = (f"psnr_restored_db{end}", f"ssim_raw{end}", f"ssim_restored{end}")
            if all(key in quality for key in keys):
                restored, ssim_raw, ssim_restored = (quality[key] for key in keys)
                lines.append(
                    f"held out{end.replace('_', ' ')}: PSNR {value:.1f} -> {restored:.1f} dB, SSIM "
                    f"{ssim_raw:.2f} -> {ssim_restored:.2f}"
                )
    return lines or [f"{name} {value:.4g}" for name, value in quality.items()]
