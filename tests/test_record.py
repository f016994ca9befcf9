"""The service's notes, while acquisitions come and go."""

import pytest

from live_restore import record as record_module
from live_restore.profile import parse_profile
from live_restore.record import Record, open_ledger
from live_restore.volume import AcquisitionEnd, Skipped
from tests.conftest import make_restored, make_volume


@pytest.fixture
def record(tmp_path, monkeypatch):
    monkeypatch.setattr(record_module, "_REMEMBERED", 5)
    profile = parse_profile(
        f"[source]\nkind = 'folder'\npath = 'today'\n[ledger]\nfolder = '{tmp_path}'\n",
        tmp_path / "p.toml",
    )
    with open_ledger(profile) as ledger:
        record = Record(ledger, profile)
        record.ledger = ledger
        yield record


def begin(record, name):
    volume = make_volume(acquisition=name, origin=f"{name}.tif")
    record.start(volume.info)
    record.seen(volume.key)
    record.end(AcquisitionEnd(name))
    return volume


def test_a_volume_that_waited_for_long_is_still_noted(record):
    """On disk it may wait for longer than any number of other acquisitions take."""
    waited = begin(record, "waited")
    for number in range(50):
        record.skipped(Skipped(begin(record, f"a {number}").key, "x"))
    record.restored(make_restored(waited))
    record.sent("publish", make_restored(waited), 0.1)
    counts = record.ledger.counts()
    assert (counts.seen, counts.restored, counts.skipped) == (51, 1, 50)


def test_acquisitions_of_which_all_is_settled_are_forgotten(record):
    for number in range(50):
        record.skipped(Skipped(begin(record, f"a {number}").key, "x"))
    assert len(record._origins) <= 6
    assert len(record._waiting) <= 6


def test_a_volume_that_is_told_of_after_all_does_not_fail(record):
    volume = begin(record, "first")
    record.restored(make_restored(volume))
    for number in range(50):
        record.skipped(Skipped(begin(record, f"a {number}").key, "x"))
    record.sent("publish", make_restored(volume), 0.1)
    assert record.ledger.counts().restored == 1
