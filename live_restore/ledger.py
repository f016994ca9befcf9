"""What became of each volume, on disk, so that a restart neither forgets one nor restores it twice.

SQLite with a write-ahead log: a kill at any moment leaves it whole. A volume is named by where it
comes from (a file or dataset; an acquisition where there is neither) and its position, time and
channel; a file that was changed is another version, whose volumes count as new.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from live_restore.errors import LedgerError
from live_restore.volume import VolumeKey, utc_now

__all__ = ["Counts", "Ledger", "Origin", "Place", "Problem", "State"]

logger = logging.getLogger(__name__)

State = Literal["waiting", "restored", "written", "skipped", "failed"]
"""``skipped``: not restored, may come again; ``failed``: can't be restored."""

Place = tuple[str, int, str]
"""Position, time, channel."""

_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS volumes (
    origin TEXT, version TEXT, position TEXT, time INTEGER, channel TEXT, acquisition TEXT,
    state TEXT, reason TEXT, output TEXT,
    seen_at TEXT, restored_at TEXT, written_at TEXT, published_at TEXT,
    PRIMARY KEY (origin, position, time, channel)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_state ON volumes (state);
CREATE INDEX IF NOT EXISTS by_restored_at ON volumes (restored_at);
CREATE TABLE IF NOT EXISTS ended (origin TEXT PRIMARY KEY, version TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS marks (origin TEXT PRIMARY KEY, mark TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS retries (origin TEXT PRIMARY KEY) WITHOUT ROWID;
"""
_LEAST_RATE_S = 10.0  # a rate isn't told from less
_BUSY_S = 10.0  # another process looks into it


class Origin(NamedTuple):
    """Where volumes come from.

    Attributes
    ----------
    name : str
        A file or dataset, or an acquisition that is in neither.
    version : str
        Of a file: its size and time.
    """

    name: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Problem:
    """A volume that wasn't restored.

    Attributes
    ----------
    key : VolumeKey
        Which.
    origin : str
        Where it comes from.
    state : str
        ``skipped`` or ``failed``.
    reason : str
        In words.
    """

    key: VolumeKey
    origin: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class Counts:
    """How many volumes are in which state.

    Attributes
    ----------
    seen, waiting, restored, written, skipped, failed : int
        Each volume is seen; written ones aren't counted as restored.
    restored_lately : int
        In the last ten minutes.
    lately_s : float
        Since the first of those, at least ten seconds.
    """

    seen: int = 0
    waiting: int = 0
    restored: int = 0
    written: int = 0
    skipped: int = 0
    failed: int = 0
    restored_lately: int = 0
    lately_s: float = 600.0


class Ledger:
    """The ledger of one profile; enter it to open it. Thread-safe.

    Parameters
    ----------
    file : pathlib.Path
        Made, with its folder, if it isn't there.
    is_written : bool
        A volume is settled when it is written; otherwise when it is restored.

    Raises
    ------
    LedgerError
        On entering: it can't be opened, or is damaged.
    """

    def __init__(self, file: Path, is_written: bool) -> None:
        self.file = file
        self._is_written = is_written
        self._has_failed = False
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(
                self.file, _BUSY_S, isolation_level=None, check_same_thread=False
            )
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise
        except (sqlite3.Error, OSError) as error:
            raise self._error(error) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._database.close()

    # --- what a service notes ---

    def note_seen(self, origin: Origin, key: VolumeKey) -> None:
        """A volume waits to be restored."""
        self._run(
            "INSERT INTO volumes (origin, version, position, time, channel, acquisition, state, seen_at)"
            " VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?)"
            " ON CONFLICT DO UPDATE SET version = excluded.version, state = 'waiting', reason = NULL,"
            " acquisition = excluded.acquisition, seen_at = excluded.seen_at, output = NULL,"
            " restored_at = NULL, written_at = NULL, published_at = NULL",
            *origin,
            key.position,
            key.time,
            key.channel,
            key.acquisition,
            _now(),
        )

    def note_restored(self, origin: Origin, key: VolumeKey) -> None:
        """It was restored."""
        self._update(origin, key, "state = 'restored', restored_at = ?", _now())

    def note_written(self, origin: Origin, key: VolumeKey, output: Path) -> None:
        """It lies whole on disk."""
        self._update(
            origin, key, "state = 'written', written_at = ?, output = ?", _now(), str(output)
        )

    def note_published(self, origin: Origin, key: VolumeKey) -> None:
        """Viewers were sent it."""
        self._update(origin, key, "published_at = ?", _now())

    def note_skipped(self, origin: Origin, key: VolumeKey, reason: str, *, is_final: bool) -> None:
        """It wasn't restored; when `is_final`, it can't be, until `retry`."""
        state = "failed" if is_final else "skipped"
        self._update(origin, key, "state = ?, reason = ?", state, reason)

    def give_up_waiting(self, reason: str) -> None:
        """What waits can't come again: its source forgets."""
        self._run(
            "UPDATE volumes SET state = 'skipped', reason = ? WHERE state = 'waiting'", reason
        )

    def retry_unwritten(self) -> None:
        """Have those that were restored and couldn't be written come again."""
        self._run(
            "INSERT OR IGNORE INTO retries SELECT DISTINCT origin FROM volumes"
            " WHERE state = 'skipped' AND restored_at IS NOT NULL"
        )

    def disown(self, name: str) -> None:
        """A dataset was deleted or moved away: what comes by its name is another one."""
        self._run("UPDATE volumes SET version = 'gone' WHERE origin = ?", name)
        for table in ("ended", "marks"):
            self._run(f"DELETE FROM {table} WHERE origin = ?", name)  # noqa: S608

    def note_mark(self, name: str, mark: str) -> None:
        """What tells a dataset from another one in its place."""
        self._run("INSERT OR REPLACE INTO marks VALUES (?, ?)", name, mark)

    def note_end(self, origin: Origin) -> None:
        """All volumes of a file or dataset were seen."""
        self._run("INSERT OR REPLACE INTO ended VALUES (?, ?)", *origin)

    # --- what a source asks ---

    def settled(self, origin: Origin) -> frozenset[Place]:
        """Volumes that need not come again: restored, written and still there, or failed."""
        rows = self._ask(
            "SELECT position, time, channel, output FROM volumes WHERE origin = ? AND version = ? AND"
            " (state = 'failed' OR state = 'written' OR (state = 'restored' AND ?))",
            *origin,
            not self._is_written,
        )
        return frozenset(
            (position, time, channel)
            for position, time, channel, output in rows
            if not (self._is_written and output and not Path(output).exists())
        )

    def is_done(self, origin: Origin) -> bool:
        """Whether every volume of a file or dataset is settled."""
        if not self._ask("SELECT 1 FROM ended WHERE origin = ? AND version = ?", *origin):
            return False
        number = self._ask("SELECT count(*) FROM volumes WHERE origin = ?", origin.name)
        return number == [(len(self.settled(origin)),)]

    def mark(self, name: str) -> str | None:
        """What was noted by `note_mark`."""
        rows = self._ask("SELECT mark FROM marks WHERE origin = ?", name)
        return rows[0][0] if rows else None

    def take_retries(self) -> tuple[str, ...]:
        """Names of origins that shall be looked at again, once."""
        return tuple(name for (name,) in self._ask("DELETE FROM retries RETURNING origin"))

    # --- what a user asks ---

    def counts(self) -> Counts:
        """How many volumes are in which state.

        Raises
        ------
        LedgerError
            The file is damaged; as in `problems` and `retry`.
        """
        with self._readable():
            states = dict(self._rows("SELECT state, count(*) FROM volumes GROUP BY state"))
            ((lately, days),) = self._rows(
                "SELECT count(*), julianday('now') - julianday(min(restored_at)) FROM volumes"
                " WHERE restored_at > datetime('now', '-10 minutes')"
            )
        return Counts(
            seen=sum(states.values()),
            waiting=states.get("waiting", 0),
            restored=states.get("restored", 0),
            written=states.get("written", 0),
            skipped=states.get("skipped", 0),
            failed=states.get("failed", 0),
            restored_lately=lately,
            lately_s=max(_LEAST_RATE_S, (days or 0.0) * 86400),
        )

    def problems(self, most: int = 20) -> list[Problem]:
        """The volumes that were not restored, the latest first."""
        with self._readable():
            rows = self._rows(
                "SELECT acquisition, position, time, channel, origin, state, reason FROM volumes"
                " WHERE state IN ('skipped', 'failed') ORDER BY seen_at DESC LIMIT ?",
                most,
            )
        return [
            Problem(VolumeKey(acquisition, position, time, channel), origin, state, reason)
            for acquisition, position, time, channel, origin, state, reason in rows
        ]

    def retry(self) -> int:
        """Have failed and skipped volumes restored again; how many there are."""
        with self._readable(), self._lock, self._database:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute(
                "INSERT OR IGNORE INTO retries SELECT DISTINCT origin FROM volumes"
                " WHERE state IN ('skipped', 'failed')"
            )
            changed = self._database.execute(
                "UPDATE volumes SET state = 'waiting', reason = NULL"
                " WHERE state IN ('skipped', 'failed')"
            )
        return changed.rowcount

    # --- inside ---

    def _error(self, error: Exception) -> LedgerError:
        return LedgerError(
            f"ledger {self.file}: can't be opened or read ({error}). Make its folder writable; if the "
            "file is damaged, move it away: volumes are then restored again, raw data is untouched"
        )

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise self._error(error) from error

    def _prepare(self) -> None:
        ((version,),) = self._rows("PRAGMA user_version")
        if version > _SCHEMA_VERSION:
            raise LedgerError(
                f"ledger {self.file}: of a newer live-restore (version {version} of its form, this "
                f"one knows {_SCHEMA_VERSION}): update this program, or move the file away"
            )
        self._rows("PRAGMA journal_mode = WAL")
        self._rows("PRAGMA synchronous = NORMAL")
        ((health,),) = self._rows("PRAGMA quick_check(1)")
        if health != "ok":
            raise sqlite3.DatabaseError(health)
        with self._lock:
            self._database.executescript(_SCHEMA)
        self._rows(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def _update(self, origin: Origin, key: VolumeKey, what: str, *values: str) -> None:
        self._run(
            f"UPDATE volumes SET {what} WHERE origin = ? AND position = ? AND time = ?"  # noqa: S608
            " AND channel = ?",
            *values,
            origin.name,
            key.position,
            key.time,
            key.channel,
        )

    def _run(self, statement: str, *values: object) -> None:
        """A statement that must not stop a volume's way."""
        self._ask(statement, *values)

    def _ask(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """A question without whose answer the way goes on: should it fail, that is told once."""
        try:
            rows = self._rows(statement, *values)
        except sqlite3.Error as error:
            if not self._has_failed:
                logger.error(
                    "ledger %s: %s. Free space on its disk; if it is damaged, stop this program, move "
                    "the file away and start again. Volumes go on; what isn't noted is restored again "
                    "after a restart",
                    self.file,
                    error,
                )
            self._has_failed = True
            return []
        self._has_failed = False
        return rows

    def _rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(statement, values).fetchall()


def _now() -> str:
    return f"{utc_now():%Y-%m-%d %H:%M:%S.%f}"
