"""The folder of a ladder of light: its stacks as OME-TIFF, and what each was taken with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from live_restore.characterize.exposure_ladder import LadderField, LadderStep
from live_restore.errors import SinkError, SourceError
from live_restore.sinks.writer import write_ome_tiff
from live_restore.sources.frames import read_frames
from live_restore.volume import VoxelSize, utc_now

__all__ = ["LadderCard", "LadderFolder", "TakenStack"]

_CARD = "ladder.json"

Kind = Literal["dark", "step", "bracket"]


class _Card(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TakenStack(_Card):
    """One stack of a ladder."""

    file: str
    """In the folder."""
    kind: Kind
    """"bracket" is the lowest step once more, at the end."""
    field: int
    """Which of the fields of view, from 0; of dark stacks 0."""
    step: int
    """Which step, from 0, the lowest."""
    repeat: int
    """From 0."""
    asked: float
    """Milliseconds, or in the property's unit."""
    stood_at: float
    """What was read back from the device."""
    own: float
    """What it had stood at before, and stood at again afterwards."""
    taken_at: datetime = Field(default_factory=utc_now)
    """UTC, when it had arrived."""


class LadderCard(_Card):
    """What a ladder is of."""

    control: str
    """"exposure", or the property that was varied."""
    reference: float
    """Its value for one normal stack: the profile's own, or the highest step."""
    photons_absorbed: Literal[1, 2] = 1
    """2 where the signal rises with the square of the property."""
    channel: str
    """Name."""
    fields: tuple[str, ...] = Field(min_length=1)
    """Names of the fields of view."""
    voxel_size_um: VoxelSize | None
    """(z, y, x)."""
    stacks: tuple[TakenStack, ...] = ()
    """In the order in which they were taken."""

    @property
    def unit(self) -> str:
        """Of the steps, for people."""
        return "ms" if self.control == "exposure" else self.control

    @property
    def power(self) -> int:
        """To which the signal rises with a step's value."""
        return 1 if self.control == "exposure" else self.photons_absorbed

    def dose_of(self, value: float) -> float:
        """Of a stack, in normal ones."""
        return float((value / self.reference) ** self.power)

    def value_for(self, dose: float) -> float:
        """Value that gives a dose."""
        return float(self.reference * dose ** (1 / self.power))


@dataclass(slots=True)
class LadderFolder:
    """A ladder on disk; each stack is there as soon as it was taken.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    card : LadderCard
        What is in it.
    """

    path: Path
    card: LadderCard

    @classmethod
    def create(cls, path: Path, card: LadderCard) -> Self:
        """Begin one.

        Raises
        ------
        SinkError
            There is a ladder already, or it can't be written.
        """
        if (path / _CARD).exists():
            raise SinkError(
                f"folder {path}: holds a ladder already; name another one with --output"
            )
        folder = cls(path, card)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder._save()
        except OSError as error:
            raise SinkError(f"folder {path}: can't be written to ({error.strerror})") from error
        return folder

    @classmethod
    def open(cls, path: Path) -> Self:
        """One that was taken before.

        Raises
        ------
        SourceError
            There is none.
        """
        file = path / _CARD
        try:
            return cls(
                path, LadderCard.model_validate(json.loads(file.read_text(encoding="utf-8")))
            )
        except (OSError, ValueError, ValidationError) as error:
            raise SourceError(
                f"{file}: isn't a ladder's ({str(error).splitlines()[0]}); give the --output folder of "
                "live-restore ladder"
            ) from error

    def add(self, taken: TakenStack, counts: NDArray[Any]) -> None:
        """Write one stack, then the card.

        Raises
        ------
        SinkError
            It can't be written.
        """
        card = self.card
        about = {"control": card.control, "stood_at": f"{taken.stood_at:g}", "kind": taken.kind}
        try:
            write_ome_tiff(
                self.path / taken.file,
                counts,
                (1, 1, *counts.shape),
                counts.dtype,
                card.voxel_size_um,
                (card.channel,),
                about,
            )
            self.card = card.model_copy(update={"stacks": (*card.stacks, taken)})
            self._save()
        except OSError as error:
            raise SinkError(
                f"{self.path / taken.file}: can't be written ({error.strerror or error}). Free space; what was "
                "taken before is kept"
            ) from error

    def dark(self) -> list[NDArray[Any]]:
        """Stacks without light, ``(Z, Y, X)``."""
        return [self._read(one) for one in self.card.stacks if one.kind == "dark"]

    def fields(self) -> Iterator[LadderField]:
        """Each field of view that was taken to its end, read when it is asked for."""
        own = self.path.resolve().name
        for number, name in enumerate(self.card.fields):
            taken = [one for one in self.card.stacks if one.field == number and one.kind != "dark"]
            bracket = [one for one in taken if one.kind == "bracket"]
            if not bracket:
                continue
            steps = sorted({one.step for one in taken if one.kind == "step"})
            rungs = [[o for o in taken if (o.kind, o.step) == ("step", step)] for step in steps]
            yield LadderField(
                f"{own} {name}" if len(self.card.fields) > 1 else own,
                self.card.channel,
                self.card.voxel_size_um,
                tuple(self._step(ones) for ones in rungs),
                self._step(bracket),
            )

    def _step(self, taken: list[TakenStack]) -> LadderStep:
        value = float(np.mean([one.stood_at for one in taken]))
        return LadderStep(value, self.card.dose_of(value), tuple(self._read(one) for one in taken))

    def _read(self, taken: TakenStack) -> NDArray[Any]:
        path = self.path / taken.file
        if not path.is_file():
            raise SourceError(
                f"{path}: no such file, though {_CARD} names it; take the ladder again"
            )
        return read_frames(path)

    def _save(self) -> None:
        part = self.path / (_CARD + ".part")
        part.write_text(self.card.model_dump_json(indent=2) + "\n", encoding="utf-8")
        part.replace(self.path / _CARD)
