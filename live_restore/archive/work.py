"""Restores and writes one volume; keeps the model and the last file between volumes."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from live_restore.archive.jobs import Job, Outcome, PlanesOfVolume, Recipe
from live_restore.errors import ModelError, RestoreError, SinkError, SourceError
from live_restore.ledger import Place
from live_restore.profile import WriteSettings
from live_restore.sinks.writer import Writer
from live_restore.sources.assembler import Assembler
from live_restore.sources.stacks import Stack, open_stack
from live_restore.volume import AcquisitionInfo, Plane, Restored, Volume

if TYPE_CHECKING:
    from live_restore.restore.restorer import RcanRestorer

__all__ = ["Workbench"]

_END_ALL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # of the disk, not of one volume


class Workbench:
    """What one process restores with. Thread-safe: one volume is restored at a time.

    Parameters
    ----------
    recipe : Recipe
        How.

    Raises
    ------
    ModelError, RestoreError
        On entering: the model isn't there or another one, or the device isn't.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._writer = Writer(WriteSettings(folder=recipe.output))
        self._restorer: RcanRestorer | None = None
        self._open: tuple[Job, Stack] | None = None
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        from live_restore.restore.manner import Manner
        from live_restore.restore.model import load_model
        from live_restore.restore.restorer import RcanRestorer

        recipe = self.recipe
        model = load_model(recipe.model)
        if model.sha256 != recipe.model_sha256:
            raise ModelError(
                f"model {recipe.model}: has the SHA-256 {model.sha256} here, expected "
                f"{recipe.model_sha256}. All machines must have the same file under this path"
            )
        manner = Manner(attention=recipe.attention)
        restorer = RcanRestorer(model, recipe.device, recipe.precision, recipe.output_dtype, manner)
        self._restorer = restorer.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.put_away()
        if self._restorer is not None:
            self._restorer.__exit__(kind, error, traceback)

    def put_away(self) -> None:
        """Close the file that was read last, unless it is being read; never waits."""
        if not self._lock.acquire(blocking=False):
            return
        try:
            if self._open is not None:
                self._open[1].__exit__(None, None, None)
                self._open = None
        finally:
            self._lock.release()

    def restore(self, job: Job) -> Outcome:
        """Restore and write one volume; what is wrong with it is told in the outcome."""
        try:
            with self._lock:
                restored = self._restored(job)
            self._writer.send(restored)
        except (SourceError, RestoreError) as error:
            return Outcome.of(job, str(error))
        except SinkError as error:
            cause = error.__cause__
            return Outcome.of(
                job, str(error), isinstance(cause, OSError) and cause.errno in _END_ALL
            )
        except OSError as error:
            return Outcome.of(job, f"{job.key}: can't be read from {job.origin.name} ({error})")
        return Outcome.of(job)

    def _restored(self, job: Job) -> Restored:
        if self._restorer is None:
            raise RuntimeError("a workbench is entered before it is used")
        raw = job.raw
        if isinstance(raw, PlanesOfVolume):
            volume = _assemble(job, raw.info, _planes(job, raw))
            files = {plane.pixels.path for plane in raw.planes}
        else:
            stack = self._stack(job, raw)
            place = job.key.position, job.key.time, job.key.channel
            volume = _assemble(job, stack.info, stack.planes(_AllBut(place)))
            files = {raw}
        # When its last plane came: so that a volume's file is the same whenever it is restored.
        received_s = max(file.stat().st_mtime for file in files)
        return self._restorer.restore(
            replace(volume, received_at=datetime.fromtimestamp(received_s, UTC))
        )

    def _stack(self, job: Job, path: Path) -> Stack:
        """The file of a volume, left open: opening one of many stacks takes a while."""
        if self._open is not None:
            last, stack = self._open
            if (last.origin, last.key.acquisition) == (job.origin, job.key.acquisition):
                return stack
            self._open = None
            stack.__exit__(None, None, None)
        stack = open_stack(path, job.key.acquisition, self.recipe.voxel_size_um)
        self._open = job, stack
        return stack


class _AllBut:
    """A container of all places but one."""

    def __init__(self, wanted: Place) -> None:
        self._wanted = wanted

    def __contains__(self, place: object) -> bool:
        return place != self._wanted


def _planes(job: Job, raw: PlanesOfVolume) -> Iterable[Plane]:
    for plane in raw.planes:
        yield Plane(job.key, plane.z, plane.read(), exposure_ms=plane.exposure_ms, is_live=False)


def _assemble(job: Job, info: AcquisitionInfo, planes: Iterable[Plane]) -> Volume:
    """The volume from its planes.

    Raises
    ------
    SourceError
        Planes are missing, or don't fit.
    """
    assembler = Assembler()
    assembler.start(info)
    for plane in planes:
        for settled in assembler.add(plane):
            if isinstance(settled, Volume):
                return settled
            raise SourceError(f"{job.key}: {settled.reason}")
    for settled in assembler.end(info.acquisition):
        if not isinstance(settled, Volume):
            raise SourceError(f"{job.key}: {settled.reason}")
    raise SourceError(
        f"{job.key}: not in {job.origin.name} any more. Was it changed while it was restored? Run the "
        "same command again"
    )
