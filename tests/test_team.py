"""Several devices at once: here the processor, several times."""

import threading
import time

import numpy as np
import pytest

from live_restore.profile import ModelSettings
from live_restore.restore import open_restorer, team
from live_restore.restore.model import load_model
from live_restore.restore.restorer import RcanRestorer
from live_restore.restore.team import RestorerTeam
from live_restore.volume import GrowingVolume
from tests.conftest import make_volume


def members(tiny_model, count=2):
    model = load_model(tiny_model.path)
    return [RcanRestorer(model, "cpu", "float32", "float32") for _ in range(count)]


def test_all_members_restore_at_once_and_give_the_same(tiny_model, monkeypatch):
    together, restore = threading.Barrier(2), RcanRestorer.restore

    def meets(self, volume):
        together.wait(60)
        return restore(self, volume)

    data = np.random.default_rng(0).integers(0, 900, (3, 12, 12)).astype("u2")
    results = []
    with RestorerTeam(members(tiny_model)) as both:
        assert both.num_workers == 2
        monkeypatch.setattr(RcanRestorer, "restore", meets)
        threads = [
            threading.Thread(target=lambda n=n: results.append(both.restore(make_volume(data, n))))
            for n in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    np.testing.assert_array_equal(results[0].data, results[1].data)
    assert {one.key.time for one in results} == {0, 1}


def test_a_third_volume_waits_for_a_member(tiny_model, monkeypatch):
    most, now, lock = [0], [0], threading.Lock()

    def slow(self, volume):
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.02)
        with lock:
            now[0] -= 1

    with RestorerTeam(members(tiny_model)) as both:
        monkeypatch.setattr(RcanRestorer, "restore", slow)
        threads = [threading.Thread(target=both.restore, args=(make_volume(),)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert most == [2]


def test_a_member_that_fails_is_free_again(tiny_model, monkeypatch):
    def fail(self, volume):
        raise ValueError("no")

    with RestorerTeam(members(tiny_model, 1)) as one:
        monkeypatch.setattr(RcanRestorer, "restore", fail)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                one.restore(make_volume())


def test_planes_of_volumes_that_grow_wait(tiny_model):
    volume = make_volume()
    with RestorerTeam(members(tiny_model)) as both:
        assert not both.advance([GrowingVolume(volume.key, volume.info, volume.data, 2)])


def test_members_that_were_opened_are_closed_where_another_fails(tiny_model, monkeypatch):
    first, second = members(tiny_model)
    closed = []
    monkeypatch.setattr(first, "_engines", {})
    monkeypatch.setattr(
        team.RcanRestorer,
        "__exit__",
        lambda self, *error: closed.append(self),
    )
    monkeypatch.setattr(second, "_certify", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), RestorerTeam([first, second]):
        pass
    assert closed == [first]


def test_a_profile_names_several_devices(monkeypatch):
    settings = ModelSettings(device="cuda:0,cuda:1")
    monkeypatch.setattr(
        "live_restore.restore.restorer.choose_device",
        lambda name: __import__("torch").device("cpu"),
    )
    opened = open_restorer(settings)
    assert isinstance(opened, RestorerTeam)
    assert opened.num_workers == 2
    assert opened.device_name == "cpu, cpu"
    for wrong in ("cuda,cuda:1", "cuda:0,", "cpu,cpu", "auto,cuda:0"):
        with pytest.raises(ValueError, match="device"):
            ModelSettings(device=wrong)
