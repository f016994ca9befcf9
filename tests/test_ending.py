"""How a service ends: nothing that was seen is forgotten, whoever ends first."""

import threading

import numpy as np
import pytest

from live_restore import delivery as delivery_module
from live_restore import reloading
from live_restore import service as service_module
from live_restore.errors import LedgerError
from live_restore.profile import parse_profile
from live_restore.record import claimed_ledger, ledger_file, open_spool
from live_restore.service import Service
from live_restore.spool import Spool
from live_restore.volume import (
    AcquisitionEnd,
    AcquisitionInfo,
    Plane,
    Restored,
    Skipped,
    SourceState,
    VolumeKey,
)
from tests.conftest import make_info, make_volume, wait_for
from tests.test_service import Collector, FakeRestorer

SHAPE = (2, 64, 64)


class Forgetful:
    """A source that can't give its volumes again, and notes how its acquisition ends."""

    is_durable = False

    def __init__(self, num_times, then=lambda stop: None):
        self.ended = ""
        self._num_times = num_times
        self._then = then

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self, stop):
        try:
            yield make_info(SHAPE, num_times=self._num_times)
            for time in range(self._num_times):
                for z in range(SHAPE[0]):
                    yield Plane(VolumeKey("run", "0", time, "DAPI"), z, np.zeros(SHAPE[1:], "u2"))
            self._then(stop)
            yield AcquisitionEnd("run")
            self.ended = "by itself"
        except GeneratorExit:
            self.ended = f"closed, failed: {stop.has_failed}"
            raise


def profile_in(folder, shutdown_s=60):
    text = f"[source]\nkind = 'ingest'\n[ledger]\nfolder = '{folder}'\n[queue]\nshutdown_s = {shutdown_s}\n"
    return parse_profile(text, folder / "p.toml")


@pytest.fixture
def make(tmp_path, monkeypatch):
    def make(source, restorer, sinks, shutdown_s=60):
        monkeypatch.setattr(service_module, "open_sinks", lambda *_: sinks)
        monkeypatch.setattr(reloading, "open_restorer", lambda *_: restorer)
        monkeypatch.setattr(service_module, "open_source", lambda profile, ledger: source)
        return Service(profile_in(tmp_path, shutdown_s))

    return make


def on_disk(folder):
    return len(list(folder.glob("*.spool/*.volume")))


def test_a_source_hears_that_restoring_failed_before_its_volumes_are_refused(make, monkeypatch):
    """An own acquisition that is saved goes on only if it hears that."""
    keep = Spool.keep
    source = Forgetful(10**6)

    def slow(self, volume):
        if threading.current_thread().name == "restore":  # which keeps what waited for it
            wait_for(lambda: source.ended, "the source's end")
        return keep(self, volume)

    def fail(volume):
        raise ValueError("bug")

    monkeypatch.setattr(Spool, "keep", slow)
    assert not make(source, FakeRestorer(fail), {"write": Collector()}).run()
    assert source.ended == "closed, failed: True"


@pytest.mark.parametrize("has_asked", [False, True])
def test_a_failure_after_another_word_does_not_undo_it(has_asked):
    from live_restore.interfaces import StopSignal

    stop = StopSignal()
    if has_asked:
        stop.set()
    for _ in range(2):
        stop.fail()
    assert stop.has_failed is not has_asked


def test_a_volume_that_is_being_restored_when_time_is_over_is_left_to_the_next_start(
    make, tmp_path
):
    began, dropped = threading.Event(), threading.Event()

    def restore(volume):
        began.set()
        assert dropped.wait(60)

    sink = Collector()
    service = make(
        Forgetful(1, then=lambda stop: stop.wait(60)), FakeRestorer(restore), {"write": sink}, 0.2
    )

    def stop():
        assert began.wait(60)
        service.stop()
        wait_for(lambda: service._deliveries["write"].queue._closed, "the end of shutdown_s")
        dropped.set()

    helper = threading.Thread(target=stop)
    helper.start()
    assert service.run()
    helper.join()
    assert sink.of(Restored) == sink.of(Skipped) == []
    assert service.counts["left for the next start"] == on_disk(tmp_path) == 1
    assert service.counts["restored"] == 0


@pytest.mark.parametrize("word", ["stopped twice", "the writer dies"])
def test_what_waits_for_the_writer_when_it_ends_is_left_to_the_next_start(make, tmp_path, word):
    writes, ended = threading.Event(), threading.Event()

    def write(item):
        if isinstance(item, Restored):
            writes.set()
            assert ended.wait(60)
            if word == "the writer dies":
                raise SystemError

    source = Forgetful(4, then=lambda stop: stop.wait(60))
    service = make(source, FakeRestorer(), {"write": Collector(write), "publish": Collector()})

    def end():
        assert writes.wait(60)
        wait_for(lambda: service.counts["restored"] == 4, "all")
        if word == "stopped twice":
            service.stop()
            service.stop()
            wait_for(lambda: on_disk(tmp_path) == 3, "what waited")
        else:
            service._deliveries["write"]._max_failures = 1
        ended.set()

    helper = threading.Thread(target=end)
    helper.start()
    assert service.run() is (word == "stopped twice")
    helper.join()
    assert on_disk(tmp_path) == 3


def test_the_order_to_drain_given_twice_drops_nothing(make):
    sink = Collector()
    service = make(Forgetful(5), FakeRestorer(), {"write": sink})
    for _ in range(3):
        service._drain()
    assert service.run()
    assert len(sink.of(Restored)) + len(sink.of(Skipped)) == service.counts["seen"]
    assert service.counts["skipped"] == 0


def test_a_source_goes_on_while_a_sink_hangs(make, monkeypatch):
    """Only volumes wait for room at a sink, and they wait in the restore thread."""
    monkeypatch.setattr(delivery_module, "_QUEUE_BYTES", 2**14)
    goes_on = threading.Event()

    def write(item):
        if isinstance(item, Restored):
            assert goes_on.wait(60)

    class Talking(Forgetful):
        def events(self, stop):
            for event in super().events(stop):
                if isinstance(event, AcquisitionEnd):
                    wait_for(lambda: service._deliveries["write"].queue.nbytes >= 2**14, "no room")
                    yield SourceState("acquiring")
                    yield make_info(SHAPE, acquisition="next")
                    goes_on.set()
                yield event

    sink = Collector(write)
    service = make(Talking(50), FakeRestorer(), {"write": sink})
    assert service.run()
    assert len(sink.of(Restored)) == 50
    assert [one.acquisition for one in sink.of(AcquisitionInfo)] == ["run", "next"]


def test_a_volume_that_cannot_be_read_back_stays_on_disk(make, tmp_path):
    profile = profile_in(tmp_path)
    with open_spool(profile) as spool:
        kept = spool.keep(make_volume())
    with kept.path.open("r+b") as file:  # its head stays good
        file.truncate(kept.path.stat().st_size - 7)
    sink = Collector()
    assert make(Forgetful(0), FakeRestorer(), {"write": sink}).run()
    (skipped,) = sink.of(Skipped)
    assert "can't be read back" in skipped.reason
    assert not kept.path.exists()
    assert kept.path.with_suffix(".damaged").is_file()


def test_two_services_never_share_a_ledger(make, tmp_path):
    with claimed_ledger(profile_in(tmp_path)):
        service = make(Forgetful(1), FakeRestorer(), {"write": Collector()})
        with pytest.raises(LedgerError, match="another live-restore runs with it"):
            service.run()
    assert make(Forgetful(1), FakeRestorer(), {"write": Collector()}).run()


@pytest.mark.parametrize(
    "two",
    [
        ("kind = 'ingest'\nendpoint = 'tcp://127.0.0.1:5558'", "kind = 'ingest'\nendpoint = 'tcp://127.0.0.1:5568'"),
        ("kind = 'micromanager'\nport = 4827", "kind = 'micromanager'\nport = 4828"),
    ],
)  # fmt: skip
def test_two_microscopes_have_two_ledgers(tmp_path, two):
    files = [ledger_file(parse_profile(f"[source]\n{one}\n", tmp_path / "p.toml")) for one in two]
    assert files[0] != files[1]
