"""How lines of the log look: for people, for journald, for programs."""

import io
import json
import logging
import os
import sys

import pytest

from live_restore.log_format import (
    JournalFormatter,
    JsonFormatter,
    LineFormatter,
    chosen_format,
    formatter_for,
)
from tests.conftest import live_restore


def record(
    level=logging.WARNING, message="plane %d\nof %s", arguments=(3, "cell\x1b"), exc_info=None
):
    return logging.LogRecord("live_restore.x", level, "x.py", 1, message, arguments, exc_info)


def failed():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        return record(logging.ERROR, exc_info=sys.exc_info())


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (logging.CRITICAL, 2),
        (logging.ERROR, 3),
        (logging.WARNING, 4),
        (logging.INFO, 6),
        (logging.DEBUG, 7),
    ],
)
def test_each_line_of_the_journal_has_its_priority(level, priority):
    lines = JournalFormatter().format(record(level)).splitlines()
    assert lines == [f"<{priority}>plane 3", f"<{priority}>    of cell\\x1b"]


def test_a_traceback_has_the_priority_of_its_message():
    lines = JournalFormatter().format(failed()).splitlines()
    assert all(line.startswith("<3>") for line in lines)
    assert any("ValueError: first" in line for line in lines)


def test_json_is_an_object_per_line():
    text = JsonFormatter().format(failed())
    assert "\n" not in text
    body = json.loads(text)
    assert body["level"] == "ERROR"
    assert body["logger"] == "live_restore.x"
    assert body["message"] == "plane 3\nof cell\x1b"
    assert "ValueError: first" in body["traceback"]
    assert body["at"].endswith("+00:00")
    assert "traceback" not in json.loads(JsonFormatter().format(record()))


def test_the_journal_is_recognised_by_its_stream(tmp_path, monkeypatch):
    with (tmp_path / "journal").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert isinstance(formatter_for("auto", stream), JournalFormatter)
        # Standard error was led elsewhere: `2> file` under systemd.
        with (tmp_path / "other").open("w") as other:
            assert type(formatter_for("auto", other)) is LineFormatter
        assert type(formatter_for("auto", io.StringIO())) is LineFormatter
        assert type(formatter_for("human", stream)) is LineFormatter
    monkeypatch.delenv("JOURNAL_STREAM")
    assert type(formatter_for("auto")) is LineFormatter
    assert isinstance(formatter_for("journal"), JournalFormatter)


def test_a_daemons_log_is_json_where_it_is_wanted(tmp_path):
    profile = tmp_path / "p.toml"
    profile.write_text(
        '[source]\nkind = "simulated"\nshape_zyx = [4, 32, 32]\nnum_times = 1\ninterval_s = 0.1\n'
    )
    done = live_restore("run", profile, "--log", "json")
    assert done.returncode == 0
    bodies = [json.loads(line) for line in done.stderr.splitlines()]
    assert "ready" in [one["message"] for one in bodies]


def test_the_processes_beside_the_daemon_write_as_it_does(monkeypatch):
    monkeypatch.delenv("LIVE_RESTORE_LOG", raising=False)
    assert chosen_format() == "auto"
    monkeypatch.setenv("LIVE_RESTORE_LOG", "json")
    assert chosen_format() == "json"
    monkeypatch.setenv("LIVE_RESTORE_LOG", "nonsense")
    assert chosen_format() == "auto"
