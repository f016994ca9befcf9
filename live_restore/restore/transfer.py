"""Volumes on their way to a GPU and back: as whole numbers, through pinned memory, piece by piece."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Transfer"]

_PIECE_BYTES = 2**24


class Transfer:
    """Copies arrays to a device and back.

    Two pieces of pinned memory take turns: while the GPU copies one, the processor fills or empties
    the other. They are made once.

    Parameters
    ----------
    device : torch.device
        A GPU; the processor too, for tests.
    piece_bytes : int
        Of each piece.
    """

    def __init__(self, device: torch.device, piece_bytes: int = _PIECE_BYTES) -> None:
        self.device = device
        is_gpu = device.type == "cuda"
        self._pieces = [
            torch.empty(piece_bytes, dtype=torch.uint8, pin_memory=is_gpu) for _ in range(2)
        ]
        self._copied: list[torch.cuda.Event | None] = [
            torch.cuda.Event() if is_gpu else None  # type: ignore[no-untyped-call]
            for _ in range(2)
        ]

    def upload(self, array: NDArray[Any]) -> Tensor:
        """The array on the device, same shape and dtype."""
        source = np.ascontiguousarray(array)
        out = torch.empty(array.shape, dtype=_torch_dtype(array.dtype), device=self.device)
        flat, target = source.reshape(-1).view(np.uint8), _bytes_of(out)
        for which, start, end in self._turns(flat.size):
            self._wait(which)
            piece = self._pieces[which][: end - start]
            piece.numpy()[:] = flat[start:end]
            target[start:end].copy_(piece, non_blocking=True)
            self._mark(which)
        return out

    def download(self, tensor: Tensor) -> NDArray[Any]:
        """The tensor as an array of its own; waits for what computes it."""
        source = _bytes_of(tensor.contiguous())
        out = np.empty(tuple(tensor.shape), dtype=_numpy_dtype(tensor.dtype))
        flat = out.reshape(-1).view(np.uint8)
        waiting: tuple[int, int, int] | None = None
        for which, start, end in itertools.chain(self._turns(flat.size), [(-1, 0, 0)]):
            if end:
                self._pieces[which][: end - start].copy_(source[start:end], non_blocking=True)
                self._mark(which)
            if waiting is not None:
                before, first, last = waiting
                self._wait(before)
                flat[first:last] = self._pieces[before][: last - first].numpy()
            waiting = (which, start, end) if end else None
        return out

    def _turns(self, nbytes: int) -> Iterator[tuple[int, int, int]]:
        size = len(self._pieces[0])
        for number in range(math.ceil(nbytes / size)):
            yield number % 2, number * size, min(nbytes, (number + 1) * size)

    def _mark(self, which: int) -> None:
        event = self._copied[which]
        if event is not None:
            event.record(torch.cuda.current_stream(self.device))

    def _wait(self, which: int) -> None:
        event = self._copied[which]
        if event is not None:
            event.synchronize()


def _bytes_of(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def _numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    return np.dtype(torch.empty(0, dtype=dtype).numpy().dtype)
