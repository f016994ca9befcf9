"""A GPU's convolutions: Triton kernels where they were measured to be faster there, else cuDNN's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from live_restore.restore import kernels
from live_restore.restore.operators import Convolution, TorchOperators, scaled

__all__ = ["FusedOperators"]

logger = logging.getLogger(__name__)

_CHANNELS = (16, 32, 48, 64)

Choose = Callable[[Callable[[kernels.Blocks], object], Callable[[], object]], kernels.Blocks | None]


@dataclass(frozen=True)
class _Arranged(Convolution):
    """As PyTorch wants it, and as the kernels do."""

    rows: Tensor
    bias32: Tensor


class FusedOperators(TorchOperators):
    """Chooses for each shape of planes, the first time that it comes.

    Parameters
    ----------
    device : torch.device
        A GPU; the processor in Triton's interpreter, for tests.
    dtype : torch.dtype
        float16 or bfloat16.
    choose : callable, optional
        `kernels.choose` unless given.
    """

    def __init__(
        self, device: torch.device, dtype: torch.dtype, choose: Choose = kernels.choose
    ) -> None:
        super().__init__(device, dtype)
        self._choose = choose
        self._chosen: dict[Hashable, kernels.Blocks | None] = {}
        self._workspaces: dict[Hashable, Tensor] = {}

    def prepare(self, conv: nn.Conv3d, scale: Tensor | None = None) -> Convolution:
        """See `Operators.prepare`."""
        plain = super().prepare(conv, scale)
        if conv.in_channels != conv.out_channels or conv.in_channels not in _CHANNELS:
            return plain
        weight, bias = scaled(conv, scale)
        return _Arranged(
            plain.weight, plain.bias, kernels.arrange_weight(weight, self.dtype), bias.contiguous()
        )

    def conv_relu(
        self, x: Tensor, conv: Convolution, out: Tensor, sums: Tensor | None = None
    ) -> bool:
        """See `Operators.conv_relu`."""
        if not isinstance(conv, _Arranged) or sums is None:
            return super().conv_relu(x, conv, out, sums)
        num_planes = sums.shape[0]
        regions = sums.view(num_planes, 9, sums.shape[-1])

        def fused(blocks: kernels.Blocks) -> None:
            kernels.conv_relu_sums(
                _rows(x), conv.rows, conv.bias32, _rows(out), regions, self._workspace(out), blocks
            )

        def plain() -> None:
            super(FusedOperators, self).conv_relu(x, conv, out, None)
            out.sum(4, dtype=torch.float32)

        blocks = self._best("conv and ReLU", out, fused, plain)
        if blocks is None:
            return super().conv_relu(x, conv, out, sums)
        fused(blocks)
        return True

    def conv_add(self, x: Tensor, conv: Convolution, into: Tensor) -> None:
        """See `Operators.conv_add`."""
        if not isinstance(conv, _Arranged):
            super().conv_add(x, conv, into)
            return

        def fused(blocks: kernels.Blocks, target: Tensor) -> None:
            kernels.conv_scaled_add(_rows(x), conv.rows, conv.bias32, None, _rows(target), blocks)

        key = "conv and sum", into.shape[3:]
        if key not in self._chosen:
            other = into.clone()
            self._best(
                "conv and sum",
                into,
                lambda blocks: fused(blocks, other),
                lambda: super(FusedOperators, self).conv_add(x, conv, other),
            )
        blocks = self._chosen[key]
        if blocks is None:
            super().conv_add(x, conv, into)
        else:
            fused(blocks, into)

    def _best(
        self,
        what: str,
        out: Tensor,
        fused: Callable[[kernels.Blocks], None],
        plain: Callable[[], None],
    ) -> kernels.Blocks | None:
        key = what, out.shape[3:]
        if key not in self._chosen:
            self._chosen[key] = self._choose(fused, plain)
            logger.info("%s of planes of %s: %s", what, tuple(key[1]), self._chosen[key] or "cuDNN")
        return self._chosen[key]

    def _workspace(self, out: Tensor) -> Tensor:
        """Where partial sums go: for good, since recorded graphs write there."""
        _, channels, nz, ny, nx = out.shape
        key = 1 << (nz - 1).bit_length(), ny, nx  # few, however many planes come at once
        if key not in self._workspaces:
            self._workspaces[key] = kernels.new_workspace(key, channels, self.device)
        return self._workspaces[key]


def _rows(buffer: Tensor) -> Tensor:
    """A buffer ``(1, C, Z, Y, X)``, channels last, as ``(Z, Y, X, C)``."""
    return buffer[0].permute(1, 2, 3, 0)
