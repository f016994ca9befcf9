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
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from live_restore.restore.model_folder import user_model_folder

    table = Table("name", "what", "network", "voxel size (um)", "quality", "licence", "file")
    for file, model in found:
        if isinstance(model, ModelError):
            reason = str(model).removeprefix(f"model {file}: ")
            row = ["can't be used", "", "", reason, ""]
        else:
            row = _describe(model.card)
        # As Text, so that brackets in names aren't taken for markup.
        table.add_row(*(Text(cell) for cell in (file.stem, *row, str(file))))
    console = Console()
    console.print(table)
    console.print(f"your model folder: {user_model_folder()}", markup=False, soft_wrap=True)


def _describe(card: ModelCard) -> list[str]:
    size = card.architecture
    voxel = " × ".join(f"{one:g}" for one in card.voxel_size_um) if card.voxel_size_um else "any"
    quality = "\n".join(f"{name} {value:.4g}" for name, value in card.quality.items())
    network = f"{size.num_residual_groups}×{size.num_residual_blocks}, {size.num_channels} channels"
    return [card.name, network, voxel, quality or "not measured", card.licence]
