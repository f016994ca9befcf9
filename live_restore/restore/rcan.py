"""The three-dimensional residual channel attention network (3D RCAN).

Written from the description in Chen et al., "Three-dimensional residual channel attention
networks denoise and sharpen fluorescence microscopy image volumes", Nature Methods 18, 678 (2021).
This module knows torch and nothing of this package.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["RCAN3D", "channels_last"]

# Channels times rows of one volume, up to which PyTorch 2.13 leaves oneDNN out of a float32
# convolution on the processor (`use_mkldnn` of its Convolution.cpp). Two volumes are never left out.
_ONEDNN_FROM = 20_480


def _conv3(in_channels: int, out_channels: int) -> nn.Conv3d:
    return nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1)


class ChannelAttention(nn.Module):
    """Weigh each feature channel by a number in (0, 1) drawn from all channels' means.

    Parameters
    ----------
    num_channels : int
        Feature channels.
    channel_reduction : int
        Factor by which the hidden layer is narrower than `num_channels`.
    """

    def __init__(self, num_channels: int, channel_reduction: int) -> None:
        super().__init__()
        hidden = num_channels // channel_reduction
        self.reduce = nn.Conv3d(num_channels, hidden, kernel_size=1)
        self.expand = nn.Conv3d(hidden, num_channels, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """Weighted features, same shape ``(N, C, Z, Y, X)``."""
        pooled = features.mean(dim=(2, 3, 4), keepdim=True)
        weights: Tensor = torch.sigmoid(self.expand(torch.relu(self.reduce(pooled))))
        return features * weights


class ResidualBlock(nn.Module):
    """Residual channel attention block: conv, ReLU, conv, attention, skip."""

    def __init__(self, num_channels: int, channel_reduction: int, residual_scaling: float) -> None:
        super().__init__()
        self.conv1 = _conv3(num_channels, num_channels)
        self.conv2 = _conv3(num_channels, num_channels)
        self.attention = ChannelAttention(num_channels, channel_reduction)
        self.residual_scaling = residual_scaling

    def forward(self, features: Tensor) -> Tensor:
        """Features plus their scaled residual, same shape ``(N, C, Z, Y, X)``."""
        residual = self.attention(self.conv2(torch.relu(self.conv1(features))))
        if self.residual_scaling != 1.0:
            residual = residual * self.residual_scaling
        out: Tensor = features + residual
        return out


class ResidualGroup(nn.Module):
    """Residual blocks, a closing convolution and a skip around them.

    A network with a single group has neither the closing convolution nor this skip
    (`is_only` true), as published.
    """

    def __init__(
        self,
        num_channels: int,
        num_residual_blocks: int,
        channel_reduction: int,
        residual_scaling: float,
        is_only: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(
            *(
                ResidualBlock(num_channels, channel_reduction, residual_scaling)
                for _ in range(num_residual_blocks)
            )
        )
        self.conv = None if is_only else _conv3(num_channels, num_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Features after all blocks, same shape ``(N, C, Z, Y, X)``."""
        out: Tensor = self.blocks(features)
        return out if self.conv is None else features + self.conv(out)


class RCAN3D(nn.Module):
    """3D RCAN without upscaling, as published for denoising and sharpening.

    Parameters
    ----------
    in_channels, out_channels : int
        Image channels before and after.
    num_channels : int
        Feature channels.
    num_residual_groups : int
        Groups, each of `num_residual_blocks` blocks.
    num_residual_blocks : int
        Blocks per group.
    channel_reduction : int
        Narrowing inside the channel attention; divides `num_channels`.
    residual_scaling : float
        Factor on each block's residual, 1 for none.

    Raises
    ------
    ValueError
        `channel_reduction` doesn't divide `num_channels`.
    """

    def __init__(
        self,
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        num_channels: int = 32,
        num_residual_groups: int = 5,
        num_residual_blocks: int = 3,
        channel_reduction: int = 8,
        residual_scaling: float = 1.0,
    ) -> None:
        super().__init__()
        if num_channels % channel_reduction:
            raise ValueError(
                f"channel_reduction {channel_reduction} doesn't divide num_channels {num_channels}"
            )
        is_only = num_residual_groups == 1
        self.head = _conv3(in_channels, num_channels)
        self.groups = nn.Sequential(
            *(
                ResidualGroup(
                    num_channels, num_residual_blocks, channel_reduction, residual_scaling, is_only
                )
                for _ in range(num_residual_groups)
            )
        )
        self.conv = _conv3(num_channels, num_channels)
        self.tail = _conv3(num_channels, out_channels)

    def forward(self, volume: Tensor) -> Tensor:
        """Restore normalised volumes.

        Parameters
        ----------
        volume : Tensor, (N, in_channels, Z, Y, X)
            Intensities of about [0, 1].

        Returns
        -------
        Tensor, (N, out_channels, Z, Y, X)
            Restored intensities of about [0, 1], not clipped.
        """
        if self._is_small(volume):
            return self._restore(volume.expand(2, -1, -1, -1, -1))[:1]
        return self._restore(volume)

    def _restore(self, volume: Tensor) -> Tensor:
        head = self.head(2 * volume - 1)
        out: Tensor = self.tail(head + self.conv(self.groups(head)))
        return 0.5 * out + 0.5

    def _is_small(self, volume: Tensor) -> bool:
        """Whether PyTorch would take its own convolution, which is some ten times slower than oneDNN's."""
        num, _, z, y, _ = volume.shape
        return (
            num == 1
            and volume.device.type == "cpu"
            and self.conv.in_channels * z * y <= _ONEDNN_FROM
        )


def channels_last(network: RCAN3D) -> RCAN3D:
    """The network with its weights in the layout (N, Z, Y, X, C), converted in place."""
    for parameter in network.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return network
