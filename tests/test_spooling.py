"""Volumes of sources that forget: they wait on disk when memory is full, over restarts too."""

import threading

import numpy as np
import pytest

from live_restore import reloading
from live_restore import service as service_module
from live_restore.interfaces import Event
from live_restore.ledger import Origin
from live_restore.profile import parse_profile
from live_restore.record import ledger_file, open_ledger
from live_restore.service import Service
from live_restore.volume import AcquisitionEnd, Plane, Restored, Skipped, SourceState, VolumeKey
from tests.conftest import make_info, wait_for
from tests.test_service import Collector, FakeRestorer

SHAPE = (2, 512, 512)  # 1 MiB


class Forgetful:
    """A source that gives so many volumes, and can't give them again."""

    is_durable = False

    def __init__(self, num_times, at_end=lambda stop: None):
        self.num_times = num_times
        self.at_end = at_end

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self, stop) -> Event:
        yield make_info(SHAPE, num_times=self.num_times)
        for time in range(self.num_times):
            for z in range(SHAPE[0]):
                plane = np.full(SHAPE[1:], 100 * time + z, "u2")
                yield Plane(VolumeKey("run", "0", time, "DAPI"), z, plane)
        self.at_end(stop)
        yield AcquisitionEnd("run")
        yield SourceState("over")


@pytest.fixture
def serve(tmp_path, monkeypatch):
    """Run a service with such a source, of which two volumes fit into memory."""

    def serve(source, restorer, order="live", spool_mb=64, during=None):
        profile = parse_profile(
            f"[source]\nkind = 'ingest'\n[ledger]\nfolder = '{tmp_path}'\n"
            f"[queue]\norder = '{order}'\nmemory_mb = 2\nspool_mb = {spool_mb}\n",
            tmp_path / "p.toml",
        )
        collector = Collector()
        monkeypatch.setattr(service_module, "open_sinks", lambda *_: {"a": collector})
        monkeypatch.setattr(reloading, "open_restorer", lambda *_: restorer)
        monkeypatch.setattr(service_module, "open_source", lambda profile, ledger: source)
        service = Service(profile)
        if during:
            thread = threading.Thread(target=during, args=(service,))
            thread.start()
        assert service.run()
        if during:
            thread.join()
        with open_ledger(profile) as ledger:
            return collector, ledger.counts(), ledger_file(profile).with_suffix(".spool")

    return serve


@pytest.mark.parametrize(
    ("order", "times", "backfill"),
    [("live", [0, 7, 1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]), ("strict", [*range(8)], [])],
)
def test_what_does_not_fit_in_memory_is_restored_from_disk(serve, order, times, backfill):
    began, all_came = threading.Event(), threading.Event()

    def wait(volume):
        began.set()
        assert all_came.wait(60)

    source = Forgetful(8, at_end=lambda stop: all_came.set())
    first = iter(source.events(None))

    def events(stop):  # the restorer has the first volume before the others come
        for number, event in enumerate(first):
            yield event
            if number == 2:
                assert began.wait(60)

    source.events = events
    collector, counts, folder = serve(source, FakeRestorer(wait), order)
    restored = collector.of(Restored)
    assert [one.key.time for one in restored] == times
    assert [one.key.time for one in restored if one.is_backfill] == backfill
    for one in restored:
        assert one.raw.data[:, 0, 0].tolist() == [100 * one.key.time, 100 * one.key.time + 1]
    assert collector.of(Skipped) == []
    assert isinstance(collector.items[-2], AcquisitionEnd | Restored)
    assert (counts.seen, counts.restored, counts.waiting) == (8, 8, 0)
    assert not folder.exists()


def test_without_room_on_disk_the_oldest_are_passed_over_and_that_is_told(serve):
    began, all_came = threading.Event(), threading.Event()

    def wait(volume):
        began.set()
        assert all_came.wait(60)

    source = Forgetful(8, at_end=lambda stop: all_came.set())
    collector, counts, _ = serve(source, FakeRestorer(wait), spool_mb=0)
    skipped = collector.of(Skipped)
    assert len(skipped) + len(collector.of(Restored)) == 8
    assert len(skipped) >= 5
    assert all("slower than the acquisition" in one.reason for one in skipped)
    assert counts.skipped == len(skipped)


def test_what_a_stopped_service_had_waiting_is_restored_by_the_next(serve, tmp_path):
    began, all_came, let_go = threading.Event(), threading.Event(), threading.Event()

    def wait(volume):
        began.set()
        assert let_go.wait(60)

    def stop_at_once(service):
        assert began.wait(60)
        assert all_came.wait(60)
        service.stop()
        service.stop()
        wait_for(lambda: len(list(tmp_path.glob("*.spool/*.volume"))) == 5, "all on disk")
        let_go.set()

    source = Forgetful(6, at_end=lambda stop: all_came.set() or stop.wait(60))
    collector, counts, folder = serve(source, FakeRestorer(wait), during=stop_at_once)
    assert collector.of(Skipped) == []
    assert (counts.seen, counts.restored, counts.waiting) == (6, 1, 5)
    assert len(list(folder.iterdir())) == 5

    collector, counts, folder = serve(Forgetful(0), FakeRestorer())
    again = [one.key.time for one in collector.of(Restored)]
    assert (len(again), again) == (5, sorted(again))
    assert all(one.is_backfill for one in collector.of(Restored))
    assert (counts.seen, counts.restored, counts.waiting) == (6, 6, 0)
    assert not folder.exists()


def test_what_a_killed_service_had_only_in_memory_is_told_of_as_skipped(serve, tmp_path):
    profile = parse_profile(
        f"[source]\nkind = 'ingest'\n[ledger]\nfolder = '{tmp_path}'\n", tmp_path / "p.toml"
    )
    with open_ledger(profile) as ledger:
        ledger.note_seen(Origin("old"), VolumeKey("old", "0", 0, "DAPI"))
    _, counts, _ = serve(Forgetful(1), FakeRestorer())
    assert (counts.waiting, counts.skipped, counts.restored) == (0, 1, 1)
