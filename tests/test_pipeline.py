import threading
import time

import pytest

from live_restore.pipeline import QueueClosedError, Stage, VolumeQueue


def queue_of(order, capacity=10, passed_over=None):
    return VolumeQueue(capacity, order, lambda item: 5, passed_over)


def test_strict_gives_items_in_order():
    queue = queue_of("strict")
    queue.put("a")
    queue.put("b")
    queue.close()
    assert list(queue) == ["a", "b"]


def test_live_gives_the_newest_first_and_the_rest_in_order_afterwards():
    queue = queue_of("live", 100)
    for item in "abcd":
        queue.put(item)
    queue.close()
    assert list(queue) == ["d", "a", "b", "c"]


def test_live_takes_turns_between_streams_and_never_starves_one():
    queue = VolumeQueue(100, "live", lambda item: 5, stream=lambda item: item[0])
    for item in ("A0", "B0", "A1", "B1", "C0"):
        queue.put(item)
    taking = iter(queue)
    assert [next(taking) for _ in range(2)] == ["A1", "B1"]
    queue.put("A2")
    queue.close()
    assert list(taking) == ["C0", "A2", "A0", "B0"]


def test_what_is_not_live_goes_when_nothing_else_waits_and_in_order():
    queue = queue_of("live", 100)
    queue.put("old 1", is_live=False)
    queue.put("a")
    queue.put("old 2", is_live=False)
    queue.put("b")
    queue.close()
    assert list(queue) == ["b", "old 1", "a", "old 2"]


def test_live_passes_over_the_oldest_when_full():
    passed_over = []
    queue = queue_of("live", 10, passed_over.append)
    for item in "abcd":
        queue.put(item)
    assert passed_over == ["a", "b"]
    queue.close()
    assert list(queue) == ["d", "c"]


class Disk:
    """Takes so many items; each is then of no size in memory."""

    def __init__(self, room):
        self.room = room

    def take(self, item):
        if self.room:
            self.room -= 1
            return f"({item})"
        return None


def queue_with_disk(order, room, passed_over):
    disk = Disk(room)

    def pass_over(item):
        passed_over.append(item)
        disk.room += item.startswith("(")

    def nbytes(item):
        return 0 if item.startswith("(") else 5

    return VolumeQueue(10, order, nbytes, pass_over, to_disk=disk.take)


@pytest.mark.parametrize(
    ("order", "expected"),
    [("live", ["e", "(a)", "(b)", "(c)", "d"]), ("strict", ["a", "(b)", "(c)", "(d)", "e"])],
)
def test_what_does_not_fit_in_memory_waits_on_disk_in_its_turn(order, expected):
    passed_over = []
    queue = queue_with_disk(order, 9, passed_over)
    for item in "abcde":
        queue.put(item)
    queue.close()
    assert list(queue) == expected
    assert passed_over == []


def test_when_disk_is_full_too_the_oldest_is_passed_over_even_from_disk():
    passed_over = []
    queue = queue_with_disk("live", 2, passed_over)
    for item in "abcdefg":
        queue.put(item)
    assert passed_over == ["(a)", "(b)", "(c)"]
    queue.close()
    assert list(queue) == ["g", "(d)", "(e)", "f"]


@pytest.mark.parametrize("order", ["strict", "live"])
def test_an_item_larger_than_the_queue_passes_when_it_is_empty(order):
    queue = VolumeQueue(1, order, lambda item: 100)
    queue.put("a")
    queue.close()
    assert list(queue) == ["a"]


def test_strict_makes_the_producer_wait_until_there_is_room():
    queue = queue_of("strict", 5)
    queue.put("a")
    done = threading.Event()
    producer = threading.Thread(target=lambda: (queue.put("b"), done.set()))
    producer.start()
    assert not done.wait(0.05)
    taking = iter(queue)
    assert next(taking) == "a"
    producer.join(5)
    assert done.is_set()
    assert next(taking) == "b"


def test_live_makes_the_producer_wait_when_nothing_may_be_passed_over():
    queue = VolumeQueue(5, "live", lambda item: 5, None)
    queue.put("a")
    done = threading.Event()
    producer = threading.Thread(target=lambda: (queue.put("b"), done.set()))
    producer.start()
    assert not done.wait(0.05)
    assert next(iter(queue)) == "a"
    producer.join(5)
    assert done.is_set()


def test_closing_wakes_a_waiting_producer():
    queue = queue_of("strict", 5)
    queue.put("a")
    seen = []

    def produce():
        try:
            queue.put("b")
        except QueueClosedError:
            seen.append("closed")

    producer = threading.Thread(target=produce)
    producer.start()
    assert queue.clear() == ["a"]
    producer.join(5)
    assert seen == ["closed"]


def run_stage(items, work, max_failures=3, num_workers=1):
    queue = queue_of("strict", 1000)
    failures, ends = [], []
    for item in items:
        queue.put(item)
    queue.close()
    stage = Stage(
        "s",
        queue,
        work,
        lambda i, e: failures.append((i, str(e))),
        lambda: ends.append(1),
        max_failures,
        num_workers,
    )
    stage.start()
    stage.join(30)
    return stage, failures, ends


def test_one_bad_item_does_not_end_a_stage():
    done = []

    def work(item):
        if item == "bad":
            raise ValueError("no")
        done.append(item)

    stage, failures, ends = run_stage(["a", "bad", "b"], work)
    assert done == ["a", "b"]
    assert failures == [("bad", "no")]
    assert stage.error is None
    assert ends == [1]


def test_several_failures_in_a_row_end_a_stage():
    stage, failures, ends = run_stage("abcde", lambda item: 1 / 0)
    assert len(failures) == 3
    assert isinstance(stage.error, ZeroDivisionError)
    assert ends == [1]


def test_failures_that_are_not_in_a_row_do_not_end_a_stage():
    def work(item):
        if item == "x":
            raise ValueError

    stage, failures, _ = run_stage("xxaxxaxx", work)
    assert len(failures) == 6
    assert stage.error is None


# --- several workers ---


def test_results_of_several_workers_are_dealt_with_in_order():
    done, together, most = [], threading.Barrier(3), []

    def work(item):
        together.wait(20)  # three at once, or never
        time.sleep(0.05 * (3 - item % 3))  # the first takes longest
        most.append(item)
        return lambda: done.append((item, threading.current_thread().name))

    stage, failures, ends = run_stage(range(9), work, num_workers=3)
    assert [item for item, _ in done] == list(range(9))
    assert most != list(range(9))
    assert {name for _, name in done} == {"s", "s 2", "s 3"}
    assert not failures
    assert ends == [1]
    assert stage.error is None


def test_failures_of_several_workers_are_told_of_in_order():
    told = []

    def work(item):
        time.sleep(0.02 * (3 - item % 3))
        if item % 2:
            raise ValueError(item)
        return lambda: told.append(item)

    queue = VolumeQueue(1000, "strict", lambda item: 1)
    for item in range(8):
        queue.put(item)
    queue.close()
    stage = Stage(
        "test", queue, work, lambda item, error: told.append(-item), lambda: None, 2, num_workers=3
    )
    stage.start()
    stage.join(20)
    assert told == [0, -1, 2, -3, 4, -5, 6, -7]
    assert stage.error is None


def test_a_stage_that_dies_ends_all_its_workers_though_nothing_more_comes():
    queue = VolumeQueue(1000, "strict", lambda item: 1)
    ends = []
    stage = Stage(
        "test", queue, lambda item: 1 / 0, lambda *_: None, lambda: ends.append(1), 2, num_workers=4
    )
    stage.start()
    queue.put("a")
    queue.put("b")
    stage.join(20)
    assert not stage.is_alive()
    assert isinstance(stage.error, ZeroDivisionError)
    assert ends == [1]
    with pytest.raises(QueueClosedError):
        queue.put("c")


def test_a_consumer_with_nothing_to_take_does_what_it_is_nudged_to():
    did, left = [], [2]

    def idle():
        did.append(threading.current_thread().name)
        left[0] -= 1
        return left[0] > 0

    queue = VolumeQueue(100, "live", lambda item: 1, when_idle=idle)
    taken = []
    reader = threading.Thread(target=lambda: taken.extend(queue), name="reader")
    reader.start()
    queue.nudge()
    deadline = time.monotonic() + 20
    while len(did) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    queue.put("a")
    queue.close()
    reader.join(20)
    assert did == ["reader", "reader"]
    assert taken == ["a"]


def test_what_waits_goes_before_idle_work():
    did = []
    queue = VolumeQueue(100, "live", lambda item: 1, when_idle=lambda: did.append(1))
    queue.nudge()
    queue.put("a")
    items = iter(queue)
    assert next(items) == "a"
    queue.close()
    assert list(items) == []
    assert did == []


def test_an_item_that_does_not_wait_is_taken_beyond_the_bound():
    queue = queue_of("strict")
    queue.put("123456789")
    queue.put("abc", waits=False)
    queue.close()
    assert list(queue) == ["123456789", "abc"]


def test_a_stage_says_why_it_ends_when_telling_of_a_failure_fails(caplog):
    queue = queue_of("strict")
    queue.put("a")

    def fail(*_):
        raise OSError("the ledger is gone")

    stage = Stage("cook", queue, fail, fail, lambda: None)
    stage.start()
    stage.join()
    assert isinstance(stage.error, OSError)
    assert "the ledger is gone" in caplog.text
