"""Processes of ours beside this one."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from live_restore.sources.child import GONE, ChildProcess
from tests.conftest import wait_for


class Told:
    """What a child wrote of what happened to it."""

    def __init__(self, path):
        self.path = path

    def lines(self):
        return self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []

    def wait(self, line):
        wait_for(lambda: line in self.lines(), line)


@pytest.fixture
def told(tmp_path):
    return Told(tmp_path / "told")


@pytest.fixture(params=["", "1"], ids=["asks for words", "is called with words"])
def listens(request, monkeypatch):
    monkeypatch.setenv("LISTENS", request.param)
    return "heard" if request.param else "took"


@pytest.fixture
def child(told):
    one = ChildProcess("tests.obedient_child", {"out": str(told.path), "number": 5})
    yield one
    if one.is_alive:
        one.kill()


def has_ended(pid):
    """Whether a process that isn't our child any more is over, or a name without a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_orders_and_words_arrive_in_their_order(listens, child, told):
    for word in ("one", "two", 'quoted "three"', "vier äöü"):
        child.tell(word)
    child.tell("end")
    assert child.await_end(60)
    assert child.exit_code == 7
    assert not child.is_alive
    level = logging.getLogger().getEffectiveLevel()
    assert told.lines() == [
        f"ordered 5 at level {level}",
        f"{listens} one",
        f"{listens} two",
        f'{listens} quoted "three"',
        f"{listens} vier äöü",
        f"{listens} end",
        "ends",
    ]


def test_a_word_to_one_that_is_gone_is_not_heard_and_no_error(child):
    child.kill()
    child.tell("anybody there")
    assert not child.is_alive
    assert child.exit_code == -signal.SIGKILL


def test_one_that_died_by_itself_is_no_error_to_talk_to(child, told):
    wait_for(told.lines, "the child")
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: not child.is_alive, "its end")
    child.tell("anybody there")
    assert child.await_end(0)


def test_one_that_hangs_does_not_end_and_is_killed(monkeypatch, told):
    monkeypatch.setenv("LISTENS", "1")
    child = ChildProcess("tests.obedient_child", {"out": str(told.path), "number": 5})
    child.tell("hang")
    told.wait("heard hang")
    child.tell("end")
    assert not child.await_end(0.2)
    assert child.is_alive
    child.kill()
    assert not child.is_alive


def test_one_that_is_stopped_is_killed_too(child, told):
    wait_for(told.lines, "the child")
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    assert child.exit_code == -signal.SIGKILL


def test_one_that_is_left_hears_that_it_is_alone_and_goes_on_to_its_end(listens, child, told):
    wait_for(told.lines, "the child")
    assert not child.is_left
    child.leave()
    assert child.is_left
    told.wait(f"{listens} {GONE}")
    told.wait("ends")
    wait_for(lambda: has_ended(child.pid), "its end")


PARENT = (
    "import json, signal, sys, time\n"
    # Where the tests run in the background, interrupts are ignored from birth.
    "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "from live_restore.sources.child import ChildProcess\n"
    "child = ChildProcess('tests.obedient_child', json.loads(sys.argv[1]))\n"
    "child.tell('hello')\n"
    "print(child.pid, flush=True)\n"
    "time.sleep(600)\n"
)


@pytest.fixture
def parent(told):
    """A process with a child, in a group of its own as a terminal's; and the child's number."""
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps({"out": str(told.path), "number": 6})],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )
    pid = int(process.stdout.readline())
    yield process, pid
    process.kill()
    process.communicate()
    wait_for(lambda: has_ended(pid), "the grandchild's end")


def test_a_parent_that_is_killed_is_noticed(listens, parent, told):
    process, pid = parent
    told.wait(f"{listens} hello")
    process.kill()
    told.wait(f"{listens} {GONE}")
    told.wait("ends")
    wait_for(lambda: has_ended(pid), "its end")


def test_ctrl_c_at_the_terminal_does_not_hit_it(parent, told):
    """Ctrl-C goes to all processes of the terminal's group."""
    process, _ = parent
    told.wait("took hello")
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    # It wasn't hit itself: it hears of the parent's end and comes to its own.
    told.wait(f"took {GONE}")
    told.wait("ends")


def test_even_an_interrupt_sent_to_it_alone_does_not_end_it(child, told):
    wait_for(told.lines, "the child")
    os.kill(child.pid, signal.SIGINT)
    child.tell("still there")
    told.wait("took still there")
    child.tell("end")
    assert child.await_end(60)
    assert child.exit_code == 7
