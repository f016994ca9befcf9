"""What an earlier run knew of a dataset, and whether the one that lies there now is still the same."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from live_restore.errors import SourceError
from live_restore.ledger import Ledger, Origin, Place
from live_restore.sources.layouts import PlaneOnDisk

__all__ = ["Known"]

logger = logging.getLogger(__name__)


class Known:
    """Stacks of a dataset that aren't wanted, since an earlier run settled them.

    Who deletes an acquisition and acquires anew gets the same name from Micro-Manager. Therefore the first plane that
    is given marks a dataset: its place, and a digest of its pixels, of which noise makes no two alike.

    Parameters
    ----------
    path : pathlib.Path, optional
        The dataset.
    ledger : Ledger, optional
        Where it is known from; without it nothing is known.

    Attributes
    ----------
    settled : container of Place
        Stacks that aren't wanted.
    is_undecided : bool
        Whether it is the same dataset isn't known yet.
    """

    def __init__(self, path: Path | None = None, ledger: Ledger | None = None) -> None:
        self.settled: Container[Place] = frozenset()
        self._name = str(path)
        self._ledger = ledger
        self._mark = ledger.mark(self._name) if ledger else None
        self._marked_place = json.loads(self._mark)[:-1] if self._mark else None
        self._is_same = False
        if ledger:
            self.settled = ledger.settled(Origin(self._name))
        self.is_undecided = self._mark is not None

    def recognise(self, plane: PlaneOnDisk) -> bool:
        """Whether this plane decides: it lies where the marked one did."""
        if _place(plane) != self._marked_place:
            return False
        try:
            self._is_same = _mark(plane, plane.read()) == self._mark
        except SourceError as error:
            logger.debug("%s: taken for another dataset (%s)", self._name, error)
        return True

    def decide(self) -> None:
        """All planes that lie there now were seen, or the one that decides."""
        self.is_undecided = False
        if not self._is_same and self._ledger:
            logger.info("%s: is another acquisition than the one of this name before", self._name)
            self._ledger.disown(self._name)
            self.settled, self._mark = frozenset(), None

    def see(self, plane: PlaneOnDisk, data: NDArray[Any]) -> None:
        """A plane is given; the first one marks the dataset."""
        if self._mark is None and self._ledger:
            self._mark = _mark(plane, data)
            self._ledger.note_mark(self._name, self._mark)


def _place(plane: PlaneOnDisk) -> list[Any]:
    return [plane.position, plane.time, plane.channel, plane.z]


def _mark(plane: PlaneOnDisk, data: NDArray[Any]) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(data).tobytes(), digest_size=16)
    return json.dumps([*_place(plane), digest.hexdigest()])
