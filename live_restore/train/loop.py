"""The training loop: pairs in, a model file out, and a checkpoint from which a killed run goes on.

Each batch is a function of the configuration and the number of its step alone, so that a run that
was stopped anywhere and resumed sees what an uninterrupted one sees.
"""

from __future__ import annotations

import bisect
import logging
import math
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor

from live_restore.errors import RestoreError
from live_restore.restore.model import ModelCard, build_network, save_model
from live_restore.restore.rcan import RCAN3D, channels_last
from live_restore.train.checkpoint import load_checkpoint, save_checkpoint
from live_restore.train.config import Schedule, TrainConfig
from live_restore.train.loss import measure_loss
from live_restore.train.pairs import Origin
from live_restore.train.statistics import measure_statistics
from live_restore.train.validation import Scores, summarise, validate

__all__ = ["Epoch", "Progress", "Training", "TrainingStoppedError"]

logger = logging.getLogger(__name__)

_WARM_UP_STEPS = 100


class TrainingStoppedError(RestoreError):
    """The run was stopped by its user; a checkpoint lies where it stopped."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: step, of how many, and the mean loss of the last steps."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of the loss curve.

    Attributes
    ----------
    epoch, step : int
        Both counted from 1; the step is the epoch's last.
    training_loss : float
        Mean over the epoch.
    learning_rate : float
        At its end.
    scores : Scores
        Of the held-out volumes.
    """

    epoch: int
    step: int
    training_loss: float
    learning_rate: float
    scores: Scores


@dataclass
class Training:
    """A training run.

    Parameters
    ----------
    config : TrainConfig
        Everything that decides the result.
    origin : Origin
        Of the pairs; from `open_origin`.
    output : pathlib.Path
        The ``.safetensors`` file: the best model so far, written after each epoch that improves it.
        The checkpoint lies beside it.
    device : str
        A torch device.
    on_step : callable, optional
        Called after each step, from the calling thread.
    on_epoch : callable, optional
        Called after each validation.
    """

    config: TrainConfig
    origin: Origin
    output: Path
    device: str = "cpu"
    on_step: Callable[[Progress], None] | None = None
    on_epoch: Callable[[Epoch], None] | None = None
    history: list[Epoch] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        schedule = self.config.schedule
        torch.manual_seed(self.config.seed)
        self._network = channels_last(build_network(self.config.network).to(self.device))
        self._average = _copy(self._network)
        self._best: dict[str, Tensor] = {}
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[schedule.optimiser]
        decay = schedule.weight_decay if schedule.optimiser == "adamw" else 0.0
        self._optimiser = kind(
            self._network.parameters(), lr=schedule.learning_rate, weight_decay=decay
        )
        self._precision = _mixed_precision(schedule, self.device)
        self._scaler = torch.amp.GradScaler(
            torch.device(self.device).type, enabled=self._precision is torch.float16
        )
        self._step = 0
        self._losses: list[float] = []
        self._smooth_loss = math.nan

    @property
    def checkpoint(self) -> Path:
        """Where the run's state is kept until it is done."""
        return self.output.with_suffix(".checkpoint")

    @property
    def steps(self) -> int:
        """Of the whole run."""
        return self.config.schedule.epochs * self.config.schedule.steps_per_epoch

    def resume(self) -> int:
        """Go back to the checkpoint; the step at which it stands.

        Raises
        ------
        ModelError
            There is no checkpoint, it is damaged, or its configuration is another.
        """
        state = load_checkpoint(self.checkpoint, self.config)
        self._network.load_state_dict(state["network"])
        self._average, self._best = state["average"], state["best"]
        self._optimiser.load_state_dict(state["optimiser"])
        self._scaler.load_state_dict(state["scaler"])
        self._step, self._losses = state["step"], state["losses"]
        self._smooth_loss = state["smooth_loss"]
        self.history = [
            Epoch(**line | {"scores": Scores(**line["scores"])}) for line in state["history"]
        ]
        return self._step

    def run(self, stop: Event | None = None) -> ModelCard:
        """Train to the end.

        Parameters
        ----------
        stop : threading.Event, optional
            Set from another thread or a signal handler: the run writes a checkpoint after the
            present step and ends.

        Returns
        -------
        ModelCard
            Of the best model, as written.

        Raises
        ------
        TrainingStoppedError
            `stop` was set.
        RestoreError
            The loss isn't a finite number any more.
        """
        schedule = self.config.schedule
        with closing(self._batches()) as batches:
            while self._step < self.steps:
                if stop is not None and stop.is_set():
                    self._save_checkpoint()
                    raise TrainingStoppedError(
                        f"stopped at step {self._step} of {self.steps}; go on with --resume"
                    )
                self._take_step(*next(batches))
                if self._step % schedule.steps_per_epoch == 0:
                    self._end_epoch()
                if self._step % schedule.checkpoint_steps == 0 or self._step == self.steps:
                    self._save_checkpoint()
        return self._finish()

    def _take_step(self, raw: Tensor, truth: Tensor, contrast: Tensor) -> None:
        schedule = self.config.schedule
        self._step += 1
        rate = learning_rate(schedule, self._step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(
            torch.device(self.device).type,
            dtype=self._precision or torch.bfloat16,
            enabled=self._precision is not None,
        ):
            restored = self._network(raw.to(memory_format=torch.channels_last_3d))
        loss = measure_loss(restored.float(), truth, contrast, schedule)
        value = loss.item()
        if not math.isfinite(value):
            raise RestoreError(
                f"the loss became {value} at step {self._step}: choose a smaller learning_rate, or "
                'precision = "float32"; the best model so far is kept'
            )
        self._optimiser.zero_grad(set_to_none=True)
        self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        if schedule.clip_norm:
            self._scaler.unscale_(self._optimiser)
            torch.nn.utils.clip_grad_norm_(self._network.parameters(), schedule.clip_norm)
        self._scaler.step(self._optimiser)
        self._scaler.update()
        decay = min(schedule.average, self._step / (self._step + 10)) if schedule.average else 0.0
        for name, tensor in self._network.state_dict().items():
            self._average[name].lerp_(tensor.detach(), 1 - decay)
        self._losses.append(value)
        share = 0.02 if self._step > 1 else 1.0
        self._smooth_loss = value if share == 1 else (1 - share) * self._smooth_loss + share * value
        if self.on_step:
            self.on_step(Progress(self._step, self.steps, self._smooth_loss))

    def _end_epoch(self) -> None:
        schedule = self.config.schedule
        scores = validate(self._averaged(), self.origin.held_out, schedule, self.device)
        is_best = not self.history or scores.loss < min(one.scores.loss for one in self.history)
        epoch = Epoch(
            self._step // schedule.steps_per_epoch,
            self._step,
            float(np.mean(self._losses)),
            learning_rate(schedule, self._step),
            scores,
        )
        self._losses = []
        self.history.append(epoch)
        if is_best:
            self._best = {name: tensor.clone() for name, tensor in self._average.items()}
            save_model(self.output, self._averaged(), self._card(scores))
        if self.on_epoch:
            self.on_epoch(epoch)

    def _finish(self) -> ModelCard:
        """Write the best model with the statistics of what it was shown."""
        network = build_network(self.config.network)
        network.load_state_dict(self._best)
        network = channels_last(network.to(self.device)).eval()
        best = min(self.history, key=lambda one: one.scores.loss)
        summary, tensors = measure_statistics(network, self.origin, self.config, self.device)
        card = self._card(best.scores).model_copy(update={"statistics": summary})
        save_model(self.output, network, card, tensors)
        self.checkpoint.unlink()
        return card

    def _card(self, scores: Scores) -> ModelCard:
        config = self.config
        return ModelCard(
            name=config.card.name,
            description=config.card.description,
            architecture=config.network,
            normalisation=config.normalisation,
            voxel_size_um=self.origin.voxel_size_um,
            training_data=describe(config, self.origin),
            quality=summarise(scores),
            licence=config.card.licence,
        )

    def _averaged(self) -> RCAN3D:
        network = build_network(self.config.network)
        network.load_state_dict(self._average)
        return channels_last(network.to(self.device)).eval()

    def _save_checkpoint(self) -> None:
        state: dict[str, Any] = {
            "network": self._network.state_dict(),
            "average": self._average,
            "best": self._best,
            "optimiser": self._optimiser.state_dict(),
            "scaler": self._scaler.state_dict(),
            "step": self._step,
            "losses": self._losses,
            "smooth_loss": self._smooth_loss,
            "history": self.history,
        }
        save_checkpoint(self.checkpoint, self.config, state)

    def _batches(self) -> Generator[tuple[Tensor, Tensor, Tensor], None, None]:
        """The batches that follow, made ahead of the optimiser by one thread."""
        with ThreadPoolExecutor(1, "drawing patches") as ahead:
            step = self._step + 1
            waiting = ahead.submit(self._batch, step)
            while True:
                batch = waiting.result()
                step += 1
                waiting = ahead.submit(self._batch, step)
                raw, truth, contrast = (tensor.to(self.device) for tensor in batch)
                yield raw, truth, contrast

    def _batch(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng([self.config.seed, 3, step])
        patches = [
            self.origin.draw(self.config.patches, rng) for _ in range(self.config.schedule.batch)
        ]
        raw = np.stack([patch.raw for patch in patches])[:, None]
        truth = np.stack([patch.truth for patch in patches])[:, None]
        contrast = np.array([patch.contrast for patch in patches], dtype=np.float32)
        return torch.from_numpy(raw), torch.from_numpy(truth), torch.from_numpy(contrast)


def learning_rate(schedule: Schedule, step: int) -> float:
    """The learning rate of a step, counted from 1."""
    if schedule.decay == "published":
        quarter = max(1, schedule.epochs // 4)
        return float(
            schedule.learning_rate * 0.5 ** ((step - 1) // schedule.steps_per_epoch // quarter)
        )
    ends = [
        0,
        *(epochs * schedule.steps_per_epoch for epochs in (*schedule.restarts, schedule.epochs)),
    ]
    cycle = bisect.bisect_left(ends, step) - 1
    step, steps = step - ends[cycle], ends[cycle + 1] - ends[cycle]
    warm = min(1.0, step / _WARM_UP_STEPS)
    peak = schedule.learning_rate * (schedule.restart_rate if cycle else 1.0)
    return peak * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def describe(config: TrainConfig, origin: Origin) -> str:
    """What a model was trained on, in words for its card."""
    schedule = config.schedule
    return (
        f"{origin.describe()} {schedule.epochs * schedule.steps_per_epoch} steps of {schedule.batch} "
        f"patches, seed {config.seed}."
    )


def _mixed_precision(schedule: Schedule, device: str) -> torch.dtype | None:
    """The type of the convolutions, none for plain float32."""
    is_cuda = torch.device(device).type == "cuda"
    if schedule.precision == "auto":
        if not is_cuda:
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if schedule.precision == "float16" and not is_cuda:
        raise RestoreError('precision "float16" needs a GPU: on the processor use "bfloat16"')
    return {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}[
        schedule.precision
    ]


def _copy(network: RCAN3D) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
