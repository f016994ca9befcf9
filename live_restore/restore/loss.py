"""Whether the device that restores is lost: a driver that was reset, a GPU that fell off its bus."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from live_restore.errors import DeviceLostError

__all__ = ["is_loss", "telling_of_loss"]

_SIGNS = ("CUDA error", "CUDNN_STATUS", "cuDNN error", "CUBLAS_STATUS", "CUDA driver error")
_ACCELERATOR_ERROR: type[Exception] | None = getattr(torch, "AcceleratorError", None)  # since 2.8


def is_loss(error: BaseException) -> bool:
    """Whether an error is of the device and not of the volume; a lack of memory is neither."""
    if isinstance(error, torch.OutOfMemoryError) or not isinstance(error, RuntimeError):
        return False
    if _ACCELERATOR_ERROR is not None and isinstance(error, _ACCELERATOR_ERROR):
        return True
    return any(sign in str(error) for sign in _SIGNS)


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
