"""The loss curve on disk: a table always, and TensorBoard where it is installed."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from live_restore.train.loop import Epoch, Progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TrainingLog"]

logger = logging.getLogger(__name__)

_STEPS_PER_POINT = 20


class TrainingLog:
    """Writes ``NAME.csv``, a line per epoch, and the folder ``NAME.tensorboard``.

    Parameters
    ----------
    output : pathlib.Path
        The model file; the log lies beside it.
    step : int
        Where the run starts or resumes; what TensorBoard was told beyond it is taken back.
    """

    def __init__(self, output: Path, step: int = 0) -> None:
        self._table = output.with_suffix(".csv")
        self._board: SummaryWriter | None = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            logger.info('no TensorBoard log: pip install "live-restore[tensorboard]" brings it')
            return
        self._board = SummaryWriter(str(output.with_suffix(".tensorboard")), purge_step=step + 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._board is not None:
            self._board.close()

    def note_step(self, progress: Progress) -> None:
        """A point of the training loss, each 20 steps."""
        if progress.step % _STEPS_PER_POINT == 0:
            self._scalar("loss/training", progress.loss, progress.step)

    def note_epoch(self, history: Sequence[Epoch]) -> None:
        """The epochs so far; the last is new. The table is written anew, whole or not at all."""
        part = self._table.with_name(self._table.name + ".part")
        with part.open("w", newline="") as file:
            writer = csv.writer(file)
            scores = list(history[-1].scores.by_name["all"])
            writer.writerow(
                ["epoch", "step", "training_loss", "validation_loss", "learning_rate", *scores]
            )
            for one in history:
                curve = [one.epoch, one.step, one.training_loss, one.scores.loss, one.learning_rate]
                writer.writerow([*curve, *one.scores.by_name["all"].values()])
        part.replace(self._table)
        last = history[-1]
        self._scalar("loss/validation", last.scores.loss, last.step)
        self._scalar("learning_rate", last.learning_rate, last.step)
        for name, row in last.scores.by_name.items():
            for key, value in row.items():
                self._scalar(f"{name}/{key}", value, last.step)

    def _scalar(self, name: str, value: float, step: int) -> None:
        if self._board is not None:
            self._board.add_scalar(name, value, step)
