"""Work on a GPU recorded once and replayed: launching its kernels one by one costs more than some of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable

import torch

__all__ = ["Recorder"]

logger = logging.getLogger(__name__)


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
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(self._device), torch.cuda.graph(graph):
                work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            logger.warning("no CUDA graph can be recorded, kernels are launched singly: %s", error)
            return None
        return graph
