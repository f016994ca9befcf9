"""Where a network runs, in which precision, and how much memory it may take there."""

from __future__ import annotations

from typing import Literal

import psutil
import torch

from live_restore.errors import RestoreError
from live_restore.restore import kernels
from live_restore.restore.fused import FusedOperators
from live_restore.restore.operators import OneDnnOperators, Operators, TorchOperators, has_onednn

__all__ = [
    "DTYPES",
    "Precision",
    "choose_device",
    "choose_precision",
    "device_name",
    "free_bytes",
    "open_operators",
]

Precision = Literal["auto", "float16", "bfloat16", "float32"]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


def choose_device(device: str) -> torch.device:
    """The torch device behind a profile's word.

    Raises
    ------
    RestoreError
        A GPU is asked for that isn't there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda"):
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = int(device.partition(":")[2] or 0)
        if index >= found:
            build = "is built without CUDA" if torch.version.cuda is None else "sees no such GPU"
            raise RestoreError(
                f"device {device}: {found} GPUs found; PyTorch {torch.__version__} {build}. Check "
                'nvidia-smi, install the CUDA build of PyTorch, or set device = "auto"'
            )
    return torch.device(device)


def choose_precision(precision: Precision, device: torch.device) -> str:
    """float16 on a GPU; on a processor bfloat16 where it has it, else float32; unless said otherwise.

    Raises
    ------
    RestoreError
        float16 on the processor.
    """
    if precision == "auto":
        if device.type == "cuda":
            return "float16"
        return "bfloat16" if _has_bfloat16() and has_onednn(torch.bfloat16) else "float32"
    if precision == "float16" and device.type == "cpu":
        raise RestoreError(
            'precision float16 needs a GPU: on the processor use "bfloat16" or "float32"'
        )
    return precision


def open_operators(device: torch.device, dtype: torch.dtype) -> Operators:
    """What computes convolutions there, in this type, best."""
    if device.type == "cpu" and has_onednn(dtype):
        return OneDnnOperators(dtype)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes stay
        torch.backends.cudnn.allow_tf32 = False  # float32 is what others are measured against
    if device.type == "cuda" and dtype != torch.float32 and kernels.is_available(device):
        return FusedOperators(device, dtype)
    return TorchOperators(device, dtype)


def device_name(device: torch.device) -> str:
    """For people: the GPU's name, or "cpu"."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return str(device)


def free_bytes(device: torch.device) -> int:
    """Memory that is free there now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; elsewhere it is slower than float32."""
    names = "_is_avx512_bf16_supported", "_is_amx_tile_supported"  # not public; not in each version
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in names)
