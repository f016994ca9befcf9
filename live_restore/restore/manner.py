"""How volumes are restored, beside model and device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from live_restore.restore.model import ModelCard
from live_restore.restore.normalising import NormalisationMode

__all__ = ["AttentionMode", "Manner"]

AttentionMode = Literal["whole", "previous", "tile"]
"""What the channel attention looks at: ``whole``, the volume; ``previous``, the volume before it in its stream,
unless that is too different; ``tile``, each tile alone, as published."""


@dataclass(frozen=True, slots=True)
class Manner:
    """Choices; without them each volume is restored by itself.

    Attributes
    ----------
    tile_zyx : tuple of int, optional
        Largest tile; otherwise chosen from the memory, or, where tiles pool, the patch of the
        model's training.
    attention : {"whole", "previous", "tile"}
        See `AttentionMode`.
    normalisation : {"running", "locked", "per_volume"}
        See `NormalisationMode`.
    normalisation_volumes : int
        How many volumes ``running`` and ``locked`` average.
    largest_difference : float
        From float32, on a probe volume and of its intensity range, beyond which a precision is
        refused.
    memory_bytes : int, optional
        What features may take; otherwise a share of what is free at start.
    """

    tile_zyx: tuple[int, int, int] | None = None
    attention: AttentionMode = "whole"
    normalisation: NormalisationMode = "per_volume"
    normalisation_volumes: int = 5
    largest_difference: float = 0.03
    memory_bytes: int | None = None

    def largest_tile(self, card: ModelCard) -> tuple[int, int, int] | None:
        """Where tiles pool, they do as the patches did that the model learnt from."""
        if self.tile_zyx is None and self.attention == "tile" and card.statistics:
            return card.statistics.patch_zyx
        return self.tile_zyx
