import sqlite3
from dataclasses import astuple

import pytest

from live_restore.errors import LedgerError
from live_restore.ledger import Ledger, Origin
from live_restore.volume import VolumeKey

ORIGIN = Origin("/data/cell.tif", "100-5")
KEYS = [VolumeKey("cell", "0", time, "GFP") for time in range(3)]


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path / "new folder" / "a.sqlite", is_written=True) as one:
        yield one


def write(ledger, key, tmp_path, origin=ORIGIN):
    output = tmp_path / f"{key.time}.ome.tif"
    output.touch()
    ledger.note_seen(origin, key)
    ledger.note_restored(origin, key)
    ledger.note_written(origin, key, output)
    return output


def test_a_file_is_done_when_it_ended_and_all_its_volumes_are_written(ledger, tmp_path):
    write(ledger, KEYS[0], tmp_path)
    ledger.note_seen(ORIGIN, KEYS[1])
    assert not ledger.is_done(ORIGIN)
    ledger.note_end(ORIGIN)
    assert not ledger.is_done(ORIGIN)
    write(ledger, KEYS[1], tmp_path)
    assert ledger.is_done(ORIGIN)
    assert ledger.settled(ORIGIN) == {("0", 0, "GFP"), ("0", 1, "GFP")}


def test_a_changed_file_is_another_version(ledger, tmp_path):
    write(ledger, KEYS[0], tmp_path)
    ledger.note_end(ORIGIN)
    changed = ORIGIN._replace(version="100-6")
    assert not ledger.is_done(changed)
    assert ledger.settled(changed) == frozenset()
    write(ledger, KEYS[0], tmp_path, changed)
    assert ledger.settled(ORIGIN) == frozenset()
    assert ledger.counts().seen == 1


def test_a_written_volume_whose_file_is_gone_is_not_settled(ledger, tmp_path):
    write(ledger, KEYS[0], tmp_path).unlink()
    ledger.note_end(ORIGIN)
    assert not ledger.is_done(ORIGIN)


def test_where_nothing_is_written_restored_is_settled(tmp_path):
    with Ledger(tmp_path / "a.sqlite", is_written=False) as ledger:
        ledger.note_seen(ORIGIN, KEYS[0])
        assert ledger.settled(ORIGIN) == frozenset()
        ledger.note_restored(ORIGIN, KEYS[0])
        assert ledger.settled(ORIGIN) == {("0", 0, "GFP")}


def test_failed_volumes_are_settled_until_they_are_retried(ledger):
    for key in KEYS:
        ledger.note_seen(ORIGIN, key)
    ledger.note_skipped(ORIGIN, KEYS[0], "not finite", is_final=True)
    ledger.note_skipped(ORIGIN, KEYS[1], "planes are missing", is_final=False)
    assert ledger.settled(ORIGIN) == {("0", 0, "GFP")}
    assert {(p.key, p.state, p.reason) for p in ledger.problems()} == {
        (KEYS[0], "failed", "not finite"),
        (KEYS[1], "skipped", "planes are missing"),
    }
    assert ledger.retry() == 2
    assert ledger.take_retries() == (ORIGIN.name,)
    assert ledger.take_retries() == ()
    assert ledger.settled(ORIGIN) == frozenset()
    assert ledger.problems() == []


def test_volumes_are_counted_by_what_became_of_them(ledger, tmp_path):
    for key in KEYS:
        ledger.note_seen(ORIGIN, key)
    write(ledger, KEYS[0], tmp_path)
    ledger.note_skipped(ORIGIN, KEYS[1], "why", is_final=True)
    assert astuple(ledger.counts()) == (3, 1, 0, 1, 0, 1, 1, 10.0)


def test_what_was_noted_survives_without_closing(tmp_path):
    first = Ledger(tmp_path / "a.sqlite", is_written=True)
    first.__enter__()
    write(first, KEYS[0], tmp_path)
    with Ledger(tmp_path / "a.sqlite", is_written=True) as second:
        assert second.settled(ORIGIN) == {("0", 0, "GFP")}
    first.__exit__(None, None, None)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be taken for one" * 40])
def test_a_damaged_ledger_is_an_error_that_says_what_to_do(tmp_path, content):
    file = tmp_path / "a.sqlite"
    file.write_bytes(content)
    with pytest.raises(LedgerError, match="move it away"), Ledger(file, is_written=True):
        pass
    assert file.read_bytes() == content


def test_a_ledger_of_a_newer_program_is_left_alone(tmp_path):
    file = tmp_path / "a.sqlite"
    database = sqlite3.connect(file)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(LedgerError, match="newer live-restore"), Ledger(file, is_written=True):
        pass


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    ledger = Ledger(tmp_path / "file" / "a.sqlite", is_written=True)
    with pytest.raises(LedgerError, match="can't be opened"), ledger:
        pass
