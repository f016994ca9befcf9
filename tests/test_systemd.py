"""The systemd unit: checked as a file, and run by a real systemd in a container."""

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import wait_for
from tests.container import booted

FOLDER = Path(__file__).parents[1] / "systemd"
TEMPLATE = "live-restore@.service"
UNIT = "live-restore@scope.service"
PROFILE = """
[source]
kind = "simulated"
shape_zyx = [4, 32, 32]
interval_s = 0.5
[queue]
order = "strict"
shutdown_s = 20
"""
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze"
)


def unit_file(folder, program=sys.executable):
    path = folder / TEMPLATE
    text = (FOLDER / TEMPLATE).read_text()
    path.write_text(text.replace("/opt/live-restore/bin/live-restore", program))
    return path


@needs_analyze
def test_the_unit_is_understood_to_the_last_word(tmp_path):
    path = unit_file(tmp_path)
    instance = path.rename(tmp_path / UNIT)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(instance)], capture_output=True, text=True, check=False
    )
    # It returns 0 with a misspelt directive.
    assert (done.returncode, done.stderr) == (0, "")
    instance.write_text(instance.read_text().replace("WatchdogSec", "WatchdogSecs"))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(instance)], capture_output=True, text=True, check=False
    )
    assert "WatchdogSecs" in done.stderr


@needs_analyze
def test_the_unit_may_do_little(tmp_path):
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=19", unit_file(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (level,) = re.findall(r"exposure level for .*: ([\d.]+)", done.stdout)
    assert float(level) < 2.0


@pytest.fixture(scope="module")
def container(tmp_path_factory):
    with booted(tmp_path_factory.mktemp("container")) as running:
        root = running.root
        unit = unit_file(
            root / "etc/systemd/system", "/opt/live-restore/bin/python -m live_restore"
        )
        unit.with_name("live-restore@.service.d").mkdir()
        # Not so long as in earnest.
        unit.with_name("live-restore@.service.d").joinpath("test.conf").write_text(
            "[Service]\nWatchdogSec=4s\nTimeoutAbortSec=2s\nRestartSec=1s\n"
        )
        shutil.copy(FOLDER / "live-restore.sysusers", root / "usr/lib/sysusers.d/live-restore.conf")
        assert running.run("systemd-sysusers").returncode == 0
        (root / "etc/live-restore").mkdir()
        assert running.run("systemctl", "daemon-reload").returncode == 0
        yield running


@pytest.fixture
def started(container):
    """With a daemon, the one of the test before if it runs."""
    (container.root / "etc/live-restore/scope.toml").write_text(PROFILE)
    container.run("systemctl", "reset-failed", UNIT)
    done = container.run("systemctl", "start", UNIT)
    assert done.returncode == 0, journal(container)
    return container


def journal(container, *options):
    return container.run("journalctl", "-u", UNIT, "-o", "cat", "--no-pager", *options).stdout


def main_pid(container):
    return container.show(UNIT, "MainPID")


def await_volumes(container):
    wait_for(
        lambda: re.search(r"[1-9]\d* volumes restored", container.show(UNIT, "StatusText")),
        "volumes in the status",
    )


def test_start_returns_when_the_model_is_warm_and_the_status_is_in_words(started):
    assert "ready" in journal(started)
    assert started.show(UNIT, "ActiveState") == "active"
    await_volumes(started)
    user = started.run("ps", "-o", "user=", "-p", main_pid(started)).stdout
    assert user.strip().startswith("live-re")
    # Priorities are the journal's, not text.
    assert "<6>" not in journal(started)
    assert "ready" in journal(started, "-p", "info")
    assert "ready" not in journal(started, "-p", "warning")


def test_a_reload_takes_a_good_profile_and_keeps_the_old_one_of_a_bad(started):
    pid = main_pid(started)
    assert started.run("systemctl", "reload", UNIT).returncode == 0
    wait_for(lambda: "model reloaded" in journal(started), "the new model")
    profile = started.root / "etc/live-restore/scope.toml"
    profile.write_text(PROFILE.replace("simulated", "nonsense"))
    started.run("systemctl", "reload", UNIT)
    wait_for(lambda: "not reloaded" in journal(started, "-p", "err"), "the refusal")
    wait_for(lambda: started.show(UNIT, "ActiveState") == "active", "the service")
    assert main_pid(started) == pid


@pytest.mark.parametrize("number", ["STOP", "KILL"])
def test_a_frozen_or_killed_daemon_is_started_again(started, number):
    pid = main_pid(started)
    count = int(started.show(UNIT, "NRestarts"))
    started.run("kill", f"-{number}", pid)
    wait_for(lambda: int(started.show(UNIT, "NRestarts")) > count, "the restart")
    wait_for(lambda: started.show(UNIT, "ActiveState") == "active", "the service")
    assert main_pid(started) not in (pid, "0")


def test_stop_restores_what_waits(started):
    await_volumes(started)
    assert started.run("systemctl", "stop", UNIT).returncode == 0
    assert started.show(UNIT, "Result") == "success"
    assert started.show(UNIT, "ActiveState") == "inactive"
    pattern = r"done: volumes (\d+) seen, (\d+) restored, (\d+) skipped, 0 left"
    told = wait_for(lambda: re.search(pattern, journal(started)), "the last words")
    seen, restored, skipped = map(int, told.groups())
    assert seen == restored + skipped
    assert restored > 0
    assert skipped <= 1  # the stack that was being acquired


@pytest.mark.parametrize(
    ("profile", "code", "said"),
    [
        (PROFILE.replace("simulated", "nonsense"), "2", "nonsense"),
        (PROFILE + '[model]\ndevice = "cuda:7"\n', "3", "cuda:7"),
    ],
)
def test_what_a_person_has_to_mend_is_not_tried_again_and_again(container, profile, code, said):
    container.run("systemctl", "stop", UNIT)
    (container.root / "etc/live-restore/scope.toml").write_text(profile)
    assert container.run("systemctl", "start", UNIT).returncode != 0
    time.sleep(3)  # three times RestartSec
    assert container.show(UNIT, "ActiveState") == "failed"
    assert container.show(UNIT, "ExecMainStatus") == code
    assert container.show(UNIT, "NRestarts") == "0"
    assert said in journal(container, "-p", "err") + journal(container)
    container.run("systemctl", "reset-failed", UNIT)
