import logging

import pytest

from live_restore import log_limit as log_limit_module
from live_restore.log_format import LineFormatter
from live_restore.log_limit import RepeatLimit


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(log_limit_module.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log():
    logger = logging.Logger("test", logging.DEBUG)
    handler = Lines()
    handler.addFilter(RepeatLimit(most=3, every_s=10.0))
    logger.addHandler(handler)
    return logger, handler.lines


def test_of_one_kind_a_few_lines_pass_and_their_number_is_told_later(log, clock):
    logger, lines = log
    for number in range(100):
        logger.warning("volume %d: skipped", number)
    logger.warning("another")
    assert lines == [f"volume {n}: skipped" for n in range(3)] + ["another"]
    clock[0] = 11.0
    logger.info("heartbeat")
    assert lines[-1].startswith("(97 lines aren't shown: at most 3 of one kind are, within 10 s)")
    assert lines[-1].endswith(" heartbeat")
    logger.warning("volume %d: skipped", 100)
    assert lines[-1] == "volume 100: skipped"


def test_lines_for_debugging_pass(log, clock):
    logger, lines = log
    for _ in range(100):
        logger.debug("a plane")
    assert len(lines) == 100


def test_any_number_of_kinds_is_remembered_up_to_a_bound(log, clock):
    logger, lines = log
    for number in range(5000):
        logger.warning(f"kind {number}")
    assert len(lines) == 5000
    (limit,) = logger.handlers[0].filters
    assert len(limit._kinds) <= 1000


@pytest.mark.parametrize(
    "name", ["a\x1b[31mb", "a\r12:00:00 ERROR b", "a\n12:00:00 ERROR b", "a\u2028b"]
)
def test_names_of_others_neither_steer_a_terminal_nor_look_like_messages(name):
    record = logging.LogRecord("x", logging.WARNING, "", 0, "%s: skipped", (name,), None)
    first, *others = LineFormatter().format(record).split("\n")
    assert first.endswith(": skipped") or others[-1].endswith(": skipped")
    assert all(one.isprintable() for one in [first, *others])
    assert all(one.startswith("    ") for one in others)
