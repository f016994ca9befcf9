import threading

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


def test_live_gives_the_newest_first_and_the_rest_afterwards():
    queue = queue_of("live", 100)
    for item in "abc":
        queue.put(item)
    queue.close()
    assert list(queue) == ["c", "b", "a"]


def test_live_passes_over_the_oldest_when_full():
    passed_over = []
    queue = queue_of("live", 10, passed_over.append)
    for item in "abcd":
        queue.put(item)
    assert passed_over == ["a", "b"]
    queue.close()
    assert list(queue) == ["d", "c"]


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


def run_stage(items, work, max_failures=3):
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
    )
    stage.start()
    stage.join(5)
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
