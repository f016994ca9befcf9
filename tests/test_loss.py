"""A device that is lost: opened anew, replaced by the processor where the profile allows, or left to the next process."""

import pytest
import torch

from live_restore import reloading
from live_restore import service as service_module
from live_restore.errors import DeviceLostError, RestoreError
from live_restore.profile import parse_profile
from live_restore.restore.loss import is_loss, lacks_memory, telling_of_loss
from live_restore.restore.restorer import RcanRestorer
from live_restore.service import Service
from live_restore.volume import Restored, Skipped
from tests.test_service import Collector, FakeRestorer

LOST = "CUDA error: unspecified launch failure\nCUDA kernel errors might be reported later"
PROFILE = """
[source]
kind = "simulated"
shape_zyx = [4, 24, 24]
num_times = 3
interval_s = 0.0
exposure_ms = 0.0
channels = ["nuclei"]
[model]
device = "{device}"
[queue]
order = "strict"
"""


SCARCE = [
    torch.OutOfMemoryError("CUDA out of memory. CUDA error: out of memory"),
    RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:115] data. DefaultCPUAllocator: not enough memory"
    ),
    MemoryError(),
]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError(LOST), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling"), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear"), False),
        *((error, False) for error in SCARCE),
        (RuntimeError("shape mismatch"), False),
        (ValueError("CUDA error"), False),
        (RestoreError("not finite"), False),
    ],
)
def test_a_loss_is_told_from_other_errors(error, expected):
    assert is_loss(error) is expected
    with pytest.raises(DeviceLostError if expected else type(error)), telling_of_loss():
        raise error


def test_pytorchs_own_error_of_a_device_is_a_loss():
    if not hasattr(torch, "AcceleratorError"):
        pytest.skip("older than PyTorch 2.8")
    assert is_loss(torch.AcceleratorError("device-side assert"))
    scarce = torch.AcceleratorError("CUDA error: out of memory")
    assert lacks_memory(scarce)
    assert not is_loss(scarce)


def test_a_device_that_is_lost_while_the_model_loads_is_told_of(tiny_model, monkeypatch):
    """In one line, as whatever else keeps a service from starting."""

    def fail(self):
        raise RuntimeError(LOST)

    monkeypatch.setattr(RcanRestorer, "_certify", fail)
    said = r"doesn't answer any more \(CUDA error: unspecified launch failure\)"
    with pytest.raises(DeviceLostError, match=said):
        RcanRestorer(tiny_model, "cpu").__enter__()


@pytest.mark.parametrize("error", SCARCE, ids=str)
def test_a_lack_of_memory_is_told_from_other_errors(error):
    assert lacks_memory(error)
    for other in (RuntimeError(LOST), RuntimeError("shape mismatch"), OSError("out of memory")):
        assert not lacks_memory(other)


def test_pytorchs_lack_of_memory_on_the_processor_is_one():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50, dtype=torch.uint8)
    assert lacks_memory(caught.value)


def lost(_=None):
    raise RuntimeError(LOST)


def run(monkeypatch, tmp_path, device, restorers):
    """A service whose restorers are these, in the order in which they are opened; what its sink got."""
    opened = []

    def open_restorer(settings, *_):
        opened.append(settings.device)
        one = restorers[min(len(opened), len(restorers)) - 1]
        if isinstance(one, Exception):
            raise one
        return one

    monkeypatch.setattr(reloading, "open_restorer", open_restorer)
    sink = Collector()
    monkeypatch.setattr(service_module, "open_sinks", lambda *_: {"sink": sink})
    profile = parse_profile(PROFILE.format(device=device), tmp_path / "p.toml")
    service = Service(profile)
    return service.run(), service, sink, opened


def loses_at(number):
    """A restorer whose device is lost at a volume, and stays lost."""
    seen = []

    def before(volume):
        seen.append(volume)
        if len(seen) >= number:
            lost()

    return FakeRestorer(before)


def test_a_device_that_comes_back_loses_no_volume(monkeypatch, tmp_path, caplog):
    is_good, service, sink, opened = run(
        monkeypatch, tmp_path, "cuda", [loses_at(2), FakeRestorer()]
    )
    assert is_good
    assert service.counts["restored"] == 3
    assert [one.key.time for one in sink.of(Restored)] == [0, 1, 2]
    assert opened == ["cuda", "cuda"]
    assert "doesn't answer any more" in caplog.text


def test_the_processor_takes_its_place_where_the_profile_says_auto(monkeypatch, tmp_path, caplog):
    restorers = [loses_at(2), RuntimeError(LOST), FakeRestorer()]
    is_good, service, _, opened = run(monkeypatch, tmp_path, "auto", restorers)
    assert is_good
    assert service.counts["restored"] == 3
    assert opened == ["auto", "auto", "cpu"]
    assert "device cpu" in caplog.text


def test_the_processor_takes_its_place_where_it_comes_back_and_is_lost_again(monkeypatch, tmp_path):
    restorers = [loses_at(2), loses_at(1), FakeRestorer()]
    is_good, service, _, opened = run(monkeypatch, tmp_path, "auto", restorers)
    assert is_good
    assert service.counts["restored"] == 3
    assert opened == ["auto", "auto", "cpu"]


@pytest.mark.parametrize(
    "second", [RestoreError("device cuda: 0 GPUs found"), RuntimeError(LOST), loses_at(1)]
)
def test_otherwise_the_service_ends_at_once_and_no_volume_is_called_bad(
    monkeypatch, tmp_path, second
):
    is_good, service, sink, opened = run(monkeypatch, tmp_path, "cuda", [loses_at(2), second])
    assert not is_good  # exit code 1: the service manager starts it again
    assert service.counts["restored"] == 1
    assert opened == ["cuda", "cuda"]
    skipped = sink.of(Skipped)
    assert skipped
    assert not any(one.is_final for one in skipped)
    assert {one.cause for one in skipped} == {"stopped"}
