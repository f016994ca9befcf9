"""Work recorded on a GPU: what a recording that fails leaves behind, and recordings at the same time."""

import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from live_restore.restore.graphs import Recorder
from live_restore.restore.operators import TorchOperators
from live_restore.restore.sweep import PreparedNetwork, Sweep
from tests.test_sweep import CPU, image, network, reference

SHAPE = (6, 11, 10)


class Recording:
    """In place of `torch.cuda.graph`: what is done within isn't executed, one at a time, and may fail."""

    error = None
    at_work = 0
    made: ClassVar[list] = []

    def __init__(self, graph, stream=None, capture_error_mode="global"):
        self.made.append((stream, capture_error_mode))

    def __enter__(self):
        type(self).at_work += 1
        time.sleep(0.05)
        if self.at_work > 1:
            raise RuntimeError("another recording is under way")

    def __exit__(self, *_):
        type(self).at_work -= 1
        if self.error is not None:
            raise self.error


class Graph:
    def replay(self):
        pass


class IdleOperators(TorchOperators):
    """Launch nothing while something is recorded."""

    def conv(self, *arguments):
        if not Recording.at_work:
            super().conv(*arguments)

    def conv_relu(self, *arguments):
        return bool(Recording.at_work) or super().conv_relu(*arguments)

    def conv_add(self, *arguments):
        if not Recording.at_work:
            super().conv_add(*arguments)


@pytest.fixture
def recording(monkeypatch):
    """A GPU that records, as far as a recorder sees of it."""
    monkeypatch.setattr(torch.cuda, "graph", Recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: SimpleNamespace(device=device))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    for name in ("device", "stream"):
        monkeypatch.setattr(torch.cuda, name, lambda _: nullcontext())
    monkeypatch.setattr(Recording, "error", None)
    monkeypatch.setattr(Recording, "at_work", 0)
    monkeypatch.setattr(Recording, "made", [])
    return Recording


def test_a_volume_whose_recording_fails_is_restored_all_the_same(recording, caplog):
    recording.error = RuntimeError("operation not permitted when stream is capturing")
    operators = IdleOperators(CPU, torch.float32)
    sweep = Sweep(PreparedNetwork(network("two groups"), operators, operators), SHAPE)
    sweep._recorder = Recorder(CPU)
    for seed in range(4):
        volume = image(SHAPE, seed)
        sweep.begin()
        sweep.put(0, volume)
        sweep.complete()
        wanted = reference("two groups", volume)
        assert (sweep.output - wanted).abs().max() < 1e-5 * wanted.abs().max()
    assert len(recording.made) == 1
    assert "launched singly: operation not permitted" in caplog.text


def test_two_gpus_record_one_after_the_other_each_on_its_own(recording, caplog):
    devices = [torch.device("cuda", number) for number in range(2)]

    def record(device):
        recorder = Recorder(device)
        for _ in range(3):
            recorder.run("work", lambda: None)

    threads = [threading.Thread(target=record, args=(one,)) for one in devices]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(stream.device.index for stream, _ in recording.made) == [0, 1]
    assert {mode for _, mode in recording.made} == {"thread_local"}
    assert caplog.text == ""


# --- on a GPU ---


def on_gpu(operators, seeds):
    """The largest error of volumes that go one after the other through one sweep, relative."""
    outer = TorchOperators(operators.device, torch.float32)
    sweep = Sweep(PreparedNetwork(network("two groups"), operators, outer), SHAPE)
    errors = []
    for seed in seeds:
        volume = image(SHAPE, seed)
        sweep.begin()
        sweep.put(0, volume)
        sweep.complete()
        wanted = reference("two groups", volume)
        errors.append(float((sweep.output.cpu() - wanted).abs().max() / wanted.abs().max()))
    return max(errors), sweep


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device("cuda", torch.cuda.device_count() - 1)  # not the first, where there are two


@pytest.mark.gpu
def test_what_was_recorded_is_replayed_on_its_gpu(gpu, caplog):
    error, sweep = on_gpu(TorchOperators(gpu, torch.float32), range(4))
    assert error < 1e-4
    assert all(graph is not None for graph in sweep._recorder._graphs.values())
    assert len(sweep._recorder._graphs) == 1
    assert caplog.text == ""


@pytest.mark.gpu
def test_other_threads_work_on_the_gpu_while_it_records(gpu, caplog):
    is_over = threading.Event()
    found = []

    def work():
        while not is_over.is_set():
            size = 2**18 * (1 + len(found) % 64)  # larger ones ask for memory
            found.append(float(torch.ones(size, device=gpu).mean()))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        errors = [on_gpu(TorchOperators(gpu, torch.float32), range(3))[0] for _ in range(10)]
    finally:
        is_over.set()
        thread.join()
    assert max(errors) < 1e-4
    assert set(found) == {1.0}
    assert "no CUDA graph" not in caplog.text


@pytest.mark.gpu
def test_after_a_recording_that_failed_the_gpu_works_on(gpu, caplog):
    class Waiting(TorchOperators):
        def conv_add(self, x, conv, into):
            super().conv_add(x, conv, into)
            torch.cuda.current_stream(gpu).synchronize()  # which can't be recorded

    before = torch.cuda.current_stream(gpu)
    error, _ = on_gpu(Waiting(gpu, torch.float32), range(4))
    assert error < 1e-4
    assert "no CUDA graph can be recorded" in caplog.text
    assert torch.cuda.current_stream(gpu) == before
