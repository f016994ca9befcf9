"""The training loop: simulated pairs in, a model file out."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from live_restore.quality import psnr, ssim
from live_restore.restore.model import ModelCard, build_network, save_model
from live_restore.restore.rcan import RCAN3D
from live_restore.restore.restorer import channels_last
from live_restore.train.config import TrainConfig
from live_restore.train.pairs import Pair, draw_camera, expose_pair, simulate_volume

__all__ = ["Progress", "describe", "train"]

logger = logging.getLogger(__name__)

_VALIDATION_PHOTONS = (5.0, 10.0, 20.0)
_EMA_DECAY = 0.998


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: step, of how many, and the mean loss of the last steps."""

    step: int
    steps: int
    loss: float


def train(
    config: TrainConfig,
    output: Path,
    device: str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
) -> ModelCard:
    """Train a 3D RCAN on simulated pairs and write it.

    Parameters
    ----------
    config : TrainConfig
        Everything that decides the result.
    output : pathlib.Path
        The ``.safetensors`` file to write.
    device : str
        A torch device.
    on_progress : callable, optional
        Called about every 20 steps from the calling thread.

    Returns
    -------
    ModelCard
        As written, with the quality measured on held-out specimens.
    """
    torch.manual_seed(config.seed)
    network = channels_last(build_network(config.network).to(device))
    rng = np.random.default_rng([config.seed, 0])
    logger.info("simulating %d volumes", config.simulation.num_volumes)
    volumes = [
        simulate_volume(config.simulation, rng).astype(np.float16)
        for _ in range(config.simulation.num_volumes)
    ]
    with closing(_batches(config, volumes, rng)) as batches:
        _fit(network, batches, config, device, on_progress)
    quality = _validate(network, config, device)
    card = ModelCard(
        name=config.card.name,
        description=config.card.description,
        architecture=config.network,
        normalisation=config.normalisation,
        training_data=describe(config),
        quality=quality,
        licence=config.card.licence,
    )
    save_model(output, network, card)
    return card


def _fit(
    network: RCAN3D,
    batches: Iterator[tuple[Tensor, Tensor]],
    config: TrainConfig,
    device: str,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Adam with a cosine schedule; the network ends with the moving average of its weights."""
    schedule = config.schedule
    optimiser = torch.optim.Adam(network.parameters(), lr=schedule.learning_rate)
    average = {k: v.detach().clone() for k, v in network.state_dict().items()}
    losses: list[float] = []
    for step in range(1, schedule.steps + 1):
        warm = min(1.0, step / 100)
        cosine = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * warm * cosine
        noisy, truth = (tensor.to(device) for tensor in next(batches))
        with torch.autocast(
            torch.device(device).type, dtype=torch.bfloat16, enabled=schedule.bfloat16
        ):
            restored = network(noisy.to(memory_format=torch.channels_last_3d))
        # In units of each truth's own contrast, so that a low dose counts as much as a high one.
        contrast = (truth.amax((1, 2, 3, 4)) - truth.amin((1, 2, 3, 4))).clamp(min=0.25)
        loss = (((restored.float() - truth) / contrast.view(-1, 1, 1, 1, 1)) ** 2).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimiser.step()
        decay = min(_EMA_DECAY, step / (step + 10))
        for name, tensor in network.state_dict().items():
            average[name].lerp_(tensor.detach(), 1 - decay)
        losses.append(loss.item())
        if on_progress and (step % 20 == 0 or step == schedule.steps):
            on_progress(Progress(step, schedule.steps, float(np.mean(losses[-100:]))))
    network.load_state_dict(average)


def _batches(
    config: TrainConfig, volumes: list[NDArray[np.float16]], rng: np.random.Generator
) -> Generator[tuple[Tensor, Tensor], None, None]:
    """Endless batches, exposed ahead of the optimiser by one thread."""
    with ThreadPoolExecutor(1, "exposing") as ahead:
        waiting = ahead.submit(_batch, config, volumes, rng)
        while True:
            batch = waiting.result()
            waiting = ahead.submit(_batch, config, volumes, rng)
            yield batch


def _batch(
    config: TrainConfig, volumes: list[NDArray[np.float16]], rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    settings = config.simulation
    patches = []
    for _ in range(config.schedule.batch):
        rate = volumes[rng.integers(len(volumes))].astype(np.float32)
        photons = math.exp(rng.uniform(*np.log(settings.peak_photons)))
        camera = draw_camera(settings, rng)
        pair = expose_pair(rate, photons, camera, config.normalisation, rng)
        patches.append(_patch(pair, config.schedule.patch_zyx, rng))
    noisy = np.stack([patch.noisy for patch in patches])[:, None]
    truth = np.stack([patch.truth for patch in patches])[:, None]
    return torch.from_numpy(noisy), torch.from_numpy(truth)


def _patch(pair: Pair, patch_zyx: tuple[int, int, int], rng: np.random.Generator) -> Pair:
    """A random cut-out, flipped and turned by 90 degrees in the plane at random."""
    start = [
        int(rng.integers(size - patch + 1))
        for size, patch in zip(pair.noisy.shape, patch_zyx, strict=True)
    ]
    window = tuple(slice(s, s + p) for s, p in zip(start, patch_zyx, strict=True))
    turns = int(rng.integers(4)) if patch_zyx[1] == patch_zyx[2] else 0
    flips = tuple(axis for axis in range(3) if rng.integers(2))

    def cut(volume: NDArray[np.float32]) -> NDArray[np.float32]:
        turned = np.rot90(volume[window], turns, axes=(1, 2))
        return np.ascontiguousarray(np.flip(turned, flips))

    return Pair(cut(pair.noisy), cut(pair.truth))


def _validate(network: RCAN3D, config: TrainConfig, device: str) -> dict[str, float]:
    """Mean PSNR and SSIM, raw and restored, on specimens that were never trained on."""
    rng = np.random.default_rng([config.seed, 1])
    held_out = [
        simulate_volume(config.simulation, rng) for _ in range(config.simulation.num_validation)
    ]
    quality: dict[str, float] = {}
    network.eval()
    for photons in _VALIDATION_PHOTONS:
        scores = []
        for rate in held_out:
            pair = expose_pair(
                rate, photons, draw_camera(config.simulation, rng), config.normalisation, rng
            )
            with torch.inference_mode():
                tensor = torch.from_numpy(pair.noisy)[None, None].to(device)
                restored = network(tensor)[0, 0].float().cpu().numpy()
            scores.append([f(v, pair.truth) for f in (psnr, ssim) for v in (pair.noisy, restored)])
        mean = np.mean(scores, axis=0)
        for name, value in zip(
            ("psnr_raw_db", "psnr_restored_db", "ssim_raw", "ssim_restored"), mean, strict=True
        ):
            quality[f"{name}_at_{photons:g}_photons"] = round(float(value), 3)
    return quality


def describe(config: TrainConfig) -> str:
    """What a model was trained on, in words for its card."""
    s = config.simulation
    return (
        f"{s.num_volumes} simulated volumes of {s.shape_zyx} voxels: filaments, membranes, "
        f"vesicles, nuclei and dense tissue, alone and mixed; widefield, confocal and light-sheet "
        f"PSFs (NA {s.numerical_aperture[0]:g} to {s.numerical_aperture[1]:g}); voxels "
        f"{s.voxel_z_um[0]:g} to {s.voxel_z_um[1]:g} um axially, {s.voxel_yx_um[0]:g} to "
        f"{s.voxel_yx_um[1]:g} um laterally; {s.peak_photons[0]:g} to {s.peak_photons[1]:g} photons "
        f"per voxel in bright structures; read noise {s.read_noise_electrons[0]:g} to "
        f"{s.read_noise_electrons[1]:g} electrons. {config.schedule.steps} steps of "
        f"{config.schedule.batch} patches, seed {config.seed}. No real specimen."
    )
