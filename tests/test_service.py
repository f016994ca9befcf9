"""The service in this process: its parts are real but for a restorer or sink that misbehaves."""

import threading
import time

import numpy as np
import pytest

from live_restore import reloading
from live_restore import service as service_module
from live_restore.client import EndHeader, SkippedHeader, Subscriber, VolumeMessage
from live_restore.errors import RestoreError, SinkError
from live_restore.profile import parse_profile
from live_restore.restore.restorer import RcanRestorer
from live_restore.restore.sweep import Sweep
from live_restore.service import Service
from live_restore.volume import AcquisitionEnd, AcquisitionInfo, Plane, Restored, Skipped, VolumeKey
from tests.conftest import make_info, make_restored, wait_for


def profile_text(model, endpoints=None, order="strict", **source):
    source = {
        "shape_zyx": [4, 24, 24],
        "num_times": 3,
        "interval_s": 0.0,
        "exposure_ms": 0.0,
    } | source
    lines = ["[source]", 'kind = "simulated"', *(f"{k} = {v}" for k, v in source.items())]
    lines += [
        "[model]",
        f"path = '{model.path}'",
        "[queue]",
        f'order = "{order}"',
        "shutdown_s = 20",
    ]
    if endpoints:
        lines += ["[publish]", f'endpoint = "{endpoints[0]}"', f'control = "{endpoints[1]}"']
    return "\n".join(lines)


class Collector:
    """A sink that keeps what it is sent."""

    def __init__(self, before=lambda item: None):
        self.items = []
        self._before = before

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def send(self, item):
        self._before(item)
        self.items.append(item)

    def of(self, kind):
        return [item for item in self.items if isinstance(item, kind)]


class FakeRestorer:
    """A restorer that obeys the same protocol, and does what a test wants first."""

    def __init__(self, before=lambda volume: None, num_workers=1):
        self._before = before
        self.num_workers = num_workers

    def advance(self, growing):
        return False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def restore(self, volume):
        self._before(volume)
        return make_restored(volume)


@pytest.fixture
def run(monkeypatch, tiny_model, tmp_path):
    """Run a service with the given parts to its end; gives its result and the service."""

    def run(sinks, restorer=None, source=None, during=None, **settings):
        profile = parse_profile(profile_text(tiny_model, **settings), tmp_path / "p.toml")
        monkeypatch.setattr(service_module, "open_sinks", lambda *_: sinks)
        monkeypatch.setattr(reloading, "open_restorer", lambda *_: restorer or FakeRestorer())
        if source:
            monkeypatch.setattr(service_module, "open_source", lambda profile, ledger: source)
        service = Service(profile)
        helper = threading.Thread(target=during, args=(service,)) if during else None
        if helper:
            helper.start()
        try:
            return service.run(), service
        finally:
            if helper:
                helper.join()

    return run


def test_a_whole_run_over_real_sockets(tiny_model, endpoints, tmp_path):
    profile = parse_profile(
        profile_text(tiny_model, endpoints, interval_s=0.5), tmp_path / "p.toml"
    )
    with Subscriber(
        endpoints[0], ("restored", "raw"), control=endpoints[1], from_start=True
    ) as viewer:
        messages = []
        service = Service(profile)
        thread = threading.Thread(target=lambda: messages.append(service.run()))
        thread.start()
        got = []
        while not got or not isinstance(got[-1], EndHeader):
            got.append(viewer.receive(20))
            assert got[-1] is not None
        thread.join()
    assert messages == [True]
    volumes = [m for m in got if isinstance(m, VolumeMessage)]
    assert len(volumes) == 12
    assert service.counts["restored"] == 6
    from live_restore.sources.simulated import simulated_microscope

    microscope = simulated_microscope(profile.source)
    for message in volumes:
        if message.header.kind == "raw":
            expected = microscope.stack(message.header.time, message.header.channel)
            np.testing.assert_array_equal(message.data, expected)


def test_the_end_of_an_acquisition_follows_its_last_volume(run):
    collector = Collector()
    ok, service = run({"a": collector}, FakeRestorer(lambda volume: time.sleep(0.02)))
    assert ok
    kinds = [type(item) for item in collector.items]
    assert kinds == [AcquisitionInfo, *[Restored] * 6, AcquisitionEnd]
    assert service.counts == {"seen": 6, "restored": 6}


def test_a_volume_that_fails_is_skipped_with_its_reason_and_the_rest_restored(run):
    def fail(volume):
        if volume.key.time == 1:
            raise (
                RestoreError("no such luck")
                if volume.key.channel == "nuclei"
                else ValueError("bug")
            )

    collector = Collector()
    ok, service = run({"a": collector}, FakeRestorer(fail))
    assert ok
    assert len(collector.of(Restored)) == 4
    reasons = {s.key.channel: s.reason for s in collector.of(Skipped)}
    assert reasons["nuclei"] == "no such luck"
    assert "ValueError: bug" in reasons["microtubules"]
    assert isinstance(collector.items[-1], AcquisitionEnd)
    assert service.counts["skipped"] == 2


def test_no_number_of_bad_volumes_ends_the_service(run):
    def fail(volume):
        if volume.key.time < 8:
            raise RestoreError("not finite")

    collector = Collector()
    ok, service = run({"a": collector}, FakeRestorer(fail), num_times=9)
    assert ok
    assert service.counts == {"seen": 18, "skipped": 16, "restored": 2}


def test_failures_in_a_row_end_the_service_and_nothing_is_silent(run):
    def fail(volume):
        raise ValueError("always")

    collector = Collector()
    ok, service = run({"a": collector}, FakeRestorer(fail), num_times=10)
    assert not ok
    assert service.counts["seen"] == service.counts["skipped"] == len(collector.of(Skipped))
    assert service.counts["seen"] >= 5


def test_a_sink_that_fails_does_not_keep_volumes_from_the_others(run):
    def fail(item):
        if isinstance(item, Restored):
            raise SinkError("disk full")

    good, bad = Collector(), Collector(fail)
    ok, service = run({"good": good, "bad": bad})
    assert ok
    assert len(good.of(Restored)) == 6
    assert service.counts["sink failures"] == 6


def test_a_dead_sink_ends_the_service_as_failed(run):
    def fail(item):
        raise RuntimeError("bug")

    ok, _ = run({"good": Collector(), "bad": Collector(fail)}, num_times=30)
    assert not ok


def test_the_first_stop_restores_what_waits(run):
    collector = Collector()
    slow = FakeRestorer(lambda volume: time.sleep(0.05))

    def stop(service):
        while service.counts["seen"] < 6:
            time.sleep(0.005)
        service.stop()

    ok, service = run({"a": collector}, slow, during=stop, num_times=1000, interval_s=0.01)
    assert ok
    assert service.counts["restored"] == service.counts["seen"] < 200
    assert collector.items[-1] == AcquisitionEnd("simulated", "stopped")


def test_the_second_stop_drops_what_waits_and_counts_it(run):
    release = threading.Event()

    def stop(service):
        while service.counts["seen"] < 6:
            time.sleep(0.005)
        service.stop()
        service.stop()
        time.sleep(0.3)
        release.set()

    started = time.monotonic()
    _, service = run(
        {"a": Collector()},
        FakeRestorer(lambda volume: release.wait(20)),
        during=stop,
        num_times=1000,
        interval_s=0.01,
    )
    assert time.monotonic() - started < 15
    assert service.counts["skipped"] >= 3
    assert service.counts["skipped"] + service.counts["restored"] == service.counts["seen"]


class Scripted:
    """A source that tells what it is given."""

    is_durable = False

    def __init__(self, events):
        self._events = events

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self, stop):
        yield from self._events


def planes(time_point, count=4):
    key = VolumeKey("run", "0", time_point, "c")
    return [Plane(key, z, np.zeros((8, 8), "u2")) for z in range(count)]


INFO = AcquisitionInfo("run", (4, 8, 8), np.dtype("u2"), None, ("c",))


def test_a_volume_that_finds_the_inbox_closed_is_skipped_and_counted(run, monkeypatch):
    """The source is made to wait with a volume in its hand when the restore stage dies."""

    def fail(volume):
        time.sleep(0.02)
        raise ValueError("always")

    monkeypatch.setattr(service_module, "_MB", 0.3)  # room for a volume of 512 bytes
    source = Scripted([INFO, *(p for t in range(50) for p in planes(t)), AcquisitionEnd("run")])
    source.is_durable = True
    collector = Collector()
    ok, service = run({"a": collector}, FakeRestorer(fail), source=source)
    assert not ok
    assert service.counts["seen"] == service.counts["skipped"] == len(collector.of(Skipped))
    assert any("nothing restores it" in s.reason for s in collector.of(Skipped))


def test_an_incomplete_stack_is_announced_as_skipped(run):
    collector = Collector()
    source = Scripted([INFO, *planes(0), *planes(1, 2), AcquisitionEnd("run")])
    ok, _ = run({"a": collector}, source=source)
    assert ok
    assert [s.reason for s in collector.of(Skipped)] == ["2 of 4 planes are missing: 2, 3"]
    assert isinstance(collector.items[-1], AcquisitionEnd)


def test_a_source_that_dies_ends_the_service_after_what_it_had_given(run):
    class Dying(Scripted):
        def events(self, stop):
            yield from self._events
            raise RuntimeError("camera unplugged")

    collector = Collector()
    ok, _ = run({"a": collector}, source=Dying([INFO, *planes(0), *planes(1, 3)]))
    assert not ok
    assert len(collector.of(Restored)) == 1
    assert [s.reason for s in collector.of(Skipped)] == ["1 of 4 planes are missing: 3"]
    assert collector.items[-1] == AcquisitionEnd("run", "camera unplugged")


def test_live_order_passes_over_old_volumes_of_a_source_that_cannot_wait(run, monkeypatch):
    gate = threading.Event()
    source = Scripted([INFO, *(p for t in range(12) for p in planes(t)), AcquisitionEnd("run")])
    collector = Collector(lambda item: gate.set() if isinstance(item, Skipped) else None)
    monkeypatch.setattr(service_module, "_MB", 0.3)  # room for a volume of 512 bytes
    ok, _ = run(
        {"a": collector}, FakeRestorer(lambda volume: gate.wait(10)), source=source, order="live"
    )
    assert ok
    reasons = {s.reason for s in collector.of(Skipped)}
    assert reasons == {"restoration is slower than the acquisition"}
    # Which were passed over depends on timing; that none is silent and the last is shown does not.
    assert len(collector.of(Restored)) + len(collector.of(Skipped)) == 12
    assert collector.of(Restored)[-1].key.time == 11


def test_skips_reach_viewers(tiny_model, endpoints, tmp_path, monkeypatch):
    source = Scripted([INFO, *planes(0, 2), AcquisitionEnd("run")])
    monkeypatch.setattr(service_module, "open_source", lambda profile, ledger: source)
    monkeypatch.setattr(reloading, "open_restorer", lambda *_: FakeRestorer(lambda v: None))
    profile = parse_profile(profile_text(tiny_model, endpoints), tmp_path / "p.toml")
    with Subscriber(endpoints[0]) as viewer:
        ready = threading.Event()
        original = source.events
        source.events = lambda stop: (ready.wait(10), (yield from original(stop)))[1]
        thread = threading.Thread(target=Service(profile).run)
        thread.start()
        heard = viewer.receive(10)  # the first heartbeat: subscribed
        assert heard is not None
        ready.set()
        got = []
        while not got or not isinstance(got[-1], EndHeader):
            got.append(viewer.receive(10))
            assert got[-1] is not None
        thread.join()
    assert [m.reason for m in got if isinstance(m, SkippedHeader)] == [
        "2 of 4 planes are missing: 2, 3"
    ]


def test_volumes_restored_at_once_are_sent_in_the_order_in_which_they_came(run):
    together, restored = threading.Barrier(3), []

    def meet(volume):
        together.wait(20)
        time.sleep(0.05 * (3 - len(restored) % 3))
        restored.append(volume.key)

    collector = Collector()
    restorer = FakeRestorer(meet, num_workers=3)
    ok, _ = run({"a": collector}, restorer, order="strict")
    assert ok
    sent = [item.key for item in collector.of(Restored)]
    assert len(sent) == 6
    assert sent == sorted(sent, key=lambda key: (key.time, key.channel != sent[0].channel))
    assert isinstance(collector.items[-1], AcquisitionEnd)


class PacedSource:
    """Gives two volumes, plane by plane, each when the one before it was worked on."""

    is_durable = False

    def __init__(self, worked):
        self._worked = worked

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def events(self, stop):
        info = make_info((16, 12, 12), "u2")
        yield info
        self._worked.clear()  # of what tried the model out
        for number in range(2):
            data = np.random.default_rng(number).integers(100, 900, (16, 12, 12)).astype("u2")
            for z in range(16):
                yield Plane(VolumeKey(info.acquisition, "0", number, "DAPI"), z, data[z])
                if number == 1 and z in (3, 7, 11):
                    wait_for(lambda z=z: self._worked == [*range(4, z + 2, 4)], "the planes' work")
            if number == 0:
                wait_for(lambda: self._worked == ["restored"], "the first volume")
                self._worked.clear()
        yield AcquisitionEnd(info.acquisition)


def test_planes_are_worked_on_while_others_still_come(tiny_model, tmp_path, monkeypatch):
    worked, advance, restore = [], Sweep.advance, RcanRestorer.restore

    def advancing(self, num_given):
        done = advance(self, num_given)
        if num_given < 16:
            worked.append(num_given)
        return done

    def restoring(self, volume):
        made = restore(self, volume)
        worked.append("restored")
        return made

    monkeypatch.setattr(Sweep, "advance", advancing)
    monkeypatch.setattr(RcanRestorer, "restore", restoring)
    collector = Collector()
    profile = parse_profile(profile_text(tiny_model), tmp_path / "p.toml")
    monkeypatch.setattr(service_module, "open_sinks", lambda *_: {"a": collector})
    monkeypatch.setattr(service_module, "open_source", lambda profile, ledger: PacedSource(worked))
    assert Service(profile).run()
    first, second = collector.of(Restored)
    assert worked == [4, 8, 12, "restored"]
    assert (first.model.attention, second.model.attention) == ("whole", "previous")
