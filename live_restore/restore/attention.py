"""The channel attention, known before the convolution that it weighs has run.

The attention of a block looks at the mean of its second convolution over the whole volume. A
convolution is linear: that mean follows from sums of what it reads, over the volume and over its
faces, edges and corners. So the weights fold into the convolution, and no pass over memory is
left of the attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from live_restore.restore.rcan import ResidualBlock

__all__ = ["BorderSums", "MeanOfConvolution", "Part", "channel_weights"]

# Rows: taps before, at and after a voxel. Columns: sums over all, of the first, of the last.
_REGIONS = torch.tensor([[1.0, 0.0, -1.0], [1.0, 0.0, 0.0], [1.0, -1.0, 0.0]])


@dataclass(frozen=True, slots=True)
class Part:
    """What of a tile is its own: the rest is there for the convolutions at its border.

    Attributes
    ----------
    rows, columns : tuple of int
        From which to in front of which, within the tile.
    at_border : tuple of tuple of bool
        Whether its first and last row, then column, are the volume's.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    at_border: tuple[tuple[bool, bool], tuple[bool, bool]] = ((True, True), (True, True))

    @property
    def num_pixels(self) -> int:
        """Of each plane."""
        return (self.rows[1] - self.rows[0]) * (self.columns[1] - self.columns[0])

    def of(self, planes: Tensor) -> Tensor:
        """What of planes is this part, ``(Z, Y, X)`` or with further axes behind."""
        return planes[:, slice(*self.rows), slice(*self.columns)]


class BorderSums:
    """Sums of features over a volume, its faces, edges and corners, plane by plane as they come.

    Parameters
    ----------
    channels : int
        Of the features.
    num_planes : int
        Of the volume.
    part : Part
        What of each plane counts: all of it, or a tile's own part.
    device : torch.device
        Where.
    """

    def __init__(self, channels: int, num_planes: int, part: Part, device: torch.device) -> None:
        self._part = part
        self._planes = torch.zeros((num_planes, 3, 3, channels), device=device)
        self._is_whole = all(one for ends in part.at_border for one in ends)
        inside = part.at_border
        mask = torch.tensor([[1.0, *inside[0]], [1.0, *inside[1]]], device=device)
        self._mask = mask[0, :, None, None] * mask[1, None, :, None]

    def planes(self, start: int, end: int) -> Tensor | None:
        """Where sums of planes go, ``(n, 3, 3, C)``, for whoever has them; not where a part counts."""
        return self._planes[start:end] if self._is_whole else None

    def add(self, features: Tensor, z: int) -> None:
        """Take in planes.

        Parameters
        ----------
        features : Tensor, (1, C, n, Y, X)
            Channels last.
        z : int
            Index of the first of them.
        """
        planes = self._part.of(features[0].permute(1, 2, 3, 0))
        num, _, nx, _ = planes.shape
        if planes.is_cuda:
            of_rows = planes.sum(2, dtype=torch.float32)  # (n, Y, C)
        else:
            # By a product: PyTorch's sum of bfloat16 on a processor takes as long as a convolution.
            ones = planes.new_ones((1, 1, 1, nx))
            of_rows = torch.matmul(ones, planes)[:, :, 0].float()
        by_x = torch.stack([of_rows, planes[:, :, 0].float(), planes[:, :, -1].float()], dim=2)
        by_yx = torch.stack([by_x.sum(1), by_x[:, 0], by_x[:, -1]], dim=1)
        self._planes[z : z + num] = by_yx

    def total(self) -> Tensor:
        """Over {all, first, last} of the volume's Z, Y and X: float32 ``(3, 3, 3, C)``."""
        planes = self._planes * self._mask
        return torch.stack([planes.sum(0), planes[0], planes[-1]])


class MeanOfConvolution:
    """The mean over the volume that a convolution will have, from the sums of what it reads.

    Parameters
    ----------
    weight : Tensor, (O, I, 3, 3, 3)
        float32.
    bias : Tensor, (O,)
        float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        regions = _REGIONS.to(weight.device)
        folded = torch.einsum("oiabc,aA,bB,cC->oABCi", weight, regions, regions, regions)
        self._matrix = folded.reshape(folded.shape[0], -1)
        self._bias = bias

    def __call__(self, sums: Tensor, num_voxels: int) -> Tensor:
        """The mean of each output channel, float32 ``(O,)``, from `BorderSums.total`."""
        return self._matrix @ sums.reshape(-1) / num_voxels + self._bias


def channel_weights(block: ResidualBlock, pooled: Tensor) -> Tensor:
    """What the attention of a block makes of its pooled features, times its residual scaling.

    Parameters
    ----------
    block : ResidualBlock
        float32.
    pooled : Tensor, (C,)
        float32, on the block's device.
    """
    attention = block.attention
    hidden = torch.relu(attention.reduce(pooled[None, :, None, None, None]))
    return torch.sigmoid(attention.expand(hidden)).flatten() * block.residual_scaling
