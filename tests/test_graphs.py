"""Work recorded on a GPU: what a recording that fails leaves behind."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

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
    made = []

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
