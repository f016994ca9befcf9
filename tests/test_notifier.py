"""What the service manager is told, by a stand-in for it: sockets of both kinds, and real daemons."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from live_restore.liveness import Liveness
from live_restore.notifier import Notifier
from tests.conftest import wait_for

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")


class Manager:
    """Listens as systemd does."""

    def __init__(self, address):
        self.address = address
        self.told = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._thread = threading.Thread(target=self._listen)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.told.clear()
        Notifier(self.address)._send("bye")
        self._thread.join()
        self._socket.close()

    def _listen(self):
        while (message := self._socket.recv(4096)) != b"bye":
            self.told += [(time.monotonic(), line) for line in message.decode().splitlines()]

    def lines(self, beginning=""):
        return [line for _, line in self.told if line.startswith(beginning)]

    def hears(self, beginning, timeout_s=60):
        return wait_for(lambda: self.lines(beginning), beginning, timeout_s)


@pytest.fixture(params=["path", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "path" else f"@live-restore-{os.getpid()}"
    with Manager(name) as listening:
        yield listening


def test_each_word_is_told_as_the_protocol_says(manager):
    notifier = Notifier(manager.address)
    notifier.ready()
    notifier.status("first line\nsecond\tline")
    notifier.status("first line second line")  # no news
    notifier.extend(1.5)
    notifier.reloading()
    notifier.alive()
    notifier.stopping()
    manager.hears("STOPPING=1")
    monotonic = int(manager.lines("MONOTONIC_USEC=")[0].partition("=")[2])
    assert abs(monotonic / 1e6 - time.monotonic()) < 60
    assert [one for one in manager.lines() if not one.startswith("MONOTONIC")] == [
        "READY=1",
        "STATUS=first line second line",
        "EXTEND_TIMEOUT_USEC=1500000",
        "RELOADING=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 30.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
    ],
)
def test_the_environment_says_whether_anybody_watches(environment, watchdog_s):
    assert Notifier.from_environment(environment).watchdog_s == watchdog_s
    assert not Notifier.from_environment(environment).is_heard


def test_a_manager_that_is_gone_harms_nobody_and_is_told_of_once(tmp_path, caplog):
    notifier = Notifier(str(tmp_path / "nobody"))
    for _ in range(3):
        notifier.alive()
    assert len(caplog.records) == 1


# Liveness


def part(busy_s=0.0):
    return SimpleNamespace(name="restore", busy_s=busy_s)


def test_the_watchdog_starves_while_a_part_is_stuck(tmp_path, caplog):
    with Manager(str(tmp_path / "notify")) as manager:
        liveness = Liveness(Notifier(manager.address), Counter(), stuck_s=5.0)
        one = part()
        liveness.watch(lambda: [part(), one], lambda: "watching")
        liveness.tick()
        manager.hears("WATCHDOG=1")
        one.busy_s = 6.0
        manager.told.clear()
        for _ in range(3):
            liveness.tick()
        one.busy_s = 0.0
        assert not manager.lines("WATCHDOG")
        liveness.tick()
        manager.hears("WATCHDOG=1")
    assert len(caplog.records) == 1
    assert "restore has worked on one item" in caplog.text


def test_the_watchdog_is_fed_four_times_within_its_patience_and_not_more(tmp_path):
    with Manager(str(tmp_path / "notify")) as manager:
        liveness = Liveness(Notifier(manager.address, watchdog_s=1000.0), Counter())
        liveness._fed_at = -1e9
        for _ in range(20):
            liveness.tick()
        manager.hears("WATCHDOG=1")
        assert len(manager.lines("WATCHDOG=1")) == 1
        liveness._fed_at = time.monotonic() - 251
        liveness.tick()
        wait_for(lambda: len(manager.lines("WATCHDOG=1")) == 2, "more food")


def test_patience_is_asked_for_while_the_model_loads(tmp_path, monkeypatch):
    monkeypatch.setattr("live_restore.liveness._PULSE_S", 0.05)
    with Manager(str(tmp_path / "notify")) as manager:
        liveness = Liveness(Notifier(manager.address), Counter(restored=3, skipped=1))
        with liveness.starting():
            wait_for(lambda: len(manager.lines("EXTEND_TIMEOUT_USEC=200000")) > 2, "pleas")
        assert not manager.lines("READY")
        assert manager.lines("STATUS") == ["STATUS=starting: the model loads"]
        liveness.ready()
        manager.hears("STATUS=ready; 3 volumes restored, 1 skipped")


def test_a_reload_is_told_of_only_between_ready_and_the_end(tmp_path):
    with Manager(str(tmp_path / "notify")) as manager:
        liveness = Liveness(Notifier(manager.address), Counter())
        for is_loading in (True, False):  # while the first model loads
            liveness.reloading(is_loading)
        liveness.ready()
        liveness.reloading(True)
        liveness.reloading(False)
        liveness.ending(1.0)
        liveness.reloading(True)
        liveness.reloading(False)
        liveness._tell("over")
        manager.hears("STATUS=over; 0 volumes restored, 0 skipped")
        assert len(manager.lines("RELOADING")) == 1
        assert len(manager.lines("READY")) == 2


# A real daemon


PROFILE = """
[source]
kind = "simulated"
shape_zyx = [4, 32, 32]
interval_s = {interval}
[queue]
order = "strict"
shutdown_s = 20
[model]
path = "{model}"
"""


@contextmanager
def daemon(tmp_path, manager, model="default", interval=0.5, **environment):
    profile = tmp_path / "scope.toml"
    profile.write_text(PROFILE.format(model=model, interval=interval))
    process = subprocess.Popen(
        [sys.executable, "-m", "live_restore", "run", str(profile)],
        env=os.environ | {"NOTIFY_SOCKET": manager.address, **environment},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process, profile
    finally:
        process.send_signal(signal.SIGCONT)
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_daemon_is_ready_when_its_model_is_warm_lives_reloads_and_stops(manager, tmp_path):
    with daemon(tmp_path, manager, WATCHDOG_USEC="4000000") as (process, profile):
        manager.hears("READY=1")
        assert manager.lines()[0] == "STATUS=starting: the model loads"
        assert manager.lines("EXTEND_TIMEOUT_USEC=")
        assert re.match(
            r"STATUS=.*; [1-9]\d* volumes restored, 0 skipped",
            wait_for(
                lambda: next(
                    iter(re.findall(r"STATUS=.*; [1-9].*", "\n".join(manager.lines()))), ""
                ),
                "restored volumes in the status",
            ),
        )
        manager.hears("WATCHDOG=1")
        # A good profile: reloading, and ready when the model is in use.
        manager.told.clear()
        process.send_signal(signal.SIGHUP)
        manager.hears("RELOADING=1")
        manager.hears("READY=1")
        # A bad one: likewise, and the old one stays.
        profile.write_text("[source]\nkind = 'nonsense'\n")
        manager.told.clear()
        process.send_signal(signal.SIGHUP)
        manager.hears("RELOADING=1")
        manager.hears("READY=1")
        manager.told.clear()
        manager.hears("STATUS=")
        # Frozen: no food.
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        manager.told.clear()
        time.sleep(2.5)
        assert manager.told == []
        process.send_signal(signal.SIGCONT)
        manager.hears("WATCHDOG=1")
        process.send_signal(signal.SIGTERM)
        manager.hears("STOPPING=1")
        assert process.wait(60) == 0


def test_a_daemon_that_cannot_start_says_why_and_never_that_it_is_ready(tmp_path):
    with (
        Manager(str(tmp_path / "notify")) as manager,
        daemon(tmp_path, manager, model="nowhere.safetensors") as (process, _),
    ):
        code = process.wait(60)
        assert code in (2, 3)
        assert "nowhere.safetensors" in manager.hears("STATUS=could not start")[0]
        assert not manager.lines("READY")
