"""An archive's restoration from its beginning to its end: one process plans and keeps the ledger."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from platformdirs import user_state_path

from live_restore.archive.contents import Contents, look_into
from live_restore.archive.jobs import Job, Outcome, Recipe
from live_restore.archive.search import Found
from live_restore.archive.work import Workbench
from live_restore.errors import LiveRestoreError, SinkError
from live_restore.ledger import Ledger

__all__ = ["ArchiveRun", "Execute", "Report", "forget", "here", "ledger_file"]

logger = logging.getLogger(__name__)

Execute = Callable[[Iterator[Job]], Iterator[Outcome]]
"""Restores volumes, taking a job when it has room for it, and tells of each, in any order."""


def ledger_file(output: Path, folder: Path | None = None) -> Path:
    """Where the ledger of an output folder lies.

    Parameters
    ----------
    output : pathlib.Path
        Each has its own.
    folder : pathlib.Path, optional
        The ledger's; the user's state folder by default.
    """
    digest = hashlib.sha256(f"archive\n{output.resolve()}".encode()).hexdigest()[:12]
    name = f"{output.resolve().name}-{digest}.sqlite"
    return (folder or user_state_path("live-restore")) / name


def forget(ledger: Path) -> None:
    """Take away a ledger that nobody has open."""
    for suffix in ("", "-wal", "-shm"):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)


@dataclass(slots=True)
class Report:
    """What became of one file or dataset so far.

    Attributes
    ----------
    path : pathlib.Path
        Which.
    num_volumes, num_before, num_restored, num_left : int
        That it holds; that were restored before; that were restored now; that will be.
    problems : list of str
        Why others weren't, and what can't be read.
    output : pathlib.Path or None
        The last result.
    """

    path: Path
    num_volumes: int = 0
    num_before: int = 0
    num_restored: int = 0
    problems: list[str] = field(default_factory=list)
    output: Path | None = None
    num_left: int = 0

    @property
    def is_over(self) -> bool:
        """Nothing more will become of it."""
        return self.num_left == 0


class ArchiveRun:
    """Restores what was found.

    Parameters
    ----------
    recipe : Recipe
        How, and where to.
    ledger : Ledger
        Open; used from the thread that calls `run` only.
    tell : callable
        Called with a file's report whenever something became of it, and with how much of the file
        that was, 0 to 1; from the same thread.
    replaces : bool
        Results of other raw data may be replaced.

    Attributes
    ----------
    num_volumes, num_restored, num_before : int
        Volumes in what was looked into; that were restored, and that had been before.
    problems : list of str
        Why others weren't.
    """

    def __init__(
        self,
        recipe: Recipe,
        ledger: Ledger,
        tell: Callable[[Report, float], None],
        replaces: bool = False,
    ) -> None:
        self.num_volumes = self.num_restored = self.num_before = 0
        self.problems: list[str] = []
        self._recipe = recipe
        self._ledger = ledger
        self._tell = tell
        self._replaces = replaces
        self._reports: dict[str, Report] = {}  # of what is being restored, by name of origin

    def run(self, found: Iterable[Found], execute: Execute) -> None:
        """Restore all that can be.

        Raises
        ------
        LiveRestoreError
            Nothing more can be: the disk is full, the device or the cluster is gone. What was restored
            is noted, and the same call goes on from there.
        """
        for outcome in execute(self._jobs(found)):
            self._take(outcome)

    def _jobs(self, found: Iterable[Found]) -> Iterator[Job]:
        """What is to be done, each file looked into when it is its turn."""
        for one in found:
            contents = look_into(one, self._recipe, self._ledger, self._replaces)
            if one.layout is not None:
                one.layout.close()
            self._begin(contents)
            yield from contents.jobs

    def _begin(self, contents: Contents) -> None:
        origin, num_jobs = contents.origin, len(contents.jobs)
        report = Report(
            contents.found.path,
            contents.num_before + num_jobs,
            contents.num_before,
            problems=list(contents.problems),
            num_left=num_jobs,
        )
        self.num_volumes += report.num_volumes
        self.num_before += contents.num_before
        self.problems += contents.problems
        for job in contents.jobs:
            self._ledger.note_seen(origin, job.key)
        if report.num_volumes and not contents.problems:
            self._ledger.note_end(origin)
        if num_jobs:
            self._reports[origin.name] = report
        self._tell(report, report.num_before / report.num_volumes if num_jobs else 1.0)

    def _take(self, outcome: Outcome) -> None:
        report = self._reports[outcome.origin.name]
        report.num_left -= 1
        if outcome.problem is None:
            self._ledger.note_restored(outcome.origin, outcome.key)
            self._ledger.note_written(outcome.origin, outcome.key, outcome.output)
            self.num_restored += 1
            report.num_restored += 1
            report.output = outcome.output
        else:
            # Not for good: the next run tries again.
            self._ledger.note_skipped(outcome.origin, outcome.key, outcome.problem, is_final=False)
            self.problems.append(outcome.problem)
            report.problems.append(outcome.problem)
        if report.is_over:
            del self._reports[outcome.origin.name]
        self._tell(report, 1 / report.num_volumes)
        if outcome.ends_all:
            raise SinkError(str(outcome.problem))


def here(bench: Workbench) -> Execute:
    """Restores one volume after the other in this process, on a workbench that was entered."""

    def execute(jobs: Iterator[Job]) -> Iterator[Outcome]:
        for job in jobs:
            try:
                outcome = bench.restore(job)
            except LiveRestoreError:
                raise
            except Exception as error:
                logger.exception("%s: restoration failed", job.key)
                problem = f"{job.key}: restoration failed ({type(error).__name__}: {error})"
                outcome = Outcome.of(job, problem)
            yield outcome

    return execute
