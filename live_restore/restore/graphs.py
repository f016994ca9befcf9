"""Work on a GPU recorded once and replayed: launching its kernels one by one costs more than some of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable

import torch

from live_restore.restore.loss import lacks_memory

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)

_RECORDING = threading.Lock()  # CUDA records one graph of a process at a time


class Recorder:
    """Runs work that is the same each time, on the same memory, as CUDA graphs.

    The first time it is run as it is, so that libraries choose their algorithms; the second time it is
    recorded. What can't be recorded is run as it is from then on, and told of once.

    Parameters
    ----------
    device : torch.device
        A GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}
        self._seen: set[Hashable] = set()

    def run(self, key: Hashable, work: Callable[[], object]) -> None:
        """Do the work that goes by this key.

        Parameters
        ----------
        key : hashable
            Of the work.
        work : callable
            Allocates nothing that outlives it, and never waits for the GPU.
        """
        if key not in self._seen:
            self._seen.add(key)
            work()
            return
        if key not in self._graphs:
            self._graphs[key] = self._record(work)
        graph = self._graphs[key]
        if graph is None:
            work()
        else:
            graph.replay()

    def _record(self, work: Callable[[], object]) -> torch.cuda.CUDAGraph | None:
        device = self._device
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        try:
            with (
                _RECORDING,
                torch.cuda.device(device),
                torch.cuda.stream(torch.cuda.current_stream(device)),  # again, if recording fails
                # By itself it takes a stream of whichever GPU recorded first, and fails at what other
                # threads do meanwhile, on other GPUs and with a model that is being loaded.
                torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"),
            ):
                work()
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            logger.warning("no CUDA graph can be recorded, kernels are launched singly: %s", error)
            return None
        return graph
