"""What an error of the device means: that it is lost, such as a GPU that fell off its bus, or that its memory is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from live_restore.errors import DeviceLostError

__all__ = ["is_loss", "lacks_memory", "telling_of_loss"]

_LOSSES = (
    "CUDA error",
    "CUDNN_STATUS",
    "cuDNN error",
    "CUBLAS_STATUS",
    "CUDA driver error",
    "Triton Error [CUDA]",
)
_OF_THE_VOLUME = ("CUDNN_STATUS_NOT_SUPPORTED", "CUBLAS_STATUS_NOT_SUPPORTED")
_SCARCE = (
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "ALLOC_FAILED",  # of cuBLAS, and of cuDNN before its version 9
    "ALLOCATION_FAILED",
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",  # on Windows
    "std::bad_alloc",
)
_ACCELERATOR_ERROR: type[Exception] | None = getattr(torch, "AcceleratorError", None)  # since 2.8


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says that there isn't enough memory, on a GPU or on the processor."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SCARCE)


def is_loss(error: BaseException) -> bool:
    """Whether an error is of the device and not of the volume; a lack of memory is neither."""
    if not isinstance(error, RuntimeError) or lacks_memory(error):
        return False
    if any(sign in str(error) for sign in _OF_THE_VOLUME):
        return False
    if _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR):
        return True
    return any(sign in str(error) for sign in _LOSSES)


@contextmanager
def telling_of_loss() -> Iterator[None]:
    """Raises `DeviceLostError` in place of what PyTorch says of a lost device."""
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        line = str(error).strip().splitlines()[0]
        raise DeviceLostError(
            f"the device that restores doesn't answer any more ({line})"
        ) from error
