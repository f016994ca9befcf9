"""`live-restore view` without a browser: the table in the terminal, and the command itself."""

import io
import subprocess
import sys

import pytest
from rich.console import Console

from live_restore.cli.main import main
from live_restore.cli.view import control_beside
from live_restore.errors import ViewerError
from live_restore.message_parts import AssessmentHeader, DoseHeader
from live_restore.viewer.terminal import StreamTable, show_table
from tests.test_viewer_page import publishing
from tests.test_viewer_timeline import announced, beat, skipped


def shown(table):
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    return console.file.getvalue()


def told(*messages):
    table = StreamTable("tcp://127.0.0.1:5556")
    for message in messages:
        if table.timeline.take(message):
            table.begin_anew()
        if hasattr(message, "topic"):
            table.take(message)
    return table


def test_before_anything_comes_it_says_that_it_waits():
    assert "waiting for a daemon on tcp://127.0.0.1:5556" in shown(told())


def test_a_line_per_stream_with_its_verdict_and_what_was_skipped():
    found = AssessmentHeader(
        verdict="red",
        reasons=("too dim [really]",),
        signal=1.24,
        error=0.512,
        dose=DoseHeader(target=0.35, text="more light is needed"),
    )
    text = shown(
        told(
            announced(0, channel="DNA"),
            announced(7, channel="tubulin", assessment=found),
            skipped(8, "tubulin"),
            beat(tubulin=7),
        )
    )
    line = next(one for one in text.splitlines() if "tubulin" in one and "RED" in one)
    for part in ("7", "1.2", "0.51", "more light is needed; too dim [really]"):
        assert part in line
    assert "skipped 1" in text
    assert "last skipped: position 0, time 8, tubulin: because" in text
    assert "watching" in text


def test_a_late_volume_and_another_daemon():
    table = told(announced(0, time=5), announced(1, time=2, backfill=True))
    assert table._newest["0", "c"].time == 5
    table = told(announced(0, channel="old"), announced(0, channel="new", session="t"))
    assert list(table._newest) == [("0", "new")]


def test_silence_is_told(monkeypatch):
    table = told(beat())
    monkeypatch.setattr(type(table.timeline), "silence_s", property(lambda _: 12.3))
    assert "NO WORD from the daemon for 12 s" in shown(table)


def test_the_table_shows_a_live_publisher(endpoints, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with publishing(endpoints):
        assert show_table(endpoints[0], num_refreshes=8) == 0
    text = capsys.readouterr().out
    assert "tubulin" in text
    assert "AMBER" in text


def test_the_command_ends_in_good_order_at_ctrl_c(endpoints):
    import signal

    for extra in ([], ["--terminal"]):
        process = subprocess.Popen(
            [sys.executable, "-m", "live_restore", "view", endpoints[0], "--no-browser", *extra],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            if not extra:
                assert "Ctrl-C ends" in process.stdout.readline()
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 0
        finally:
            process.kill()
            process.communicate()


@pytest.mark.parametrize(
    ("data", "control"),
    [
        ("tcp://127.0.0.1:5556", "tcp://127.0.0.1:5557"),
        ("tcp://scope.example.org:7000", "tcp://scope.example.org:7001"),
        ("tcp://[::1]:5556", "tcp://[::1]:5557"),
    ],
)
def test_the_control_port_lies_beside_the_data_port(data, control):
    assert control_beside(data) == control


@pytest.mark.parametrize("endpoint", ["tcp://127.0.0.1", "ipc:///tmp/x", "tcp://h:port", ""])
def test_an_endpoint_without_a_number_is_refused_in_words(endpoint, capsys):
    with pytest.raises(ViewerError, match="expected an endpoint like"):
        control_beside(endpoint)
    assert main(["view", endpoint, "--no-browser"]) == 3


def test_numbers_that_are_none_are_refused(capsys):
    for arguments in (["--port", "70000"], ["--history-mb", "0"], ["--port", "x"]):
        with pytest.raises(SystemExit) as ended:
            main(["view", *arguments])
        assert ended.value.code == 2
    assert main(["view", "--napari", "--keys", "nowhere"]) != 0
