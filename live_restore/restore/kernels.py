"""Triton kernels for the 3×3×3 convolutions of a residual block on a GPU.

Bias, ReLU and the sums that the attention asks for, or scale and skip, happen while the products
are still in registers. Whether that beats cuDNN on a card is for `choose` to measure. This module
can be imported without Triton; its kernels can't be called then.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from live_restore.errors import RestoreError

try:
    import triton
    from triton import language as tl
    from triton.errors import TritonError
except ImportError:  # there are systems that it isn't made for
    triton = tl = None

__all__ = [
    "BLOCKS",
    "Blocks",
    "Timer",
    "arrange_weight",
    "choose",
    "conv_relu_sums",
    "conv_scaled_add",
    "cuda_time_s",
    "is_available",
    "new_workspace",
]

_LOG = logging.getLogger(__name__)
_EARLIEST = 7, 5  # compute capability; Triton knows tensor cores from 8.0 on: `choose` will tell
# What a candidate that doesn't suit a device ends with; a missing C compiler is among it.
_FAILURES = (RuntimeError,) if triton is None else (RuntimeError, TritonError)

Timer = Callable[[Callable[[], object]], float]
"""Seconds that a call takes."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """How the work of a convolution is cut into programs.

    Attributes
    ----------
    rows, columns : int
        Voxels of one plane that a program computes at once: powers of two, 16 together at least.
    folds : bool
        The three taps along X share what they read, and their products are shifted and added at
        the end; of the columns two are halo then. Otherwise each tap reads for itself.
    band : int
        Row blocks that are done in all planes before the next ones are, so that the three planes
        under a tap are still in the cache.
    num_warps, num_stages : int
        As Triton has them.
    """

    rows: int
    columns: int
    folds: bool
    band: int
    num_warps: int
    num_stages: int

    def per_plane(self, num_y: int, num_x: int) -> int:
        """Number of programs that a plane takes."""
        return -(-num_y // self.rows) * -(-num_x // (self.columns - 2 * self.folds))


BLOCKS = (
    Blocks(1, 128, False, 32, 4, 3),
    Blocks(4, 32, False, 8, 4, 3),
    Blocks(4, 32, False, 8, 4, 1),
    Blocks(8, 32, False, 4, 8, 3),
    Blocks(2, 32, False, 16, 4, 4),
    Blocks(1, 64, True, 32, 4, 2),
    Blocks(2, 64, True, 16, 8, 2),
    Blocks(2, 64, True, 16, 4, 2),
    Blocks(4, 32, True, 8, 4, 1),
)
"""The candidates of `choose`."""


def is_available(device: torch.device | None = None) -> bool:
    """Whether the kernels can run: on this GPU, or anywhere in Triton's interpreter."""
    if triton is None or not hasattr(tl, "gather"):  # not in Triton 3.2
        return False
    if not isinstance(_convolve, triton.runtime.jit.JITFunction):  # the interpreter's
        return True
    has_cuda = torch.cuda.is_available() and torch.version.cuda is not None
    return has_cuda and torch.cuda.get_device_capability(device) >= _EARLIEST


def arrange_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight of a `Conv3d`, ``(O, I, 3, 3, 3)``, as the kernels read it: ``(27, I, O)``."""
    return weight.detach().permute(2, 3, 4, 1, 0).flatten(0, 2).to(dtype).contiguous()


def new_workspace(
    shape_zyx: tuple[int, int, int],
    channels: int,
    device: torch.device,
    candidates: Sequence[Blocks] = BLOCKS,
) -> Tensor:
    """Where `conv_relu_sums` keeps partial sums; for one call at a time.

    Parameters
    ----------
    shape_zyx : tuple of int
        Largest shape of the outputs.
    channels : int
        Of the features.
    device : torch.device
        Where.
    candidates : sequence of Blocks
        What it may use.
    """
    most = max(blocks.per_plane(*shape_zyx[1:]) for blocks in candidates)
    return torch.empty(shape_zyx[0] * most * channels, dtype=torch.float32, device=device)


def conv_relu_sums(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    out: Tensor,
    sums: Tensor,
    workspace: Tensor,
    blocks: Blocks = BLOCKS[0],
) -> None:
    """``out = relu(conv(x) + bias)``, and its sums plane by plane.

    Parameters
    ----------
    x : Tensor, (Z + 2, Y, X, C)
        float16 or bfloat16, contiguous; C is a multiple of 16, up to 64. Brings a plane more at
        either end of Z, zero where the volume ends; Y and X are padded with zeros here.
    weight : Tensor, (27, C, C)
        See `arrange_weight`; dtype of `x`.
    bias : Tensor, (C,)
        float32.
    out : Tensor, (Z, Y, X, C)
        Of the dtype of `x`, contiguous; written. Shares no memory with `x`.
    sums : Tensor, (Z, 9, C)
        float32, contiguous; written: of what `out` then holds, over {all, first, last} rows ×
        {all, first, last} columns. The same to the last bit each time.
    workspace : Tensor
        From `new_workspace` for this shape or a larger one; written.
    blocks : Blocks
        How; one of those that the workspace is for.

    Raises
    ------
    RestoreError
        The tensors don't fit each other: the caller's mistake.
    """
    num_z, num_y, num_x, channels = out.shape
    _check(x, weight, out, {"bias": bias, "sums": sums})
    per_plane = blocks.per_plane(num_y, num_x)
    needed = num_z * per_plane * channels
    if workspace.numel() < needed:
        raise RestoreError(
            f"the workspace has room for {workspace.numel()} partial sums, an output of "
            f"{tuple(out.shape)} has {needed}: make it for the largest shape"
        )
    parts = workspace[:needed].view(num_z, per_plane, channels)
    _run(x, weight, bias, None, out, parts, blocks)
    _sum_regions(parts, out, sums.view(num_z, 3, 3, channels))


def conv_scaled_add(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    into: Tensor,
    blocks: Blocks = BLOCKS[0],
) -> None:
    """``into = into + scale * (conv(x) + bias)``, summed in float32 and rounded once.

    Parameters
    ----------
    x, weight, bias : Tensor
        As for `conv_relu_sums`.
    scale : Tensor, (C,), optional
        float32, on the device: the weights of the attention; otherwise 1.
    into : Tensor, (Z, Y, X, C)
        Of the dtype of `x`, contiguous; modified. Shares no memory with `x`.
    blocks : Blocks
        How.

    Raises
    ------
    RestoreError
        As there.
    """
    _check(x, weight, into, {"bias": bias} if scale is None else {"bias": bias, "scale": scale})
    _run(x, weight, bias, scale, into, None, blocks)


def choose(
    kernel: Callable[[Blocks], object],
    peer: Callable[[], object],
    candidates: Sequence[Blocks] = BLOCKS,
    time_s: Timer | None = None,
) -> Blocks | None:
    """The blocks with which a kernel is fastest on this device, or nothing where its peer is.

    Parameters
    ----------
    kernel : callable
        Does the work once with the blocks that it is given, at the shape that will be used.
    peer : callable
        Does the same another way: cuDNN.
    candidates : sequence of Blocks
        To try. One that can't be compiled for this device, or needs more than it has, drops out.
    time_s : Timer, optional
        `cuda_time_s` unless given.
    """
    time_s = time_s or cuda_time_s
    chosen, least = None, time_s(peer)
    _LOG.debug("peer: %.3f ms", 1e3 * least)
    for blocks in candidates:
        try:
            taken = time_s(partial(kernel, blocks))
        except _FAILURES as error:
            _LOG.debug("%s: %s", blocks, error)
            continue
        _LOG.debug("%s: %.3f ms", blocks, 1e3 * taken)
        if taken < least:
            chosen, least = blocks, taken
    return chosen


def cuda_time_s(call: Callable[[], object], num_warm: int = 3, num_timed: int = 9) -> float:
    """The median time of a call on the current GPU, after some that don't count."""
    taken_ms: list[float] = []
    event: Any = torch.cuda.Event
    for _ in range(num_warm + num_timed):
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        call()
        end.record()
        end.synchronize()
        taken_ms.append(start.elapsed_time(end))
    return 1e-3 * statistics.median(taken_ms[num_warm:])


def _run(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    out: Tensor,
    parts: Tensor | None,
    blocks: Blocks,
) -> None:
    num_z, num_y, num_x, _ = shape = out.shape
    cut = blocks.rows, blocks.columns, blocks.folds, blocks.band
    how = {"num_warps": blocks.num_warps, "num_stages": blocks.num_stages}
    how["enable_fp_fusion"] = True  # Triton 3.9 warns where it isn't said
    kernel = _convolve[num_z * blocks.per_plane(num_y, num_x),]
    # Triton launches on the current device.
    with torch.cuda.device(x.device) if x.is_cuda else nullcontext():
        kernel(x, weight, bias, scale, out, parts, *shape, *cut, **how)


def _sum_regions(parts: Tensor, out: Tensor, sums: Tensor) -> None:
    """Add up the partial sums and the borders; PyTorch's sums have one order on a device."""
    num_z, num_y, num_x, channels = out.shape
    plane, row, column, _ = out.stride()
    to_last_row, to_last_column = (num_y - 1) * row, (num_x - 1) * column
    # First and last in one view, also where they are the same.
    columns = out.as_strided((num_z, num_y, 2, channels), (plane, row, to_last_column, 1))
    rows = out.as_strided((num_z, 2, num_x, channels), (plane, to_last_row, column, 1))
    corners = out.as_strided((num_z, 2, 2, channels), (plane, to_last_row, to_last_column, 1))
    torch.sum(parts, 1, out=sums[:, 0, 0])
    torch.sum(columns, 1, dtype=torch.float32, out=sums[:, 0, 1:])
    torch.sum(rows, 2, dtype=torch.float32, out=sums[:, 1:, 0])
    sums[:, 1:, 1:].copy_(corners)


def _check(x: Tensor, weight: Tensor, out: Tensor, in_float32: dict[str, Tensor]) -> None:
    num_z, channels = out.shape[0], out.shape[-1]
    if x.dtype not in (torch.float16, torch.bfloat16) or channels not in (16, 32, 48, 64):
        raise RestoreError(
            f"the kernels take 16, 32, 48 or 64 channels in float16 or bfloat16, not {channels} in "
            f"{x.dtype}: use PyTorch's operators"
        )
    shapes = {"x": (num_z + 2, *out.shape[1:]), "weight": (27, channels, channels)}
    shapes |= {"out": tuple(out.shape), "sums": (num_z, 9, channels)}
    for name, one in ({"x": x, "weight": weight, "out": out} | in_float32).items():
        shape = shapes.get(name, (channels,))
        dtype = torch.float32 if name in in_float32 else x.dtype
        fits = one.shape == shape and one.dtype == dtype and one.device == x.device
        if not (fits and one.is_contiguous()):
            raise RestoreError(
                f"{name} should be {shape} of {dtype}, contiguous, on {x.device}, and is "
                f"{tuple(one.shape)} of {one.dtype}, strides {one.stride()}, on {one.device}"
            )


def _jit(function: Callable[..., None]) -> Any:
    """A kernel that isn't compiled anew for each shape."""
    shape = ["num_z", "num_y", "num_x"]
    return function if triton is None else triton.jit(function, do_not_specialize=shape)


@_jit
def _convolve(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    scale: tl.tensor,
    out: tl.tensor,
    parts: tl.tensor,
    num_z: tl.tensor,
    num_y: tl.tensor,
    num_x: tl.tensor,
    channels: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    folds: tl.constexpr,
    band: tl.constexpr,
) -> None:
    """One block of voxels: ReLU and sums where `parts` is given, otherwise scale and addition."""
    # Blocks follow each other along X, then in a band, then by planes, then by bands.
    along_y, along_x = tl.cdiv(num_y, rows), tl.cdiv(num_x, columns - 2 * folds)
    per_band = along_x * band * num_z
    block = tl.program_id(0)
    first = block // per_band * band
    in_band = tl.minimum(along_y - first, band)
    column_block = block % per_band % along_x
    row_block = first + block % per_band // along_x % in_band
    z = block % per_band // along_x // in_band

    # Where the block begins has 64 bits, what lies in it 32.
    voxel = tl.arange(0, rows * columns)
    row, column = voxel // columns, voxel % columns
    padded: tl.constexpr = 64 if channels == 48 else channels
    channel = tl.arange(0, padded)
    own = channel < channels
    y0 = row_block * rows
    x0 = column_block * (columns - 2 * folds) - 1  # under the first tap
    plane = z.to(tl.int64) * num_y
    within = (row * num_x + column)[:, None] * channels + channel[None, :]
    square = channel[:, None] * channels + channel[None, :]
    in_square = own[:, None] & own[None, :]

    result = tl.zeros((rows * columns, padded), tl.float32)
    left, right = result, result
    num_dx: tl.constexpr = 1 if folds else 3
    for tap in range(9 * num_dx):
        y = y0 + tap // num_dx % 3 - 1
        from_x = x0 + tap % num_dx
        inside = (y + row >= 0) & (y + row < num_y)
        inside &= (from_x + column >= 0) & (from_x + column < num_x)
        at = x + ((plane + tap // num_dx // 3 * num_y + y) * num_x + from_x) * channels
        read = tl.load(at + within, inside[:, None] & own[None, :], 0.0)
        of_tap = weight + tap * (3 // num_dx) * channels * channels + square
        if folds:
            left = tl.dot(read, tl.load(of_tap, in_square, 0.0), left)
            of_tap += channels * channels
            right = tl.dot(read, tl.load(of_tap + channels * channels, in_square, 0.0), right)
        result = tl.dot(read, tl.load(of_tap, in_square, 0.0), result)
    valid = (y0 + row < num_y) & (x0 + (1 - folds) + column < num_x)
    if folds:
        valid &= (column > 0) & (column < columns - 1)
        here = voxel[:, None].broadcast_to(rows * columns, padded)
        result += tl.gather(left, tl.maximum(here - 1, 0), 0)
        result += tl.gather(right, tl.minimum(here + 1, rows * columns - 1), 0)

    stored = valid[:, None] & own[None, :]
    to = out + ((plane + y0) * num_x + x0 + (1 - folds)) * channels + within
    result += tl.load(bias + channel, own, 0.0)[None, :]
    if parts is None:
        if scale is not None:
            result *= tl.load(scale + channel, own, 0.0)[None, :]
        result += tl.load(to, stored, 0.0).to(tl.float32)
        tl.store(to, result.to(out.dtype.element_ty), stored)
    else:
        # `maximum` would hide NaN.
        rounded = tl.where(result < 0, 0.0, result).to(out.dtype.element_ty)
        tl.store(to, rounded, stored)
        total = tl.sum(tl.where(stored, rounded.to(tl.float32), 0.0), 0)
        part = (z.to(tl.int64) * along_y + row_block) * along_x + column_block
        tl.store(parts + part * channels + channel, total, own)
