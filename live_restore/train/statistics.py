"""What a model was shown, measured for whoever has to judge whether a volume is like it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from live_restore.restore.model import TrainingStatistics
from live_restore.restore.rcan import RCAN3D, ChannelAttention
from live_restore.train.config import TrainConfig
from live_restore.train.pairs import HeldOut, Origin, cut_patch, fit_shape

__all__ = ["log_spectrum", "measure_statistics", "pooled_activations", "spectral_centroid"]

_NUM_PATCHES = 128
_AT_ONCE = 2
_LATERAL_BINS, _AXIAL_BINS = 16, 8


def measure_statistics(
    network: RCAN3D, origin: Origin, config: TrainConfig, device: str
) -> tuple[TrainingStatistics, dict[str, Tensor]]:
    """Show the network patches of held-out pairs and note what it makes of them.

    Returns
    -------
    summary : TrainingStatistics
        For the card.
    tensors : dict of str to Tensor
        ``pooled`` (patches, features), ``signal`` (patches, 2: photoelectrons or NaN, signal to
        noise), ``spectrum`` (patches, bins).
    """
    held_out = origin.held_out
    z, y, x = fit_shape(config.patches.shape_zyx, (one.pair.raw for one in held_out))
    rows = []
    for start in range(0, _NUM_PATCHES, _AT_ONCE):
        pairs, patches = [], []
        for index in range(start, start + _AT_ONCE):
            rng = np.random.default_rng([config.seed, 4, index])
            one: HeldOut = held_out[index % len(held_out)]
            pairs.append(one.pair)
            patches.append(cut_patch(one.pair, (z, y, x), config.patches, rng).raw)
        outputs = pooled_activations(network, np.stack(patches), device)
        for pair, raw, pooled, restored in zip(pairs, patches, *outputs, strict=True):
            removed = float((raw - restored).std())
            ratio = float(restored.std()) / max(removed, 1e-6)
            electrons = np.nan if pair.photoelectrons is None else pair.photoelectrons
            rows.append(
                (
                    pooled,
                    np.array([electrons, ratio]),
                    log_spectrum(restored),
                    spectral_centroid(restored),
                )
            )
    pooled_rows, signals, spectra, centroids = (
        np.stack(column) for column in zip(*rows, strict=True)
    )
    known = signals[:, 0][np.isfinite(signals[:, 0])]
    summary = TrainingStatistics(
        patch_zyx=(z, y, x),
        num_patches=_NUM_PATCHES,
        photoelectrons=_range(known) if known.size else None,
        signal_to_noise=_range(signals[:, 1]),
        sharpness=_range(centroids),
    )
    tensors = {"pooled": pooled_rows, "signal": signals, "spectrum": spectra}
    return summary, {name: torch.from_numpy(rows) for name, rows in tensors.items()}


def pooled_activations(
    network: RCAN3D, raw: NDArray[np.float32], device: str
) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Mean and log standard deviation of each channel in front of each channel attention.

    Parameters
    ----------
    network : RCAN3D
        On `device`.
    raw : ndarray of float32, (N, Z, Y, X)
        Normalised volumes.
    device : str
        A torch device.

    Returns
    -------
    pooled : ndarray of float64, (N, 2 * blocks * channels)
        Block by block, means then log standard deviations.
    restored : ndarray of float32, (N, Z, Y, X)
        The network's output.
    """
    pooled: list[NDArray[np.float64]] = []

    def note(_: nn.Module, inputs: tuple[Tensor]) -> None:
        deviation, mean = torch.std_mean(inputs[0].double(), dim=(2, 3, 4))
        pooled.extend((mean.cpu().numpy(), torch.log(deviation + 1e-6).cpu().numpy()))

    hooks = [
        module.register_forward_pre_hook(note)
        for module in network.modules()
        if isinstance(module, ChannelAttention)
    ]
    try:
        with torch.inference_mode():
            tensor = torch.from_numpy(raw)[:, None].to(device)
            restored = network(tensor.contiguous(memory_format=torch.channels_last_3d))
            restored = restored[:, 0].float().cpu().numpy()
    finally:
        for hook in hooks:
            hook.remove()
    return np.concatenate(pooled, axis=1), restored


def log_spectrum(volume: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log10 of the power by spatial frequency: 16 lateral bins, then 8 axial ones, up to Nyquist.

    The power is relative to the total without the mean, so that brightness doesn't matter; a
    Hann window keeps the borders out.
    """
    power, lateral, axial = _power(volume)
    out = []
    for frequency, bins in ((lateral, _LATERAL_BINS), (axial, _AXIAL_BINS)):
        index = np.minimum((frequency / 0.5 * bins).astype(int), bins)
        sums = np.bincount(index.ravel(), power.ravel(), bins + 1)[:bins]
        counts = np.bincount(index.ravel(), minlength=bins + 1)[:bins]
        out.append(np.log10(sums / np.maximum(counts, 1) + 1e-12))
    return np.concatenate(out)


def spectral_centroid(volume: NDArray[np.float32]) -> float:
    """Mean lateral frequency, weighted by amplitude, in cycles per voxel: the sharper the higher."""
    power, lateral, _ = _power(volume)
    amplitude = np.sqrt(power)
    return float((amplitude * lateral).sum() / max(float(amplitude.sum()), 1e-12))


def _power(
    volume: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Relative power and the lateral and axial frequency of each component, in cycles per voxel."""
    data = volume.astype(np.float64)
    for axis, size in enumerate(volume.shape):
        window = np.hanning(size + 2)[1:-1]
        data = (data - data.mean()) * np.expand_dims(window, [a for a in range(3) if a != axis])
    power = np.abs(np.fft.fftn(data)) ** 2
    power[0, 0, 0] = 0
    fz, fy, fx = (np.abs(np.fft.fftfreq(size)) for size in volume.shape)
    lateral = np.broadcast_to(np.hypot(fy[:, None], fx), volume.shape)
    axial = np.broadcast_to(fz[:, None, None], volume.shape)
    return power / max(float(power.sum()), 1e-12), lateral, axial


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [1, 99])
    return round(float(low), 4), round(float(high), 4)
