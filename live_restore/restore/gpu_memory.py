"""What this program takes of the GPUs' memory."""

from __future__ import annotations

import torch

__all__ = ["gpu_memory"]


def gpu_memory() -> dict[tuple[str, ...], float]:
    """Bytes by ``(device, kind)`` of the GPUs that are in use here; empty on the processor.

    Kinds: ``allocated`` (tensors), ``reserved`` (kept by PyTorch for them), ``free`` and ``total`` (of the
    whole GPU, whoever uses it). Doesn't start CUDA where it isn't used.
    """
    memory: dict[tuple[str, ...], float] = {}
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return memory
    for index in range(torch.cuda.device_count()):
        reserved = torch.cuda.memory_reserved(index)
        if not reserved:
            continue
        free, total = torch.cuda.mem_get_info(index)
        allocated = torch.cuda.memory_allocated(index)
        for kind, nbytes in (
            ("allocated", allocated),
            ("reserved", reserved),
            ("free", free),
            ("total", total),
        ):
            memory[str(index), kind] = nbytes
    return memory
