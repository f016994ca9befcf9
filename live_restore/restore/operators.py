"""The convolutions of the network as a device does them best, each writing where it is told to.

All of them take one volume, channels last, as views of buffers of `(1, C, Z + 2, Y, X)`: what a
convolution reads carries a plane more at either end of Z than what it writes, zero where the volume ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = [
    "Convolution",
    "OneDnnOperators",
    "Operators",
    "TorchOperators",
    "has_onednn",
    "scaled",
    "zeros",
]

_PADDING = (0, 1, 1)
_ONEDNN = torch.ops.mkldnn
_ONES = (1, 1, 1)


@dataclass(frozen=True)
class Convolution:
    """A 3×3×3 convolution ready to be used.

    Attributes
    ----------
    weight, bias : Tensor
        As the operators that prepared it want them.
    """

    weight: Tensor
    bias: Tensor


class Operators(Protocol):
    """What a backend can do.

    Attributes
    ----------
    device : torch.device
        Where.
    dtype : torch.dtype
        Of the features.
    """

    device: torch.device
    dtype: torch.dtype

    def prepare(self, conv: nn.Conv3d, scale: Tensor | None = None) -> Convolution:
        """The convolution with each output channel times `scale`, float32 ``(C,)``."""
        ...

    def conv(self, x: Tensor, conv: Convolution, out: Tensor) -> None:
        """``out = conv(x)``; `out` may be of another dtype."""
        ...

    def conv_relu(
        self, x: Tensor, conv: Convolution, out: Tensor, sums: Tensor | None = None
    ) -> bool:
        """``out = relu(conv(x))``.

        Parameters
        ----------
        sums : Tensor, (Z, 3, 3, C), optional
            float32, for the sums of each plane of `out` over {all, first, last} rows × columns.

        Returns
        -------
        bool
            Whether `sums` was filled, in the same pass.
        """
        ...

    def conv_add(self, x: Tensor, conv: Convolution, into: Tensor) -> None:
        """``into = into + conv(x)``; `into` shares no memory with `x`."""
        ...


class TorchOperators:
    """PyTorch's own convolution: any device, any dtype that it can do there."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype

    def prepare(self, conv: nn.Conv3d, scale: Tensor | None = None) -> Convolution:
        """See `Operators.prepare`."""
        weight, bias = scaled(conv, scale)
        return Convolution(
            weight.to(self.device, self.dtype).contiguous(memory_format=torch.channels_last_3d),
            bias.to(self.device, self.dtype),
        )

    def conv(self, x: Tensor, conv: Convolution, out: Tensor) -> None:
        """See `Operators.conv`."""
        out.copy_(self._conv(x, conv))

    def conv_relu(
        self,
        x: Tensor,
        conv: Convolution,
        out: Tensor,
        sums: Tensor | None = None,  # noqa: ARG002
    ) -> bool:
        """See `Operators.conv_relu`."""
        out.copy_(torch.relu_(self._conv(x, conv)))
        return False

    def conv_add(self, x: Tensor, conv: Convolution, into: Tensor) -> None:
        """See `Operators.conv_add`."""
        into.add_(self._conv(x, conv))

    @staticmethod
    def _conv(x: Tensor, conv: Convolution) -> Tensor:
        return functional.conv3d(x, conv.weight, conv.bias, padding=_PADDING)


class OneDnnOperators:
    """oneDNN's convolutions on the processor, with ReLU or sum in the same pass.

    PyTorch keeps these for what its compiler makes; called directly they need no compiler on the
    user's PC, and none of the passes over memory that it would fuse.
    """

    device = torch.device("cpu")

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def prepare(self, conv: nn.Conv3d, scale: Tensor | None = None) -> Convolution:
        """See `Operators.prepare`."""
        weight, bias = scaled(conv, scale)
        if conv.out_channels == 1:
            return Convolution(weight.to(self.dtype), bias.to(self.dtype))
        reordered = _ONEDNN._reorder_convolution_weight(
            weight.to(self.dtype), _PADDING, _ONES, _ONES, 1
        )
        return Convolution(reordered, bias.to(self.dtype))

    def conv(self, x: Tensor, conv: Convolution, out: Tensor) -> None:
        """See `Operators.conv`."""
        if out.shape[1] == 1:
            _conv_to_one(x, conv, out)
            return
        out.copy_(
            _ONEDNN._convolution_pointwise(
                x, conv.weight, conv.bias, _PADDING, _ONES, _ONES, 1, "none", [], ""
            )
        )

    def conv_relu(
        self,
        x: Tensor,
        conv: Convolution,
        out: Tensor,
        sums: Tensor | None = None,  # noqa: ARG002
    ) -> bool:
        """See `Operators.conv_relu`."""
        # A sum into zeros writes where it is told to; a fresh tensor of this size costs page faults.
        self._sum(x, conv, out.zero_(), "relu")
        return False

    def conv_add(self, x: Tensor, conv: Convolution, into: Tensor) -> None:
        """See `Operators.conv_add`."""
        self._sum(x, conv, into, None)

    @staticmethod
    def _sum(x: Tensor, conv: Convolution, into: Tensor, unary: str | None) -> None:
        _ONEDNN._convolution_pointwise_.binary(
            into, x, conv.weight, conv.bias, _PADDING, _ONES, _ONES, 1, "add", None, unary, [], None
        )


def _conv_to_one(x: Tensor, conv: Convolution, out: Tensor) -> None:
    """To a single channel, of which oneDNN computes sixteen: the products of all taps first, then their sum."""
    channels, (nz, ny, nx) = x.shape[1], out.shape[2:]
    taps = conv.weight.reshape(channels, 27).T.contiguous()
    voxels = x[0].permute(1, 2, 3, 0).reshape(-1, channels)
    products = torch.matmul(taps, voxels.T).view(27, nz + 2, ny, nx)
    whole = out[0, 0].fill_(conv.bias[0])
    for tap in range(27):
        dz, dy, dx = tap // 9, tap // 3 % 3 - 1, tap % 3 - 1
        there = slice(max(0, dy), ny + min(0, dy)), slice(max(0, dx), nx + min(0, dx))
        here = slice(max(0, -dy), ny + min(0, -dy)), slice(max(0, -dx), nx + min(0, -dx))
        whole[:, here[0], here[1]] += products[tap, dz : dz + nz, there[0], there[1]]


def has_onednn(dtype: torch.dtype) -> bool:
    """Whether `OneDnnOperators` work here for this dtype; tried, since they aren't a public interface."""
    operators = OneDnnOperators(dtype)
    conv = nn.Conv3d(2, 2, 3, padding=1)
    x = torch.randn(1, 2, 5, 6, 7).to(dtype).contiguous(memory_format=torch.channels_last_3d)
    out = torch.ones_like(x)
    try:
        with torch.inference_mode():
            operators.conv_add(x, operators.prepare(conv), out[:, :, 1:-1])
            wanted = 1 + functional.conv3d(x.float(), conv.weight, conv.bias, padding=_PADDING)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return torch.allclose(out[:, :, 1:-1].float(), wanted, atol=0.05)


def scaled(conv: nn.Conv3d, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """Weight and bias in float32, each output channel times `scale`."""
    weight, bias = conv.weight.detach().float(), conv.bias
    assert bias is not None  # noqa: S101 - each convolution of the network has one
    bias = bias.detach().float()
    if scale is None:
        return weight, bias
    return weight * scale.to(weight.device)[:, None, None, None, None], bias * scale.to(bias.device)


def zeros(operators: Operators, channels: int, shape_zyx: tuple[int, int, int]) -> Tensor:
    """A buffer for features with a zero plane at either end, channels last."""
    z, y, x = shape_zyx
    options: dict[str, Any] = {"device": operators.device, "dtype": operators.dtype}
    return torch.zeros((1, channels, z + 2, y, x), **options).to(
        memory_format=torch.channels_last_3d
    )
